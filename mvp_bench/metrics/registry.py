"""What a metric is, and where metrics are filed. A new one is a file in this package (or a plug-in) and a test.

A metric reads per-case tables (``cells.per_case``) of one row per case and target: the region of a segmentation task,
the class of a classification task. Metrics of masks add the columns that they need; they are computed while the masks
are at hand, everything else later from the table alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

import pandas as pd

from mvp_bench.metrics.estimators import MEAN, Estimator
from mvp_bench.metrics.masks import LabelPair
from mvp_bench.registry import Registry, unknown_name

TaskKind = Literal["segmentation", "classification"]
Direction = Literal["higher", "lower"]


@dataclass(frozen=True)
class Column:
    """A numeric column of a per-case table."""

    name: str
    low: float = float("-inf")
    """Least value that can be."""
    high: float = float("inf")
    """Greatest value that can be."""
    whole: bool = False
    """Whole numbers only."""
    empty: bool = False
    """May be empty (NaN): undefined for this case."""


class Metric(ABC):
    """One number, or one per target, that says how good predictions are."""

    name: ClassVar[str]
    """The name in cards, tables and metrics.json: lower snake case."""
    label: ClassVar[str]
    """Name for people."""
    summary: ClassVar[str]
    """One line."""
    direction: ClassVar[Direction] = "higher"
    """Which values are better."""
    kinds: ClassVar[tuple[TaskKind, ...]]
    """Kinds of task that it can be computed for."""
    adds: ClassVar[tuple[Column, ...]] = ()
    """Columns of the per-case table that :meth:`of_masks` fills."""
    needs: ClassVar[tuple[str, ...]]
    """Columns of the per-case table that it is computed from."""
    ranks: ClassVar[bool] = False
    """Whether tasks of its kinds are ranked by it where their card names no metric."""
    by_target: ClassVar[bool] = False
    """Whether there is a value per target and their mean, or a single value."""

    def parts(self, targets: Sequence[str]) -> tuple[str, ...]:
        """What the columns of the estimator are about: "mean" and the targets, or the whole ("")."""
        return (MEAN, *targets) if self.by_target else ("",)

    def of_masks(self, pair: LabelPair, values: Sequence[int]) -> dict[str, float]:
        """The columns that the metric adds, for the region formed by the label ``values`` of one case."""
        return {}

    @abstractmethod
    def of_table(self, rows: pd.DataFrame, targets: Sequence[str]) -> dict[str, float | None]:
        """The plain values of one run's per-case table, for ``metrics.json``; None where undefined."""

    @abstractmethod
    def estimator(self, rows: pd.DataFrame, targets: Sequence[str]) -> Estimator:
        """The metric as a function of how often each patient is drawn.

        Args:
            rows: per-case rows of all runs of one entry, with the columns ``run`` (what was trained from one set of
                seeds) and ``fold`` beside those of :attr:`needs`.
            targets: regions or classes, in order.
        """


METRICS: Registry[Metric] = Registry("metric", "mvp_bench.metrics")

M = TypeVar("M", bound=type[Metric])


def metric(kind: M) -> M:
    """File a metric under its own name; a decorator."""
    METRICS.register(kind.name, kind.summary)(kind())
    return kind


def metrics_of(kind: TaskKind, columns: Iterable[str] | None = None) -> list[Metric]:
    """The metrics of a kind of task: the one that ranks by default, then the others by name.

    Args:
        columns: of a per-case table; metrics that need others are left out (a table written before they were filed).
    """
    there = None if columns is None else set(columns)
    found = [METRICS[name] for name in METRICS if kind in METRICS[name].kinds]
    found.sort(key=lambda m: (not m.ranks, m.name))
    return [m for m in found if there is None or there.issuperset(m.needs)]


def ranking_metric(kind: TaskKind, metrics: Sequence[str]) -> str:
    """The metric that ranks methods on a task.

    Args:
        metrics: of the task's card; the first one ranks.

    Raises:
        InputError: if the first one is not filed, or is none of the kind's.
    """
    known = [m.name for m in metrics_of(kind)]
    if not metrics:
        return known[0]
    if metrics[0] not in known:
        raise unknown_name(f"metric of a {kind} task", metrics[0], known)
    return metrics[0]


def aggregate(rows: pd.DataFrame, kind: TaskKind, targets: Sequence[str]) -> dict[str, float | None]:
    """A run's per-case table as the values of ``metrics.json`` (None stands for *undefined*: JSON has no NaN)."""
    values: dict[str, float | None] = {}
    for one in metrics_of(kind, rows.columns):
        values |= one.of_table(rows, targets)
    return values
