"""One panel's results: every entry with its interval, its difference to scratch, its rank and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.leaderboard.panels import Entry, Panel, common_rows
from mvp_bench.leaderboard.statistics import REFERENCE, Bootstrap, bootstrap, holm, ranks, resamples, verdict
from mvp_bench.metrics.estimators import FloatArray
from mvp_bench.metrics.registry import Metric
from mvp_bench.registry import SCRATCH

NAN = float("nan")


@dataclass
class Standing:
    """One entry in one metric or region: a row of a leaderboard, without the counts.

    Differences are gains: positive is better, also of a metric whose low values are the better ones.
    """

    mean: float = NAN
    ci_low: float = NAN
    ci_high: float = NAN
    difference_to_scratch: float = NAN
    diff_ci_low: float = NAN
    diff_ci_high: float = NAN
    p_holm: float = NAN
    rank: float = NAN
    tied_with_best: str = ""
    verdict: str = ""


@dataclass(frozen=True)
class About:
    """What a row is about."""

    metric: str
    part: str
    """Region, "mean" over regions, or "" for a metric that has no parts."""


def evaluate(panel: Panel, config: StatisticsConfig, seed: int) -> dict[About, list[Standing]]:
    """Evaluate all entries of a panel.

    Args:
        panel: the task and its entries.
        config: bootstrap size, level, and when a winner may be called.
        seed: of the resampling.

    Returns:
        Metric and region -> standing of each of ``panel.entries``, in order.
    """
    weights = _Weights(panel, config, seed)
    found: dict[About, list[Standing]] = {}
    for metric in panel.metrics():
        evaluation = _Evaluation(panel, metric, config, weights)
        by_entry = [evaluation.row(entry) for entry in panel.entries]
        for column, part in enumerate(metric.parts(panel.key.targets)):
            standings = [row[column] for row in by_entry]
            evaluation.rank(standings, column)
            found[About(metric.name, part)] = standings
    return found


class _Weights:
    """The resamples of a panel: the same for all entries and metrics with as many patients, made once."""

    def __init__(self, panel: Panel, config: StatisticsConfig, seed: int) -> None:
        self._panel, self._config, self._seed = panel, config, seed
        self._made: dict[int, FloatArray] = {}

    def __getitem__(self, n_patients: int) -> FloatArray:
        key = self._panel.key
        if n_patients not in self._made:
            self._made[n_patients] = resamples(n_patients, self._config, self._seed, key.task, key.kind)
        return self._made[n_patients]


class _Evaluation:
    """One metric of a panel: the bootstrap of every entry, made once, and the pairs drawn from them."""

    def __init__(self, panel: Panel, metric: Metric, config: StatisticsConfig, weights: _Weights) -> None:
        self._panel, self._metric, self._config, self._weights = panel, metric, config, weights
        self._sign = 1.0 if metric.direction == "higher" else -1.0
        self._whole = {e: self._bootstrap(e.rows) for e in panel.entries if e.measures(metric)}

    def row(self, entry: Entry) -> list[Standing]:
        """Everything about an entry that does not depend on the other methods; ``p_holm`` is still uncorrected."""
        parts = self._metric.parts(self._panel.key.targets)
        if entry not in self._whole:
            silent = "not measured when the cells were made" if entry.cells else _why_nothing(entry)
            return [Standing(verdict=silent) for _ in parts]
        own = self._whole[entry]
        row = [
            Standing(float(value), float(low), float(high))
            for value, (low, high) in zip(own.value, own.intervals(self._config.confidence), strict=True)
        ]
        scratch = self._panel.scratch_of(entry)
        difference = self._paired(entry, scratch) if scratch and entry.key.method != SCRATCH else None
        if scratch is None or difference is None:
            for standing in row:
                standing.verdict = REFERENCE if entry.key.method == SCRATCH else "no scratch to compare with"
            return row
        self._compare(entry, scratch, difference, row)
        return row

    def rank(self, standings: list[Standing], column: int) -> None:
        """Correct the p values of a metric or region, rank its entries, and mark those that the data cannot tell from
        the best one: their paired interval reaches zero."""
        for standing, corrected in zip(standings, holm([s.p_holm for s in standings]), strict=True):
            standing.p_holm = corrected
        for standing, rank in zip(standings, ranks([self._sign * s.mean for s in standings]), strict=True):
            standing.rank = rank
        if all(np.isnan(standing.rank) for standing in standings):
            return
        best = self._panel.entries[int(np.nanargmin([standing.rank for standing in standings]))]
        for entry, standing in zip(self._panel.entries, standings, strict=True):
            difference = None if np.isnan(standing.rank) else self._paired(entry, best)
            if difference is not None:
                high = difference.intervals(self._config.confidence)[column][1]
                standing.tied_with_best = "" if np.isnan(high) else "yes" if high >= 0 else "no"

    def _compare(self, entry: Entry, scratch: Entry, difference: Bootstrap, row: list[Standing]) -> None:
        common = entry.pairs & scratch.pairs
        n_seeds, n_folds = (len({pair[axis] for pair in common}) for axis in (0, 1))
        n_missing = self._panel.missing(entry)
        columns = zip(
            difference.value, difference.intervals(self._config.confidence), difference.signed_rank_p(), strict=True
        )
        for standing, (value, (low, high), p) in zip(row, columns, strict=True):
            standing.difference_to_scratch = float(value)
            standing.diff_ci_low, standing.diff_ci_high, standing.p_holm = float(low), float(high), p
            standing.verdict = verdict(low, high, n_seeds, n_folds, n_missing, self._config)

    def _paired(self, entry: Entry, other: Entry) -> Bootstrap | None:
        """How much better ``entry`` is than ``other`` on the runs and cases that both have; None if they share none, or
        one of them is not measured."""
        if entry not in self._whole or other not in self._whole:
            return None
        left, right = common_rows(entry, other)
        if left.empty:
            return None
        if len(left) == len(entry.rows) and len(right) == len(other.rows):
            pair = self._whole[entry], self._whole[other]
        else:
            pair = self._bootstrap(left), self._bootstrap(right)
        return pair[0].minus(pair[1]) if self._sign > 0 else pair[1].minus(pair[0])

    def _bootstrap(self, rows: pd.DataFrame) -> Bootstrap:
        estimator = self._metric.estimator(rows, self._panel.key.targets)
        return bootstrap(estimator, self._weights[len(estimator.patients)])


def _why_nothing(entry: Entry) -> str:
    """Verdict of an entry without any finished cell."""
    counts: dict[str, int] = {}
    for cell in entry.open:
        reason = f"{cell.status} ({cell.error_type})" if cell.error_type else cell.status
        counts[reason] = counts.get(reason, 0) + 1
    return "no result: " + ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
