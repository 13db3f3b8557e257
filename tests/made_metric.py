"""One metric as anybody might write it, whose low values are the better ones."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from mvp_bench.metrics.estimators import Estimator, MeanOverCases
from mvp_bench.metrics.masks import LabelPair
from mvp_bench.metrics.registry import METRICS, Column, Metric, metric


class VolumeError(Metric):
    """Relative difference of volumes."""

    name = "volume_error"
    label = "volume error"
    summary = "difference of volumes over the reference's"
    direction = "lower"
    kinds = ("segmentation",)
    adds = (Column("volume_error", 0, empty=True),)
    needs = ("volume_error",)
    by_target = True

    def of_masks(self, pair: LabelPair, values: Sequence[int]) -> dict[str, float]:
        _, reference, predicted = pair.voxels(values)
        return {"volume_error": abs(predicted - reference) / reference if reference else float("nan")}

    def of_table(self, rows: pd.DataFrame, targets: Sequence[str]) -> dict[str, float | None]:
        return {"volume_error": float(rows.groupby("target")["volume_error"].mean().mean())}

    def estimator(self, rows: pd.DataFrame, targets: Sequence[str]) -> Estimator:
        return MeanOverCases(rows, "volume_error", targets)


def file_volume_error() -> None:
    """File it, as a plug-in would."""
    metric(VolumeError)


def forget_volume_error() -> None:
    """Take it back, so that other tests do not see it."""
    del METRICS._entries[VolumeError.name], METRICS._summaries[VolumeError.name]
