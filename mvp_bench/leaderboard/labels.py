"""Names for people: short, and longer only where the short one would be ambiguous."""

from __future__ import annotations

import pandas as pd

from mvp_bench.metrics.registry import METRICS

_TELL_APART = (
    *("encoder", "schedule", "stem", "filled", "device", "precision", "threads", "plan_key", "arrays_key"),
    *("comparison_key", "recipe_key", "encoder_key", "weights"),
)


def metric_label(name: str) -> str:
    """A metric's name for people."""
    return METRICS[name].label


def entry_labels(rows: pd.DataFrame) -> pd.Series:
    """The method of each row; its encoder, stem rule, and plan and settings are added where rows differ in them only.

    Args:
        rows: leaderboard rows of one condition; one column ``task``, unique per task and entry.
    """
    labels = rows["method"].astype(str)
    for extra in _TELL_APART:
        if extra not in rows:
            continue
        values = rows[extra].astype(str)
        same = [rows[name] for name in ("task", "dataset_key", "splits_key") if name in rows]
        # What differs between tasks only (segmentation and classification have other settings) tells no rows apart.
        varied = values.groupby([*same, labels]).transform("nunique")
        # All rows of such a name, so that a method is called the same on every task.
        named = labels.isin(labels[varied > 1])
        labels = labels.where(~named, labels + " " + values.str.slice(0, 12))
    return labels


def condition_label(source: str, profile: str, mode: str, label_budget: float) -> str:
    """``phantom data, profile mini``, say (mode and label budget only where they are not the usual)."""
    text = f"{source} data, profile {profile}"
    if mode != "finetune":
        text += f", {mode}"
    if label_budget != 1:
        text += f", {100 * label_budget:g} % of the labels"
    return text


def task_label(task: str) -> str:
    """``Dataset501_BraTS2023-PED`` -> ``501 BraTS2023-PED``."""
    number, _, name = task.removeprefix("Dataset").partition("_")
    return f"{number} {name}" if name and number.isdigit() else task


def seeds_label(low: int, high: int) -> str:
    """``1 seed``, ``3 seeds``, ``1-3 seeds``."""
    count = str(low) if low == high else f"{low}-{high}"
    return f"{count} seed{'' if high == 1 else 's'}"
