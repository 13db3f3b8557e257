"""Dice of regions.

Empty masks follow nnU-Net: where reference and prediction are both empty the score is *undefined* (NaN, an empty field
in CSV): it is left out of means and counted; where only the reference is empty, any predicted voxel gives 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from mvp_bench.metrics.estimators import Estimator, MeanOverCases
from mvp_bench.metrics.masks import LabelPair
from mvp_bench.metrics.registry import Column, Metric, metric


def dice_score(overlap: int, reference_voxels: int, predicted_voxels: int) -> float:
    """2 |A and B| / (|A| + |B|); NaN where both masks are empty."""
    total = reference_voxels + predicted_voxels
    return 2 * overlap / total if total else float("nan")


@metric
class Dice(Metric):
    """Mean over cases per region, and the mean of these."""

    name = "dice"
    label = "mean Dice"
    summary = "overlap of the predicted region with the reference"
    kinds = ("segmentation",)
    adds = (
        Column("dice", 0, 1, empty=True),
        Column("reference_voxels", 0, whole=True),
        Column("predicted_voxels", 0, whole=True),
    )
    needs = ("dice", "reference_voxels", "predicted_voxels")
    ranks = True
    by_target = True

    def of_masks(self, pair: LabelPair, values: Sequence[int]) -> dict[str, float]:
        """The score, in [0, 1] or NaN, and the voxels of both masks."""
        both, reference, predicted = pair.voxels(values)
        score = dice_score(both, reference, predicted)
        return {"dice": score, "reference_voxels": reference, "predicted_voxels": predicted}

    def of_table(self, rows: pd.DataFrame, targets: Sequence[str]) -> dict[str, float | None]:
        """``dice/region:R`` per region, and ``dice``, the mean of these.

        Beside them ``n_empty_reference/region:R``, the cases whose reference is empty, and ``n_undefined/region:R``,
        those whose prediction is empty too.
        """
        by_target = rows.groupby("target", sort=False)
        means = by_target["dice"].mean().reindex(list(targets))  # skips NaN
        values: dict[str, float | None] = {"dice": _defined(means.mean())}
        values |= {f"dice/region:{target}": _defined(mean) for target, mean in means.items()}
        for target, group in by_target:
            values[f"n_empty_reference/region:{target}"] = int((group["reference_voxels"] == 0).sum())
            values[f"n_undefined/region:{target}"] = int(group["dice"].isna().sum())
        return values

    def estimator(self, rows: pd.DataFrame, targets: Sequence[str]) -> Estimator:
        """See :class:`mvp_bench.metrics.estimators.MeanOverCases`."""
        return MeanOverCases(rows, "dice", targets)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
