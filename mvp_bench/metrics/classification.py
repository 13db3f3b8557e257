"""Accuracy, balanced accuracy, AUROC and F1.

*Balanced accuracy* is the mean recall over the classes that occur in the reference; *F1* the mean over the classes that
occur in reference or prediction; *AUROC* that of the second class' probability for two classes, else the mean of
one-versus-rest over all classes, undefined if a class does not occur in the reference. All are computed per run on all
its folds together (every case is tested once per run), then averaged over runs.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from mvp_bench.metrics.estimators import Estimator, FloatArray, mean_defined, ratio
from mvp_bench.metrics.registry import Metric, metric


class RunPredictions:
    """The predictions of one run as arrays: n cases, K classes.

    Args:
        rows: one row per case and class: case, patient, target (the class), truth, predicted, probability, and the
            fold where there are several.
        classes: K class names.
        patients: P names that ``patient`` (n,) points into; default: those of the rows, sorted.
    """

    def __init__(self, rows: pd.DataFrame, classes: Sequence[str], patients: Sequence[str] | None = None) -> None:
        folds = rows["fold"].tolist() if "fold" in rows else [0] * len(rows)
        texts = {name: rows[name].tolist() for name in ("case", "patient", "target", "truth", "predicted")}
        patients = sorted(set(texts["patient"])) if patients is None else patients
        codes = {name: index for index, name in enumerate(classes)}
        numbers = {name: index for index, name in enumerate(patients)}
        place: dict[tuple[Any, str], int] = {}  # of each case, in the order of appearance
        case = np.array([place.setdefault(key, len(place)) for key in zip(folds, texts["case"], strict=True)], np.int64)
        first = np.unique(case, return_index=True)[1]
        self.truth = np.array([codes[texts["truth"][row]] for row in first], np.int64)  # (n,)
        self.predicted = np.array([codes[texts["predicted"][row]] for row in first], np.int64)  # (n,)
        self.patient = np.array([numbers[texts["patient"][row]] for row in first], np.int64)  # (n,)
        self.probability = np.full((len(first), len(classes)), np.nan)  # (n, K)
        target = np.array([codes[name] for name in texts["target"]], np.int64)
        self.probability[case, target] = rows["probability"].to_numpy(np.float64)
        self.confusion = np.zeros((len(patients), len(classes), len(classes)))  # patient, true class, predicted class
        np.add.at(self.confusion, (self.patient, self.truth, self.predicted), 1)

    @property
    def scored_classes(self) -> Sequence[int]:
        """The classes whose probabilities AUROC looks at: the second of two, else all."""
        n_classes = self.probability.shape[1]
        return [1] if n_classes == 2 else range(n_classes)


class ClassificationMetric(Metric):
    """A single value per run, from the predictions alone."""

    kinds = ("classification",)
    needs = ("truth", "predicted", "probability")
    of_cases = False
    """Whether the metric is a mean over cases, so that a patient has a score of his own."""

    @abstractmethod
    def plain(self, table: RunPredictions) -> float:
        """The value on all cases, each once; NaN where undefined."""

    @abstractmethod
    def weighted(self, table: RunPredictions, weights: FloatArray) -> FloatArray:
        """(B, P) draws per patient -> (B,) values."""

    def of_patients(self, table: RunPredictions) -> FloatArray:
        """(P,) value of each patient alone; NaN throughout where the metric is no mean over cases."""
        n_patients = len(table.confusion)
        return self.weighted(table, np.eye(n_patients)) if self.of_cases else np.full(n_patients, np.nan)

    def of_table(self, rows: pd.DataFrame, targets: Sequence[str]) -> dict[str, float | None]:
        """The value under the metric's name."""
        value = self.plain(RunPredictions(rows, targets))
        return {self.name: None if np.isnan(value) else float(value)}

    def estimator(self, rows: pd.DataFrame, targets: Sequence[str]) -> Estimator:
        """The mean over runs."""
        return MeanOverRuns(self, rows, targets)


