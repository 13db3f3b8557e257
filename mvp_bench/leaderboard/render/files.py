"""``results/``: the tables as CSV and the picture, the same bytes whenever they are written again."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.io import atomic_path
from mvp_bench.leaderboard.reading import Current, read_cells
from mvp_bench.leaderboard.tables import build_leaderboards
from mvp_bench.leaderboard.view import Leaderboards
from mvp_bench.workspace import Workspace

FLOAT_FORMAT = "%.12g"
"""Twelve digits: more than anyone needs, and the last bits, which depend on the order of a sum, are gone."""
EXACT = ("per_case.csv",)
"""Raw scores keep every digit."""


def write_leaderboards(
    workspace: Workspace, statistics: StatisticsConfig, seed: int, current: Current | None = None
) -> Leaderboards:
    """Read all cells of a workspace and write every table and the figure into its ``results/``.

    Args:
        workspace: where ``results/cells`` lies.
        statistics: bootstrap size and level.
        seed: of the resampling; the same seed and cells give the same bytes.
        current: what is prepared now: cells of other data, splits or metrics are put aside.

    Returns:
        The tables, for :func:`mvp_bench.leaderboard.render.terminal.print_leaderboards`.
    """
    from mvp_bench.leaderboard.render.figure import leaderboard_figure  # matplotlib takes a second to import

    boards = build_leaderboards(read_cells(workspace.cells, current), statistics, seed)
    for name, table in boards.tables.items():
        _write(workspace.results / name, table, None if name in EXACT else FLOAT_FORMAT)
    leaderboard_figure(boards, workspace.results / "leaderboard.png")
    return boards


def _write(path: Path, table: pd.DataFrame, float_format: str | None) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8", float_format=float_format)
