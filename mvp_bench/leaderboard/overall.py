"""Over all tasks: mean rank and mean difference to scratch."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mvp_bench.leaderboard.estimators import MEAN
from mvp_bench.leaderboard.statistics import BETTER, WORSE

OVERALL_COLUMNS = (
    "task",
    "method",
    "encoder",
    "mode",
    "label_fraction",
    "stem",
    "mean_rank",
    "mean_difference_to_scratch",
    "n_tasks",
    "n_tasks_missing",
    "n_better",
    "n_worse",
    "n_cases",
    "n_seeds",
    "source",
    "profile",
)
ALL_TASKS = "all"
"""Value of ``task`` in rows over all tasks; the others are over those of one kind."""

_CONDITION = ["source", "profile", "mode", "label_fraction"]
_ENTRY = ["method", "encoder", "stem"]


def ranking_rows(segmentation: pd.DataFrame, classification: pd.DataFrame) -> pd.DataFrame:
    """The rows that rank (mean Dice; the ranking metric of classification tasks), with a column ``kind``."""
    dice = segmentation[segmentation["target"] == MEAN].assign(kind="segmentation")
    classes = classification[classification["ranking"] == "yes"].assign(kind="classification")
    parts = [part for part in (dice, classes) if len(part)]
    if not parts:
        return dice
    return pd.concat(parts, ignore_index=True)


def overall_table(segmentation: pd.DataFrame, classification: pd.DataFrame) -> pd.DataFrame:
    """One row per entry and group of tasks (all, segmentation, classification), best mean rank first.

    Real and phantom results, profiles, modes and label fractions are never put together. An entry that stands in a task
    more than once (several plans or settings) counts there with its mean.
    """
    ranked = ranking_rows(segmentation, classification)
    rows: list[dict[str, Any]] = []
    for condition, everything in ranked.groupby(_CONDITION, sort=True):
        kinds = ["segmentation", "classification"] if everything["kind"].nunique() > 1 else []
        for group in (ALL_TASKS, *kinds):
            tasks = everything if group == ALL_TASKS else everything[everything["kind"] == group]
            found = [
                _row(group, tuple(entry), table, tasks["task"].nunique()) for entry, table in tasks.groupby(_ENTRY)
            ]
            shared = dict(zip(_CONDITION, condition, strict=True))
            # Incomplete entries come last: a rank over fewer tasks is not the same thing.
            found.sort(key=lambda row: (row["n_tasks_missing"], row["mean_rank"], *(row[name] for name in _ENTRY)))
            rows += [row | shared for row in found]
    return pd.DataFrame(rows, columns=list(OVERALL_COLUMNS))


def _row(group: str, entry: tuple, table: pd.DataFrame, n_tasks: int) -> dict[str, Any]:
    scored = table[table["rank"].notna()]
    by_task = scored.groupby("task")[["rank", "difference_to_scratch"]].mean()
    return {
        "task": group,
        **dict(zip(_ENTRY, entry, strict=True)),
        "mean_rank": by_task["rank"].mean(),
        "mean_difference_to_scratch": by_task["difference_to_scratch"].mean(),
        "n_tasks": len(by_task),
        "n_tasks_missing": n_tasks - len(by_task),
        "n_better": int((scored["verdict"] == BETTER).sum()),
        "n_worse": int((scored["verdict"] == WORSE).sum()),
        "n_cases": int(scored.groupby("task")["n_cases"].max().sum()),
        "n_seeds": int(scored["n_seeds"].min()) if len(scored) else 0,
    }
