"""Metrics as functions of how often each patient was drawn, for thousands of resamples at once.

A bootstrap resample of patients is a row of counts. Every metric is computed for a whole matrix of such rows by matrix
products; for the row of ones it equals the plain metric on the test set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]

MEAN = "mean"
"""Target name of the mean over regions; no region may bear it."""


class Estimator(Protocol):
    """One metric of one leaderboard entry on its test patients, in M parts (see ``Metric.parts``)."""

    patients: tuple[str, ...]
    """P test patients, sorted."""

    def estimate(self, weights: FloatArray) -> FloatArray:
        """(B, P) draws per patient -> (B, M) values; NaN where a resample leaves one undefined."""
        ...

    def patient_scores(self) -> FloatArray:
        """(P, M) mean score of each patient; NaN where a patient, or the metric, has no score of its own."""
        ...


class MeanOverCases:
    """A score that each case has for each target: values per target and their mean.

    Per case and target the runs and folds are averaged first; a target's value is the mean over cases; "mean" is that
    over the targets which are defined somewhere in the test set. Undefined scores (NaN) are left out.

    Args:
        rows: per-case rows of all runs of one entry: case, patient, target and the score.
        column: of the score.
        targets: in the order of the parts, which begin with "mean".
    """

    def __init__(self, rows: pd.DataFrame, column: str, targets: Sequence[str]) -> None:
        per_case = rows.groupby(["patient", "case", "target"])[column].mean()
        by_patient = per_case.groupby(level=["patient", "target"])
        sums = by_patient.sum().unstack("target").reindex(columns=list(targets)).sort_index()
        counts = by_patient.count().unstack("target").reindex(columns=list(targets)).sort_index()
        self.patients = tuple(str(patient) for patient in sums.index)
        self._sums = np.nan_to_num(sums.to_numpy(np.float64))
        self._counts = np.nan_to_num(counts.to_numpy(np.float64))
        self._defined = self._counts.sum(axis=0) > 0

    def estimate(self, weights: FloatArray) -> FloatArray:
        """(B, P) -> (B, 1 + targets)."""
        values = ratio(weights @ self._sums, weights @ self._counts)
        # A resample without any case of a target is dropped (NaN): a mean over fewer targets means something else.
        mean = values[:, self._defined].mean(axis=1) if self._defined.any() else np.full(len(weights), np.nan)
        return np.column_stack([mean, values])

    def patient_scores(self) -> FloatArray:
        """(P, 1 + targets)."""
        values = ratio(self._sums, self._counts)
        return np.column_stack([mean_defined(values, axis=1), values])


def mean_defined(values: FloatArray, axis: int) -> FloatArray:
    """Mean over the entries that are not NaN; NaN (without a warning) where there is none."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis))


def ratio(numerator: npt.NDArray, denominator: npt.NDArray) -> FloatArray:
    """Quotient; NaN where the denominator is zero."""
    safe = np.where(denominator == 0, 1, denominator)
    return np.where(denominator == 0, np.nan, numerator / safe)
