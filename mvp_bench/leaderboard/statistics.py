"""Error bars, paired comparisons, ranks, and when a winner may be called.

The unit of all inference is the patient: resampled, paired and tested as a whole, whatever the number of visits. Runs
(seeds, folds) are averaged within a case first, so the intervals speak of new patients, not of new seeds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.metrics.estimators import Estimator, FloatArray

NO_INTERVAL = (float("nan"), float("nan"))

_DECIMALS = 12  # sums in another order differ in the 16th decimal; that must neither break a tie nor make a difference


def resamples(n_patients: int, config: StatisticsConfig, seed: int, task: str, metric: str) -> FloatArray:
    """Bootstrap weights: how often each of P patients is drawn in each of B resamples of P.

    The random state follows from (seed, task, metric) alone, so that all methods with the same test patients meet the
    same resamples, and adding a method changes no other row.

    Returns:
        (B, P) counts; every row sums to P.
    """
    words = np.frombuffer(hashlib.sha256(f"{task}|{metric}".encode()).digest(), dtype="<u4")
    rng = np.random.default_rng([seed, *(int(word) for word in words)])
    return rng.multinomial(n_patients, np.full(n_patients, 1 / n_patients), size=config.bootstrap_samples).astype(float)


def interval(draws: npt.NDArray[np.floating], n: int, confidence: float) -> tuple[float, float]:
    """Expanded percentile interval of a statistic from its bootstrap draws.

    The plain percentile interval of a mean is too short by sqrt((n-1)/n) and uses normal instead of t quantiles; taking
    the quantiles at level Phi(-sqrt(n/(n-1)) t) instead mends both, and stays inside the metric's range (T. Hesterberg,
    "What teachers should know about the bootstrap", The American Statistician 69, 2015, section 4.3).

    Args:
        draws: (B,) bootstrap values; NaN where a resample left the statistic undefined.
        n: number of patients resampled.
        confidence: level, in (0, 1).

    Returns:
        Lower and upper end; NaN with fewer than two patients.
    """
    draws = draws[~np.isnan(draws)]
    if n < 2 or not draws.size:
        return NO_INTERVAL
    tail = stats.norm.cdf(np.sqrt(n / (n - 1)) * stats.t.ppf((1 - confidence) / 2, n - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def signed_rank_p(differences: npt.NDArray[np.floating]) -> float:
    """Two-sided p value of Wilcoxon's signed-rank test of paired differences (P,), exact also with ties.

    Zero differences are dropped, ties share their mean rank, and the rank sum is compared with its distribution over
    all sign patterns of the ranks at hand. (``scipy.stats.wilcoxon`` falls back on a normal approximation or on random
    permutations as soon as there are ties, as there always are between right and wrong classifications.)

    Args:
        differences: one per patient; NaN values are left out.

    Returns:
        p in (0, 1]; 1 if all differences are zero, NaN if there are none.
    """
    defined = differences[~np.isnan(differences)]
    if not defined.size:
        return float("nan")
    signed = defined[defined != 0]
    doubled = np.rint(2 * stats.rankdata(np.abs(signed))).astype(int)  # mean ranks are multiples of one half
    null = np.zeros(doubled.sum() + 1)  # probability of each positive rank sum, under random signs
    null[0] = 1
    for rank in doubled:
        shifted = np.zeros_like(null)
        shifted[rank:] = null[:-rank]
        null = (null + shifted) / 2
    positive = int(doubled[signed > 0].sum())
    return float(min(1.0, 2 * min(null[: positive + 1].sum(), null[positive:].sum())))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (S. Holm, Scand. J. Statist. 6, 1979); NaN values are no hypotheses and stay NaN."""
    adjusted = [float("nan")] * len(p_values)
    tested = sorted((p, index) for index, p in enumerate(p_values) if not np.isnan(p))
    largest = 0.0
    for step, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - step) * p))
        adjusted[index] = largest
    return adjusted


def ranks(scores: Sequence[float]) -> list[float]:
    """Ranks of scores where more is better: 1 is best, ties share their mean rank, NaN is not ranked."""
    rounded = np.round(np.asarray(scores, dtype=float), _DECIMALS)
    return [float(rank) for rank in stats.rankdata(-rounded, nan_policy="omit")]


@dataclass(frozen=True)
class Bootstrap:
    """A metric of one entry, or of a difference of two, in its M parts (regions, say)."""

    patients: tuple[str, ...]
    """The P test patients."""
    value: FloatArray
    """(M,) on the test set as it is."""
    draws: FloatArray
    """(B, M) on the resamples; NaN where a resample leaves the metric undefined."""
    patient_scores: FloatArray
    """(P, M) of each patient; NaN where there is none."""

    def minus(self, other: Bootstrap) -> Bootstrap:
        """The paired difference: both sides saw the same resamples of the same patients.

        Raises:
            ValueError: if their patients differ.
        """
        if self.patients != other.patients:
            raise ValueError("a paired difference needs the same patients on both sides")
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("value", "draws", "patient_scores"))
        return Bootstrap(self.patients, *(np.round(mine - theirs, _DECIMALS) for mine, theirs in pairs))

    def intervals(self, confidence: float) -> FloatArray:
        """(M, 2): lower and upper end of each column's :func:`interval`."""
        return np.array([interval(column, len(self.patients), confidence) for column in self.draws.T])

    def signed_rank_p(self) -> list[float]:
        """:func:`signed_rank_p` of each column of a paired difference, over patients."""
        return [signed_rank_p(column) for column in self.patient_scores.T]


def bootstrap(estimator: Estimator, weights: FloatArray) -> Bootstrap:
    """Evaluate an entry on its test set and on resamples of its patients.

    Args:
        estimator: a metric of the entry.
        weights: (B, P) of :func:`resamples`.
    """
    once = np.ones((1, len(estimator.patients)))
    draws, value = estimator.estimate(weights), estimator.estimate(once)[0]
    return Bootstrap(estimator.patients, value, draws, estimator.patient_scores())


BETTER = "better than scratch"
WORSE = "worse than scratch"
REFERENCE = "reference"


def verdict(low: float, high: float, n_seeds: int, n_folds: int, n_missing: int, config: StatisticsConfig) -> str:
    """What may be said of a difference to scratch: BETTER, WORSE, or every reason why neither is said.

    Args:
        low: lower end of the paired interval of the difference.
        high: upper end.
        n_seeds: seeds that both sides were run with.
        n_folds: folds that both sides were run on.
        n_missing: cells of this entry that others have and it has not.
        config: the least numbers of seeds or folds.
    """
    reasons = []
    if n_seeds < config.winner_seeds and n_folds < config.winner_folds:
        reasons.append(f"{n_seeds} seed{'s' * (n_seeds != 1)}: no winner called")
    if n_missing:
        reasons.append(f"{n_missing} cell{'s' * (n_missing != 1)} missing: no winner called")
    if np.isnan(low) or np.isnan(high):
        reasons.append("no interval")
    elif low <= 0 <= high:
        reasons.append("interval includes 0")
    if reasons:
        return "; ".join(reasons)
    return BETTER if low > 0 else WORSE
