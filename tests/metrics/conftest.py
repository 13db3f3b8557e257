"""An empty workspace and the means to fill it with cells."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvp_bench.workspace import Workspace
from tests.made_cells import CellFactory


@pytest.fixture
def cells(tmp_path: Path) -> CellFactory:
    return CellFactory(Workspace(tmp_path))
