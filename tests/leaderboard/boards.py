"""Tables of made-up cells, and how to look into them."""

from __future__ import annotations

import pandas as pd

from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.leaderboard.reading import Current, read_cells
from mvp_bench.leaderboard.render.files import write_leaderboards
from mvp_bench.leaderboard.tables import build_leaderboards
from mvp_bench.leaderboard.view import Leaderboards
from tests.made_cells import CellFactory

CONFIG = StatisticsConfig(bootstrap_samples=300)
PED, ISLES, BRATS18, ADNI = (
    "Dataset501_BraTS2023-PED",
    "Dataset503_ISLES22",
    "Dataset511_BraTS2018",
    "Dataset512_ADNI",
)


def write(cells: CellFactory) -> Leaderboards:
    """All files of a workspace, written."""
    return write_leaderboards(cells.workspace, CONFIG, seed=0)


def build(cells: CellFactory, current: Current | None = None) -> Leaderboards:
    """The tables alone."""
    return build_leaderboards(read_cells(cells.workspace.cells, current), CONFIG, seed=0)


def pick(table: pd.DataFrame, **where: object) -> pd.Series:
    """The single row where columns have these values."""
    for name, value in where.items():
        table = table[table[name] == value]
    assert len(table) == 1, table
    return table.iloc[0]
