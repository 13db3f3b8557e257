"""The leaderboards in the terminal, at the end of a benchmark."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mvp_bench.leaderboard.columns import CONDITION, CONTESTANT
from mvp_bench.leaderboard.labels import condition_label, entry_labels, metric_label, task_label
from mvp_bench.leaderboard.overall import ALL_TASKS, ranking_rows
from mvp_bench.leaderboard.statistics import BETTER
from mvp_bench.leaderboard.view import Leaderboards
from mvp_bench.progress import console as default_console

_CONDITION = list(CONDITION)
_ENTRY = list(CONTESTANT)
_METHODS_ON_ONE_LINE = 4  # with more, intervals stand below the means, so that the table fits a terminal


def print_leaderboards(leaderboards: Leaderboards, console: Console = default_console) -> None:
    """Print, for each condition, a table task x method (mean and interval), the mean ranks, and what did not finish.

    The best method of a task is in bold only where it is called better than scratch.
    """
    rows = ranking_rows(leaderboards.segmentation, leaderboards.classification)
    if rows.empty:
        console.print("No finished cells yet.")
    for condition, group in rows.groupby(_CONDITION, sort=True):
        overall = leaderboards.overall[leaderboards.overall["task"] == ALL_TASKS]
        same = (overall[_CONDITION] == pd.Series(condition, index=_CONDITION)).all(axis=1)
        condition_text = condition_label(*group[_CONDITION].iloc[0])
        title = f"Mean with {100 * leaderboards.confidence:g} % interval over patients ({condition_text})"
        console.print(_table(group, overall[same], title))
    _print_open(leaderboards, console)
    _print_superseded(leaderboards, console)


def _table(rows: pd.DataFrame, overall: pd.DataFrame, title: str) -> Table:
    rows = rows.assign(label=entry_labels(rows))
    methods = rows[["method", "label", *_ENTRY[1:]]].drop_duplicates("label")
    leaky = (rows["leak_percent"] > 0).any()
    caption = "leak: test patients who were in the pre-training data" if leaky else None
    table = Table(title=escape(title), title_justify="left", caption=caption, caption_justify="left")
    between = " " if len(methods) <= _METHODS_ON_ONE_LINE else "\n"
    table.add_column("task", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for label in methods["label"]:
        table.add_column(escape(label))
    rows = rows.sort_values(["kind", "task"], ascending=[False, True], kind="stable")  # segmentation first
    for _, task in rows.groupby(["kind", "task", "dataset_key", "splits_key"], sort=False):
        first = task.iloc[0]
        by_label = {row["label"]: row for row in task.to_dict("records")}
        cells = [_cell(by_label.get(label), between) for label in methods["label"]]
        table.add_row(escape(task_label(first["task"])), metric_label(first["metric"]), *cells)
    table.add_section()
    merged = methods.merge(overall, on=_ENTRY, how="left")
    ranks = [
        "-" if np.isnan(rank) else f"{rank:.2f}{between}({n:.0f} task{'s' * (n != 1)})"
        for rank, n in zip(merged["mean_rank"], merged["n_tasks"], strict=True)
    ]
    table.add_row("all tasks", "mean rank", *ranks)
    return table


def _cell(row: dict[Hashable, Any] | None, between: str) -> str:
    if row is None:
        return "-"
    if np.isnan(row["mean"]):
        return "[red]no result[/]"
    text = f"{row['mean']:.3f}"
    if not np.isnan(row["ci_low"]):
        text += between + escape(f"[{row['ci_low']:.2f}, {row['ci_high']:.2f}]")
    if row["leak_percent"] > 0:
        text += f"{between}leak {row['leak_percent']:.0f} %"
    return f"[bold]{text}[/]" if row["rank"] == 1 and row["verdict"] == BETTER else text


def _print_open(leaderboards: Leaderboards, console: Console) -> None:
    if not leaderboards.open_cells:
        return
    count = len(leaderboards.open_cells)
    table = Table(title=f"{count} cell{'s' * (count != 1)} without a result", title_justify="left")
    for name in ("task", "method", "cell", "status", "why"):
        table.add_column(name, overflow="fold")
    for cell in leaderboards.open_cells:
        why = f"{cell.error_type}: {cell.error}" if cell.error_type else cell.error
        table.add_row(*(escape(text) for text in (task_label(cell.task), cell.method, cell.cell_id, cell.status, why)))
    console.print(table)


def _print_superseded(leaderboards: Leaderboards, console: Console) -> None:
    """Print in one line how many cells are not of today, by their first reason."""
    if not leaderboards.superseded:
        return
    count = len(leaderboards.superseded)
    counts = Counter(cell.error_type for cell in leaderboards.superseded)
    reasons = ", ".join(f"{number} {reason}" for reason, number in sorted(counts.items()))
    console.print(
        f"{count} superseded cell{'s' * (count != 1)} left out ({reasons}); cost.csv lists them with the reason",
        highlight=False,
        markup=False,
    )
