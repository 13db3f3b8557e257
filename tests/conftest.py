from __future__ import annotations

from pathlib import Path

import pytest

from mvp_bench.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace, with nnU-Net's paths pointing into it."""
    return Workspace(tmp_path / "root").open()
