"""Over all tasks: mean rank and mean difference to scratch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from mvp_bench.leaderboard.columns import CONDITION, CONTESTANT, OVERALL_COLUMNS
from mvp_bench.leaderboard.statistics import BETTER, WORSE
from mvp_bench.metrics.estimators import MEAN

ALL_TASKS = "all"
"""Value of ``task`` in rows over all tasks; the others are over those of one kind."""
_DATA = ["dataset_key", "splits_key"]


def ranking_rows(segmentation: pd.DataFrame, classification: pd.DataFrame) -> pd.DataFrame:
    """The rows that rank (the ranking metric of each task, for segmentation its mean), with a column ``kind``."""
    by_region = segmentation[(segmentation["target"] == MEAN) & (segmentation["ranking"] == "yes")]
    by_metric = classification[classification["ranking"] == "yes"]
    parts = [by_region.assign(kind="segmentation"), by_metric.assign(kind="classification")]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled, ignore_index=True) if filled else parts[0]


def overall_table(segmentation: pd.DataFrame, classification: pd.DataFrame) -> pd.DataFrame:
    """One row per entry and group of tasks (all, segmentation, classification), best mean rank first.

    Real and phantom results, profiles, modes and label budgets are never put together. A task counts for an entry only
    where it has one row of it: what was made from several versions of the data, plans, settings or weights has no mean,
    and the note says so.
    """
    ranked = ranking_rows(segmentation, classification)
    rows: list[dict[str, Any]] = []
    for condition, everything in ranked.groupby(list(CONDITION), sort=True):
        kinds = ["segmentation", "classification"] if everything["kind"].nunique() > 1 else []
        shared = dict(zip(CONDITION, condition, strict=True))
        for group in (ALL_TASKS, *kinds):
            tasks = everything if group == ALL_TASKS else everything[everything["kind"] == group]
            divided = _divided(tasks)
            found = [
                _row(group, entry, table, tasks["task"].nunique(), divided)
                for entry, table in tasks.groupby(list(CONTESTANT))
            ]
            # Incomplete entries come last: a rank over fewer tasks is not the same thing.
            found.sort(key=lambda row: (row["n_tasks_missing"], row["mean_rank"], *(row[name] for name in CONTESTANT)))
            rows += [row | shared for row in found]
    return pd.DataFrame(rows, columns=list(OVERALL_COLUMNS))


def _divided(tasks: pd.DataFrame) -> frozenset[str]:
    """Tasks whose rows speak of several versions of the data or splits."""
    versions = tasks.drop_duplicates(["task", *_DATA]).groupby("task").size()
    return frozenset(versions.index[versions > 1])


def _row(
    group: str, entry: Iterable[Any], table: pd.DataFrame, n_tasks: int, divided: frozenset[str]
) -> dict[str, Any]:
    several = table.groupby("task").size()
    twice = frozenset(several.index[several > 1]) - divided
    scored = table[table["rank"].notna() & ~table["task"].isin(divided | twice)]
    notes = [f"{task} left out: results on several versions of its data" for task in sorted(divided)]
    notes += [f"{task} left out: several rows of one method" for task in sorted(twice)]
    return {
        "task": group,
        **dict(zip(CONTESTANT, entry, strict=True)),
        "mean_rank": scored["rank"].mean(),
        "mean_difference_to_scratch": scored["difference_to_scratch"].mean(),
        "n_tasks": len(scored),
        "n_tasks_missing": n_tasks - len(scored),
        "n_better": int((scored["verdict"] == BETTER).sum()),
        "n_worse": int((scored["verdict"] == WORSE).sum()),
        "n_cases": int(scored["n_cases"].sum()),
        "n_seeds": int(scored["n_seeds"].min()) if len(scored) else 0,
        "note": "; ".join(notes),
        "processor": _joined(table["processor"]),
    }


def _joined(values: Iterable[str]) -> str:
    return ";".join(sorted({part for value in values for part in str(value).split(";") if part}))
