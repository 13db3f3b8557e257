"""Classification metrics against scikit-learn, hand calculations and resamples spelt out."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mvp_bench.cells.per_case import classification_rows
from mvp_bench.metrics.registry import METRICS, aggregate
from tests.cells.test_per_case import three_class_rows
from tests.metrics.resampled import repeated

NAMES = ("accuracy", "auroc", "balanced_accuracy", "f1")


def test_multiclass_metrics_agree_with_scikit_learn() -> None:
    rows = three_class_rows()
    values = aggregate(rows, "classification", ["AD", "MCI", "CN"])
    wide = rows.pivot(index=["case", "truth", "predicted"], columns="target", values="probability").reset_index()
    assert values["accuracy"] == pytest.approx((wide["truth"] == wide["predicted"]).mean())
    assert values["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(wide["truth"], wide["predicted"]))
    scores = wide[["AD", "CN", "MCI"]].to_numpy()  # scikit-learn wants classes in alphabetical order
    scores = scores / scores.sum(axis=1, keepdims=True)
    expected = roc_auc_score(wide["truth"], scores, multi_class="ovr", labels=["AD", "CN", "MCI"])
    assert values["auroc"] == pytest.approx(expected, abs=1e-9)


def test_binary_metrics_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]])
    rows = classification_rows(list("abcd"), list("abcd"), ["LGG", "LGG", "HGG", "HGG"], probabilities, ["LGG", "HGG"])
    assert rows["predicted"].tolist()[::2] == ["LGG", "LGG", "HGG", "LGG"]
    assert aggregate(rows, "classification", ["LGG", "HGG"]) == {
        "accuracy": pytest.approx(0.75),
        "balanced_accuracy": pytest.approx(0.75),
        "auroc": pytest.approx(1.0),
        "f1": pytest.approx((0.8 + 2 / 3) / 2),
    }


def test_an_absent_class_leaves_auroc_undefined_and_the_rest_defined() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    rows = classification_rows(["a", "b"], ["a", "b"], ["LGG", "LGG"], probabilities, ["LGG", "HGG"])
    values = aggregate(rows, "classification", ["LGG", "HGG"])
    assert values["auroc"] is None
    assert values["balanced_accuracy"] == values["accuracy"] == 0.5


@pytest.mark.parametrize("classes", [["a", "b"], ["a", "b", "c"]])
@pytest.mark.parametrize("name", NAMES)
def test_weighted_metrics_equal_those_of_repeated_rows(name: str, classes: list[str]) -> None:
    rng = np.random.default_rng(len(classes))
    n = 24
    probabilities = np.round(rng.dirichlet(np.ones(len(classes)), n), 1)  # with ties
    patients = [f"{i // 2:02d}" for i in range(n)]
    rows = classification_rows([str(i) for i in range(n)], patients, rng.choice(classes, n), probabilities, classes)
    weights = np.vstack([np.ones(12), rng.multinomial(12, np.full(12, 1 / 12), size=30), np.eye(12)[0] * 12])
    estimates = METRICS[name].estimator(rows.assign(run=0), classes).estimate(weights)
    for row, drawn in zip(estimates, weights, strict=True):
        expected = METRICS[name].of_table(repeated(rows, drawn), classes)[name]
        np.testing.assert_allclose(row, math.nan if expected is None else expected, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_folds_are_pooled_and_runs_averaged(name: str) -> None:
    """A case of fold 1 may bear the name of one of fold 0."""
    classes = ["AD", "MCI", "CN"]
    parts = [
        three_class_rows(seed=seed).assign(run=run, fold=fold) for seed, (run, fold) in enumerate([(0, 0), (0, 1)])
    ]
    other = three_class_rows(120, seed=3)
    both = pd.concat([*parts, other.assign(run=1, fold=0)])
    patients = len(set(both["patient"]))
    found = METRICS[name].estimator(both, classes).estimate(np.ones((1, patients)))[0, 0]
    pooled = pd.concat([parts[0], parts[1].assign(case=lambda rows: rows["case"] + "'")])
    expected = [METRICS[name].of_table(rows, classes)[name] for rows in (pooled.drop(columns="fold"), other)]
    assert found == pytest.approx(np.mean(expected))


def test_only_accuracy_is_a_mean_over_cases() -> None:
    rows = three_class_rows().assign(run=0)
    for name in NAMES:
        scores = METRICS[name].estimator(rows, ["AD", "MCI", "CN"]).patient_scores()
        assert scores.shape == (60, 1)
        assert np.isnan(scores).all() == (name != "accuracy")
    right = rows.drop_duplicates("case").set_index("patient").eval("truth == predicted").sort_index()
    accuracy = METRICS["accuracy"].estimator(rows, ["AD", "MCI", "CN"])
    assert accuracy.patients == tuple(right.index)
    assert accuracy.patient_scores()[:, 0].tolist() == right.astype(float).tolist()
