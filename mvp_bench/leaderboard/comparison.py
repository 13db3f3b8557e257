"""One panel's results: every entry with its interval, its difference to scratch, its rank and its verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mvp_bench.benchmark.metrics import CLASSIFICATION_METRICS
from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.leaderboard.entries import Entry, Panel, common_rows
from mvp_bench.leaderboard.estimators import MEAN
from mvp_bench.leaderboard.statistics import REFERENCE, Bootstrap, bootstrap, holm, ranks, verdict
from mvp_bench.registry import SCRATCH

NAN = float("nan")


@dataclass
class Result:
    """One entry in one metric or region: a row of a leaderboard, without the counts."""

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


def result_names(panel: Panel) -> tuple[str, ...]:
    """What the panel's rows are about: "mean" and the regions, or the classification metrics."""
    return (MEAN, *panel.key.targets) if panel.key.kind == "segmentation" else CLASSIFICATION_METRICS


def evaluate(panel: Panel, config: StatisticsConfig, seed: int) -> list[dict[str, Result]]:
    """Evaluate all entries of a panel.

    Args:
        panel: the task and its entries.
        config: bootstrap size, level, and when a winner may be called.
        seed: of the resampling.

    Returns:
        For each of ``panel.entries``, in order: metric or region -> result.
    """
    evaluation = _Evaluation(panel, config, seed)
    rows = [evaluation.row(entry) for entry in panel.entries]
    for column, name in enumerate(result_names(panel)):
        results = [row[name] for row in rows]
        for result, corrected in zip(results, holm([result.p_holm for result in results]), strict=True):
            result.p_holm = corrected
        for result, rank in zip(results, ranks([result.mean for result in results]), strict=True):
            result.rank = rank
        evaluation.mark_ties(results, column)
    return rows


class _Evaluation:
    """The bootstrap of every entry of a panel, made once, and the pairs drawn from them."""

    def __init__(self, panel: Panel, config: StatisticsConfig, seed: int) -> None:
        self._panel, self._config, self._seed = panel, config, seed
        self._whole = {entry: self._bootstrap(entry.rows) for entry in panel.entries if entry.cells}

    def row(self, entry: Entry) -> dict[str, Result]:
        """Everything about an entry that does not depend on the other methods; ``p_holm`` is still uncorrected."""
        names = result_names(self._panel)
        if entry not in self._whole:
            return {name: Result(verdict=_why_nothing(entry)) for name in names}
        own = self._whole[entry]
        row = {
            name: Result(float(value), float(low), float(high))
            for name, value, (low, high) in zip(names, own.value, own.intervals(self._config.confidence), strict=True)
        }
        scratch = self._panel.scratch_of(entry)
        difference = self._paired(entry, scratch) if scratch and entry.key.method != SCRATCH else None
        if scratch is None or difference is None:
            silent = REFERENCE if entry.key.method == SCRATCH else "no scratch to compare with"
            for result in row.values():
                result.verdict = silent
            return row
        common = entry.runs & scratch.runs
        n_seeds, n_folds = (len({run[axis] for run in common}) for axis in (0, 1))
        n_missing = len(self._panel.runs - entry.runs)
        columns = zip(
            difference.value, difference.intervals(self._config.confidence), difference.signed_rank_p(), strict=True
        )
        for result, (value, (low, high), p) in zip(row.values(), columns, strict=True):
            result.difference_to_scratch = float(value)
            result.diff_ci_low, result.diff_ci_high, result.p_holm = float(low), float(high), p
            result.verdict = verdict(low, high, n_seeds, n_folds, n_missing, self._config)
        return row

    def mark_ties(self, results: list[Result], column: int) -> None:
        """Mark the entries that the data cannot tell from the best one: their paired interval reaches zero."""
        if all(np.isnan(result.rank) for result in results):
            return
        best = self._panel.entries[int(np.nanargmin([result.rank for result in results]))]
        for entry, result in zip(self._panel.entries, results, strict=True):
            difference = None if np.isnan(result.rank) else self._paired(entry, best)
            if difference is not None:
                high = difference.intervals(self._config.confidence)[column][1]
                result.tied_with_best = "" if np.isnan(high) else "yes" if high >= 0 else "no"

    def _paired(self, entry: Entry, other: Entry) -> Bootstrap | None:
        """``entry`` minus ``other`` on the runs and cases that both have; None if they share none."""
        left, right = common_rows(entry, other)
        if left.empty:
            return None
        if len(left) == len(entry.rows) and len(right) == len(other.rows):
            return self._whole[entry].minus(self._whole[other])
        return self._bootstrap(left).minus(self._bootstrap(right))

    def _bootstrap(self, rows: pd.DataFrame) -> Bootstrap:
        key = self._panel.key
        return bootstrap(self._panel.estimator(rows), self._config, self._seed, key.task, key.kind)


def _why_nothing(entry: Entry) -> str:
    """Verdict of an entry without any finished cell."""
    counts: dict[str, int] = {}
    for cell in entry.open:
        reason = f"{cell.status} ({cell.error_type})" if cell.error_type else cell.status
        counts[reason] = counts.get(reason, 0) + 1
    return "no result: " + ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
