"""Metrics as functions of how often each patient was drawn, for thousands of resamples at once.

A bootstrap resample of patients is a row of counts. Every metric here is computed for a whole matrix of such rows by
matrix products; for the row of ones it equals the plain metric on the test set.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd

from mvp_bench.benchmark.metrics import CLASSIFICATION_METRICS, PROBABILITY_PREFIX

FloatArray = npt.NDArray[np.float64]

MEAN = "mean"
"""Target name of the mean over regions."""


class Estimator(Protocol):
    """The metrics of one leaderboard entry on its test patients."""

    names: tuple[str, ...]
    """Regions and "mean", or classification metrics."""
    patients: tuple[str, ...]
    """P test patients, sorted."""

    def estimate(self, weights: FloatArray) -> FloatArray:
        """(B, P) draws per patient -> (B, len(names)) metrics; NaN where a resample leaves one undefined."""
        ...

    def patient_scores(self) -> FloatArray:
        """(P, len(names)) mean score of each patient; NaN where a patient, or a metric, has no score of its own."""
        ...


def mean_defined(values: FloatArray, axis: int) -> FloatArray:
    """Mean over the entries that are not NaN; NaN (without a warning) where there is none."""
    defined = ~np.isnan(values)
    return _ratio(np.where(defined, values, 0.0).sum(axis), defined.sum(axis))


class SegmentationEstimator:
    """Dice per region and their mean.

    Per case and region the runs (seeds, folds) are averaged first; a region's Dice is the mean over cases; "mean" is
    that over the regions which are defined somewhere in the test set. Undefined scores (both masks empty) are left out.

    Args:
        rows: per-case rows of all runs of one entry: case, patient, target, dice.
        regions: region names, in the order of ``names``.
    """

    def __init__(self, rows: pd.DataFrame, regions: list[str]) -> None:
        per_case = rows.groupby(["patient", "case", "target"])["dice"].mean()
        by_patient = per_case.groupby(level=["patient", "target"])
        sums = by_patient.sum().unstack("target").reindex(columns=regions).sort_index()
        counts = by_patient.count().unstack("target").reindex(columns=regions).sort_index()
        self.names = (MEAN, *regions)
        self.patients = tuple(str(patient) for patient in sums.index)
        self._sums = np.nan_to_num(sums.to_numpy(np.float64))
        self._counts = np.nan_to_num(counts.to_numpy(np.float64))
        self._defined = self._counts.sum(axis=0) > 0

    def estimate(self, weights: FloatArray) -> FloatArray:
        regions = _ratio(weights @ self._sums, weights @ self._counts)
        # A resample without any case of a region is dropped (NaN): a mean over fewer regions means something else.
        mean = regions[:, self._defined].mean(axis=1) if self._defined.any() else np.full(len(weights), np.nan)
        return np.column_stack([mean, regions])

    def patient_scores(self) -> FloatArray:
        regions = _ratio(self._sums, self._counts)
        return np.column_stack([mean_defined(regions, axis=1), regions])


class ClassificationEstimator:
    """Accuracy, balanced accuracy, AUROC and F1 as defined in ``benchmark.metrics``, averaged over seeds.

    The folds of one seed are pooled first: every case is tested once per seed.

    Args:
        rows: per-case rows of all runs of one entry: seed, case, patient, class, predicted, ``p_<class>``...
        classes: class names.
    """

    names: tuple[str, ...] = CLASSIFICATION_METRICS

    def __init__(self, rows: pd.DataFrame, classes: list[str]) -> None:
        patients = sorted(rows["patient"].unique())
        self.patients = tuple(str(patient) for patient in patients)
        self._seeds = [_SeedTable(table, patients, classes) for _, table in rows.groupby("seed")]

    def estimate(self, weights: FloatArray) -> FloatArray:
        return mean_defined(np.stack([seed.estimate(weights) for seed in self._seeds]), axis=0)

    def patient_scores(self) -> FloatArray:
        accuracy = mean_defined(np.stack([seed.accuracy_per_patient() for seed in self._seeds]), axis=0)
        without = np.full((len(accuracy), len(self.names) - 1), np.nan)  # the other metrics are not means over cases
        return np.column_stack([accuracy, without])


class _SeedTable:
    """The predictions of one seed as arrays: K classes, n cases, P patients."""

    def __init__(self, table: pd.DataFrame, patients: list[str], classes: list[str]) -> None:
        codes = {name: index for index, name in enumerate(classes)}
        self._patient = table["patient"].map({name: i for i, name in enumerate(patients)}).to_numpy(np.int64)  # (n,)
        self._truth = table["class"].map(codes).to_numpy(np.int64)  # (n,)
        self._probability = table[[PROBABILITY_PREFIX + name for name in classes]].to_numpy(np.float64)  # (n, K)
        self._confusion = np.zeros((len(patients), len(classes), len(classes)))  # patient, true class, predicted class
        predicted = table["predicted"].map(codes).to_numpy(np.int64)
        np.add.at(self._confusion, (self._patient, self._truth, predicted), 1)

    def estimate(self, weights: FloatArray) -> FloatArray:
        """(B, P) -> (B, 4), in the order of CLASSIFICATION_METRICS."""
        confusion = np.tensordot(weights, self._confusion, axes=1)  # (B, K, K)
        hits = np.diagonal(confusion, axis1=1, axis2=2)
        true, predicted = confusion.sum(axis=2), confusion.sum(axis=1)  # (B, K)
        accuracy = _ratio(hits.sum(axis=1), true.sum(axis=1))
        balanced = mean_defined(_ratio(hits, true), axis=1)
        f1 = mean_defined(_ratio(2 * hits, true + predicted), axis=1)
        return np.column_stack([accuracy, balanced, self._auroc(weights), f1])

    def accuracy_per_patient(self) -> FloatArray:
        hits = np.trace(self._confusion, axis1=1, axis2=2)
        return _ratio(hits, self._confusion.sum(axis=(1, 2)))

    def _auroc(self, weights: FloatArray) -> FloatArray:
        """Mann-Whitney: the weighted share of (positive, negative) pairs in the right order, ties counting half."""
        n_classes = self._probability.shape[1]
        case_weights = weights[:, self._patient]  # (B, n)
        scores = []
        for index in [1] if n_classes == 2 else range(n_classes):
            positive = self._truth == index
            above = self._probability[positive, index][:, None] - self._probability[~positive, index][None, :]
            order = (np.sign(above) + 1) / 2  # 1, 0.5 or 0
            w_positive, w_negative = case_weights[:, positive], case_weights[:, ~positive]
            ordered = ((w_positive @ order) * w_negative).sum(axis=1)
            scores.append(_ratio(ordered, w_positive.sum(axis=1) * w_negative.sum(axis=1)))
        return np.mean(scores, axis=0)  # NaN if one class is absent


def _ratio(numerator: npt.NDArray, denominator: npt.NDArray) -> FloatArray:
    """Quotient; NaN where the denominator is zero."""
    safe = np.where(denominator == 0, 1, denominator)
    return np.where(denominator == 0, np.nan, numerator / safe)
