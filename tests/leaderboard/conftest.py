"""The factory of made-up cells, in a workspace or for one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mvp_bench.workspace import Workspace
from tests.made_cells import CellFactory
from tests.made_metric import file_volume_error, forget_volume_error


@pytest.fixture(scope="session")
def cells_in() -> Callable[..., CellFactory]:
    """Make a factory for a folder: ``cells_in(root, patients=12)``."""
    return lambda root, patients=12: CellFactory(Workspace(root), patients)


@pytest.fixture
def cells(tmp_path: Path) -> CellFactory:
    """An empty workspace and the means to fill it."""
    return CellFactory(Workspace(tmp_path))


@pytest.fixture
def volume_error() -> Iterator[str]:
    """The name of a metric that is filed for one test."""
    file_volume_error()
    yield "volume_error"
    forget_volume_error()
