"""Intervals, tests, ranks and verdicts against slow or simulated truth."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mvp_bench.cells.per_case import classification_rows
from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.leaderboard.statistics import (
    BETTER,
    WORSE,
    Bootstrap,
    bootstrap,
    holm,
    interval,
    ranks,
    resamples,
    signed_rank_p,
    verdict,
)
from mvp_bench.metrics.estimators import Estimator
from mvp_bench.metrics.registry import METRICS

CONFIG = StatisticsConfig(bootstrap_samples=600)


def resampled(estimator: Estimator, seed: int) -> Bootstrap:
    return bootstrap(estimator, resamples(len(estimator.patients), CONFIG, seed, "task", "dice"))


def dice(rows: pd.DataFrame) -> Estimator:
    return METRICS["dice"].estimator(rows, ["lesion"])


# ------------------------------------------------------------------------------------------------------------ intervals


def visits(rng: np.random.Generator, shift: float = 0.0, n_patients: int = 10) -> pd.DataFrame:
    """One or two visits per patient, scores correlated within a patient, of true mean 0.7 + shift."""
    rows = []
    for patient in range(n_patients):
        effect = rng.beta(7, 3)
        for visit in range(1 + patient % 2):
            rows.append((f"{patient}-{visit}", f"{patient:02d}", "lesion", effect + shift + rng.normal(0, 0.03)))
    return pd.DataFrame(rows, columns=["case", "patient", "target", "dice"])


def test_intervals_cover_the_true_mean() -> None:
    hits = 0
    for simulation in range(200):
        rows = visits(np.random.default_rng([simulation, 1]))
        result = resampled(dice(rows), simulation)
        low, high = result.intervals(0.95)[0]
        hits += low <= 0.7 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_paired_intervals_cover_the_true_difference() -> None:
    hits = 0
    for simulation in range(200):
        sides = []
        for shift in (0.04, 0.0):  # the same patients: the same generator up to the noise of the visits
            rng = np.random.default_rng([simulation, 2])
            rows = visits(rng)
            rows["dice"] += shift + np.random.default_rng([simulation, int(100 * shift)]).normal(0, 0.05, len(rows))
            sides.append(resampled(dice(rows), simulation))
        low, high = sides[0].minus(sides[1]).intervals(0.95)[0]
        hits += low <= 0.04 <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_auroc_intervals_cover_the_true_area() -> None:
    truth = stats.norm.cdf(1 / math.sqrt(2))  # two unit normals, one apart
    hits = 0
    for simulation in range(200):
        rng = np.random.default_rng([simulation, 3])
        label = np.arange(40) % 2
        score = stats.norm.cdf(rng.normal(label, 1))
        names = [f"{i:02d}" for i in range(40)]
        rows = classification_rows(names, names, np.array(["a", "b"])[label], np.c_[1 - score, score], ["a", "b"])
        low, high = resampled(METRICS["auroc"].estimator(rows.assign(run=0), ["a", "b"]), 0).intervals(0.95)[0]
        hits += low <= truth <= high
    assert 0.90 <= hits / 200 <= 0.99


def test_resamples_follow_from_seed_task_and_metric() -> None:
    first = resamples(7, CONFIG, 0, "task", "dice")
    assert first.shape == (600, 7)
    assert (first.sum(axis=1) == 7).all()
    assert (first == resamples(7, CONFIG, 0, "task", "dice")).all()
    for other in ((1, "task", "dice"), (0, "other", "dice"), (0, "task", "accuracy")):
        assert (first != resamples(7, CONFIG, *other)).any()


def test_interval_of_one_patient_is_undefined_and_of_two_their_range() -> None:
    assert all(math.isnan(end) for end in interval(np.array([0.5, 0.5]), 1, 0.95))
    assert interval(np.array([0.2, 0.5, 0.8]), 2, 0.95) == (pytest.approx(0.2), pytest.approx(0.8))


def test_interval_matches_the_formula() -> None:
    draws = np.random.default_rng(0).normal(size=4000)
    tail = stats.norm.cdf(-math.sqrt(10 / 9) * stats.t.ppf(0.975, 9))
    assert interval(draws, 10, 0.95) == tuple(pytest.approx(q) for q in np.quantile(draws, [tail, 1 - tail]))
    assert tail < 0.025


def test_bootstrap_of_different_patients_is_not_paired() -> None:
    rows = visits(np.random.default_rng(0))
    some = rows[rows["patient"] != "03"]
    all_patients, without_one = (resampled(dice(table), 0) for table in (rows, some))
    with pytest.raises(ValueError, match="same patients"):
        all_patients.minus(without_one)


# ----------------------------------------------------------------------------------------------- tests, ranks, verdicts


def slow_signed_rank_p(differences: list[float]) -> float:
    """All sign patterns, one by one."""
    values = [d for d in differences if d != 0]
    sizes = stats.rankdata(np.abs(values))
    observed = sum(r for r, d in zip(sizes, values, strict=True) if d > 0)
    sums = [
        sum(r for r, s in zip(sizes, signs, strict=True) if s)
        for signs in itertools.product([0, 1], repeat=len(values))
    ]
    tails = (sum(s <= observed for s in sums), sum(s >= observed for s in sums))
    return min(1.0, 2 * min(tails) / len(sums))


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=9))
def test_signed_rank_p_equals_full_enumeration(values: list[int]) -> None:
    assert signed_rank_p(np.array(values, dtype=float)) == pytest.approx(slow_signed_rank_p([float(v) for v in values]))


def test_signed_rank_p_equals_scipy_without_ties() -> None:
    for n in (5, 20, 49):
        values = np.random.default_rng(n).normal(0.3, 1, n)
        assert signed_rank_p(values) == pytest.approx(stats.wilcoxon(values, method="exact").pvalue, rel=1e-9)


def test_signed_rank_p_of_nothing() -> None:
    assert signed_rank_p(np.zeros(5)) == 1
    assert math.isnan(signed_rank_p(np.array([np.nan])))
    assert signed_rank_p(np.array([1.0, np.nan, 2.0])) == signed_rank_p(np.array([1.0, 2.0]))


def slow_holm(p_values: list[float]) -> list[float]:
    """By the definition: the smallest level at which the step-down procedure rejects, by bisection."""

    def rejected(level: float) -> set[int]:
        out: set[int] = set()
        for step, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if p_values[index] * (len(p_values) - step) > level:
                break
            out.add(index)
        return out

    result = []
    for index in range(len(p_values)):
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if index in rejected(middle) else (middle, high)
        result.append(high)
    return result


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_equals_its_definition(p_values: list[float]) -> None:
    assert holm(p_values) == pytest.approx(slow_holm(p_values), abs=1e-9)


def test_holm_skips_what_was_not_tested() -> None:
    assert holm([0.01, math.nan, 0.04]) == [
        pytest.approx(0.02),
        pytest.approx(math.nan, nan_ok=True),
        pytest.approx(0.04),
    ]


def test_ranks_share_ties_and_skip_the_undefined() -> None:
    assert ranks([0.5, 0.7, 0.7, 0.1]) == [3, 1.5, 1.5, 4]
    found = ranks([0.5, math.nan, 0.7])
    assert found[0] == 2 and math.isnan(found[1]) and found[2] == 1
    assert ranks([0.1 + 0.2, 0.3]) == [1.5, 1.5]  # differ in the last bit only


@pytest.mark.parametrize(
    ("low", "high", "seeds", "folds", "missing", "expected"),
    [
        (0.01, 0.05, 3, 1, 0, BETTER),
        (0.01, 0.05, 1, 4, 0, BETTER),
        (-0.05, -0.01, 3, 1, 0, WORSE),
        (0.01, 0.05, 1, 1, 0, "1 seed: no winner called"),
        (-0.01, 0.05, 2, 1, 0, "2 seeds: no winner called; interval includes 0"),
        (-0.01, 0.05, 3, 1, 0, "interval includes 0"),
        (0.0, 0.0, 3, 1, 0, "interval includes 0"),
        (0.01, 0.05, 3, 1, 2, "2 cells missing: no winner called"),
        (math.nan, math.nan, 3, 1, 0, "no interval"),
    ],
)
def test_verdict(low: float, high: float, seeds: int, folds: int, missing: int, expected: str) -> None:
    assert verdict(low, high, seeds, folds, missing, StatisticsConfig()) == expected