class MeanOverRuns:
    """A classification metric of an entry: computed per run, then averaged.

    Args:
        metric: what is computed.
        rows: per-case rows of all runs, with the column ``run``.
        classes: class names.
    """

    def __init__(self, metric: ClassificationMetric, rows: pd.DataFrame, classes: Sequence[str]) -> None:
        patients = sorted(rows["patient"].unique())
        self.patients = tuple(str(patient) for patient in patients)
        self._metric = metric
        self._runs = [RunPredictions(table, classes, patients) for _, table in rows.groupby("run")]

    def estimate(self, weights: FloatArray) -> FloatArray:
        """(B, P) -> (B, 1)."""
        return mean_defined(np.stack([self._metric.weighted(run, weights) for run in self._runs]), axis=0)[:, None]

    def patient_scores(self) -> FloatArray:
        """(P, 1)."""
        return mean_defined(np.stack([self._metric.of_patients(run) for run in self._runs]), axis=0)[:, None]


@metric
class Accuracy(ClassificationMetric):
    """Share of the cases whose most probable class is the true one."""

    name = "accuracy"
    label = "accuracy"
    summary = "share of the cases that are classified right"
    ranks = True
    of_cases = True

    def plain(self, table: RunPredictions) -> float:
        """See :func:`sklearn.metrics.accuracy_score`."""
        return float(accuracy_score(table.truth, table.predicted))

    def weighted(self, table: RunPredictions, weights: FloatArray) -> FloatArray:
        """Hits over cases."""
        hits = np.trace(table.confusion, axis1=1, axis2=2)
        return ratio(weights @ hits, weights @ table.confusion.sum(axis=(1, 2)))


@metric
class BalancedAccuracy(ClassificationMetric):
    """Mean recall over the classes that occur."""

    name = "balanced_accuracy"
    label = "balanced accuracy"
    summary = "mean over classes of the share that is found"

    def plain(self, table: RunPredictions) -> float:
        """See :func:`sklearn.metrics.recall_score`."""
        present = np.unique(table.truth)
        recall = recall_score(table.truth, table.predicted, labels=present, average="macro", zero_division=0)
        return float(recall)

    def weighted(self, table: RunPredictions, weights: FloatArray) -> FloatArray:
        """Mean over classes of hits over true cases."""
        confusion = np.tensordot(weights, table.confusion, axes=1)  # (B, K, K)
        return mean_defined(ratio(np.diagonal(confusion, axis1=1, axis2=2), confusion.sum(axis=2)), axis=1)


@metric
class F1(ClassificationMetric):
    """Mean F1 over the classes that occur in reference or prediction."""

    name = "f1"
    label = "macro F1"
    summary = "mean over classes of the harmonic mean of recall and precision"

    def plain(self, table: RunPredictions) -> float:
        """See :func:`sklearn.metrics.f1_score`."""
        return float(f1_score(table.truth, table.predicted, average="macro", zero_division=0))

    def weighted(self, table: RunPredictions, weights: FloatArray) -> FloatArray:
        """Mean over classes of twice the hits over true and predicted cases."""
        confusion = np.tensordot(weights, table.confusion, axes=1)  # (B, K, K)
        hits = np.diagonal(confusion, axis1=1, axis2=2)
        return mean_defined(ratio(2 * hits, confusion.sum(axis=2) + confusion.sum(axis=1)), axis=1)


@metric
class Auroc(ClassificationMetric):
    """Share of (positive, negative) pairs in the right order, ties counting half."""

    name = "auroc"
    label = "AUROC"
    summary = "area under the receiver operating characteristic, one versus rest"

    def plain(self, table: RunPredictions) -> float:
        """See :func:`sklearn.metrics.roc_auc_score`; NaN if a class does not occur."""
        if len(np.unique(table.truth)) < table.probability.shape[1]:
            return float("nan")
        areas = [roc_auc_score(table.truth == k, table.probability[:, k]) for k in table.scored_classes]
        return float(np.mean(areas))

    def weighted(self, table: RunPredictions, weights: FloatArray) -> FloatArray:
        """Mann-Whitney: the weighted share of ordered pairs."""
        case_weights = weights[:, table.patient]  # (B, n)
        areas = []
        for index in table.scored_classes:
            positive = table.truth == index
            above = table.probability[positive, index][:, None] - table.probability[~positive, index][None, :]
            order = (np.sign(above) + 1) / 2  # 1, 0.5 or 0
            w_positive, w_negative = case_weights[:, positive], case_weights[:, ~positive]
            ordered = ((w_positive @ order) * w_negative).sum(axis=1)
            areas.append(ratio(ordered, w_positive.sum(axis=1) * w_negative.sum(axis=1)))
        return np.mean(areas, axis=0)  # NaN if one class is absent
