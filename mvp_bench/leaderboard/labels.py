"""Names for people: short, and longer only where the short one would be ambiguous."""

from __future__ import annotations

import pandas as pd

METRIC_NAMES = {
    "dice": "mean Dice",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "f1": "macro F1",
}


def entry_labels(rows: pd.DataFrame) -> pd.Series:
    """The method of each row; its encoder, stem rule, and plan and settings are added where rows differ in them only.

    Args:
        rows: leaderboard rows of one condition; one column ``task``, unique per task and entry.
    """
    labels = rows["method"].astype(str)
    for extra in ("encoder", "stem", "plan_hash", "config_hash", "encoder_hash"):
        if extra not in rows:
            continue
        values = rows[extra].astype(str)
        ambiguous = pd.DataFrame({"task": rows["task"], "label": labels}).duplicated(keep=False)
        # What differs between tasks only (segmentation and classification have other settings) tells no rows apart.
        varied = values[ambiguous].groupby([rows["task"][ambiguous], labels[ambiguous]]).nunique()
        # All rows of such a name, so that a method is called the same on every task.
        named = labels.isin(varied.index[varied > 1].get_level_values(1))
        labels = labels.where(~named, labels + " " + values.str.slice(0, 12))
    return labels


def condition_label(source: str, profile: str, mode: str, label_fraction: float) -> str:
    """For example ``phantom data, profile mini`` (mode and label fraction only where they are not the usual)."""
    text = f"{source} data, profile {profile}"
    if mode != "full":
        text += f", {mode}"
    if label_fraction != 1:
        text += f", {100 * label_fraction:g} % of the labels"
    return text


def task_label(task: str) -> str:
    """``Dataset501_BraTS2023-PED`` -> ``501 BraTS2023-PED``."""
    number, _, name = task.removeprefix("Dataset").partition("_")
    return f"{number} {name}" if name and number.isdigit() else task


def seeds_label(low: int, high: int) -> str:
    """``1 seed``, ``3 seeds``, ``1-3 seeds``."""
    count = str(low) if low == high else f"{low}-{high}"
    return f"{count} seed{'' if high == 1 else 's'}"
