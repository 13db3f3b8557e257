"""Dice against nnU-Net's evaluator, classification metrics against hand calculations, and the per-case file."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from mvp_bench.benchmark.metrics import (
    aggregate,
    class_names,
    classification_metrics,
    classification_rows,
    dice_score,
    joint_histogram,
    read_per_case,
    segmentation_metrics,
    segmentation_rows,
    write_per_case,
)
from mvp_bench.errors import InputError
from mvp_bench.io import write_json

REGIONS = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}


class Volumes:
    """Stands in for an nnU-Net reader: "files" are arrays."""

    def __init__(self, reference: np.ndarray, prediction: np.ndarray) -> None:
        self._volumes = {"reference": reference, "prediction": prediction}

    def read_seg(self, name: str) -> tuple[np.ndarray, dict]:
        return self._volumes[name], {}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), dtype=st.sampled_from([np.uint8, np.int16, np.int64]), largest=st.integers(0, 4))
def test_dice_agrees_with_nnunet(data: st.DataObject, dtype: type, largest: int) -> None:
    from nnunetv2.evaluation.evaluate_predictions import compute_metrics

    shape = data.draw(hnp.array_shapes(min_dims=3, max_dims=3, max_side=4))
    volumes = [data.draw(hnp.arrays(kind, shape, elements=st.integers(0, largest))) for kind in (dtype, np.uint8)]
    ours = segmentation_rows("c", "p", *volumes, REGIONS).set_index("target")
    keys = {name: tuple(values) if len(values) > 1 else values[0] for name, values in REGIONS.items()}
    theirs = compute_metrics("reference", "prediction", Volumes(*volumes), list(keys.values()))["metrics"]
    for name, key in keys.items():
        assert ours.loc[name, "dice"] == pytest.approx(theirs[key]["Dice"], abs=1e-9, nan_ok=True)
        assert ours.loc[name, "reference_voxels"] == theirs[key]["n_ref"]
        assert ours.loc[name, "predicted_voxels"] == theirs[key]["n_pred"]


def test_empty_masks_follow_nnunet() -> None:
    empty, some = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), np.uint8)
    some[0, 0, 0] = 3
    rows = pd.concat(
        [
            segmentation_rows("both", "p", empty, empty, {"ET": [3]}),
            segmentation_rows("alarm", "p", empty, some, {"ET": [3]}),
            segmentation_rows("miss", "p", some, empty, {"ET": [3]}),
            segmentation_rows("hit", "p", some, some, {"ET": [3]}),
        ]
    )
    assert math.isnan(rows["dice"].iloc[0])
    assert rows["dice"].iloc[1:].tolist() == [0.0, 0.0, 1.0]
    metrics = segmentation_metrics(rows)
    assert metrics == {
        "dice": pytest.approx(1 / 3),
        "dice/region:ET": pytest.approx(1 / 3),
        "n_empty_reference/region:ET": 2,
        "n_undefined/region:ET": 1,
    }


def test_dice_is_the_mean_over_regions_of_means_over_cases() -> None:
    rows = pd.DataFrame(
        [
            ("a", "p", "WT", 0.5, 9, 9),
            ("a", "p", "ET", np.nan, 0, 0),
            ("b", "q", "WT", 0.7, 9, 9),
            ("b", "q", "ET", 0.2, 9, 9),
        ],
        columns=["case", "patient", "target", "dice", "reference_voxels", "predicted_voxels"],
    )
    metrics = segmentation_metrics(rows)
    assert metrics["dice/region:WT"] == pytest.approx(0.6)
    assert metrics["dice/region:ET"] == pytest.approx(0.2)
    assert metrics["dice"] == pytest.approx(0.4)  # not the mean over the three defined scores


def test_metrics_that_are_undefined_everywhere_are_valid_json(tmp_path: Path) -> None:
    empty = np.zeros((1, 1, 1), np.uint8)
    write_json(
        tmp_path / "metrics.json", aggregate(segmentation_rows("c", "p", empty, empty, {"ET": [3]}), "segmentation")
    )
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["dice"] is None


def test_labels_outside_all_regions_and_negative_ones_count_for_nothing() -> None:
    reference = np.array([[[-1, 0, 1, 7]]], np.int16)
    prediction = np.array([[[1, 7, 1, 1]]], np.uint8)
    row = segmentation_rows("c", "p", reference, prediction, {"one": [1], "absent": [5, 300]}).set_index("target")
    assert row.loc["one"].tolist()[2:] == [0.5, 1, 3]
    assert math.isnan(row.loc["absent", "dice"])


@pytest.mark.parametrize(
    ("reference", "prediction", "message"),
    [
        (np.zeros((1, 2, 3), int), np.zeros((1, 2, 4), int), "different grids"),
        (np.zeros((1, 2, 3)), np.zeros((1, 2, 3), int), "integers"),
        (np.zeros((0, 2, 3), int), np.zeros((0, 2, 3), int), "without voxels"),
        (np.full((1, 1, 1), 5000), np.zeros((1, 1, 1), int), "label volume"),
    ],
)
def test_what_is_no_pair_of_label_volumes_is_refused(
    reference: np.ndarray, prediction: np.ndarray, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        joint_histogram(reference, prediction)


def test_a_full_size_case_is_fast() -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.integers(0, 4, (2, 155, 240, 240), dtype=np.uint8)
    times = []
    for _ in range(3):
        start = time.perf_counter()
        segmentation_rows("c", "p", reference, prediction, REGIONS)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.3


def test_dice_score_of_nothing_is_undefined() -> None:
    assert math.isnan(dice_score(0, 0, 0))
    assert dice_score(2, 3, 4) == pytest.approx(4 / 7)


# ------------------------------------------------------------------------------------------------------- classification


def three_class_rows(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1, 1, 1], n).astype(np.float32)
    truth = rng.choice(["AD", "MCI", "CN"], n, p=[0.2, 0.3, 0.5])
    cases = [f"{i:03d}" for i in range(n)]
    return classification_rows(cases, cases, truth, probabilities, ["AD", "MCI", "CN"])


def test_multiclass_metrics_agree_with_scikit_learn() -> None:
    rows = three_class_rows()
    metrics = classification_metrics(rows)
    assert metrics["accuracy"] == pytest.approx((rows["class"] == rows["predicted"]).mean())
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(rows["class"], rows["predicted"]))
    scores = rows[["p_AD", "p_CN", "p_MCI"]].to_numpy()  # scikit-learn wants classes in alphabetical order
    scores = scores / scores.sum(axis=1, keepdims=True)
    expected = roc_auc_score(rows["class"], scores, multi_class="ovr", labels=["AD", "CN", "MCI"])
    assert metrics["auroc"] == pytest.approx(expected, abs=1e-9)


def test_binary_metrics_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.55, 0.45]])
    rows = classification_rows(list("abcd"), list("abcd"), ["LGG", "LGG", "HGG", "HGG"], probabilities, ["LGG", "HGG"])
    assert rows["predicted"].tolist() == ["LGG", "LGG", "HGG", "LGG"]
    assert classification_metrics(rows) == {
        "accuracy": pytest.approx(0.75),
        "balanced_accuracy": pytest.approx(0.75),
        "auroc": pytest.approx(1.0),
        "f1": pytest.approx((0.8 + 2 / 3) / 2),
    }


def test_an_absent_class_leaves_auroc_undefined_and_the_rest_defined() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8]])
    rows = classification_rows(["a", "b"], ["a", "b"], ["LGG", "LGG"], probabilities, ["LGG", "HGG"])
    metrics = classification_metrics(rows)
    assert metrics["auroc"] is None
    assert metrics["balanced_accuracy"] == metrics["accuracy"] == 0.5


@pytest.mark.parametrize(
    ("truth", "probabilities", "message"),
    [
        (["x"], [[0.5, 0.5]], "not among"),
        (["LGG"], [[np.nan, 0.5]], "not finite"),
        (["LGG"], [[0.5]], "for 1 cases and 2 classes"),
    ],
)
def test_bad_predictions_are_refused(truth: list[str], probabilities: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_rows(["a"], ["a"], truth, np.array(probabilities), ["LGG", "HGG"])


# ---------------------------------------------------------------------------------------------------- the per-case file


def test_segmentation_file_round_trips_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "case": [f"{i:03d}" for i in range(200)],
            "patient": ["NA", "None", *(f"1e{i}" for i in range(198))],
            "target": "ET, or so",
            "dice": np.where(rng.random(200) < 0.1, np.nan, rng.random(200) ** 9),
            "reference_voxels": rng.integers(0, 2**40, 200),
            "predicted_voxels": rng.integers(0, 9, 200),
        }
    )
    write_per_case(tmp_path / "a.csv", rows)
    back = read_per_case(tmp_path / "a.csv", "segmentation")
    assert back["dice"].to_numpy().tobytes() == rows["dice"].to_numpy().tobytes()
    for name in rows.columns.drop("dice"):
        assert back[name].tolist() == rows[name].tolist()
    write_per_case(tmp_path / "b.csv", back)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


def test_classification_file_round_trips_to_the_bit(tmp_path: Path) -> None:
    rows = three_class_rows()
    write_per_case(tmp_path / "a.csv", rows)
    back = read_per_case(tmp_path / "a.csv", "classification")
    assert class_names(back) == ["AD", "MCI", "CN"]
    assert back[["p_AD", "p_MCI", "p_CN"]].to_numpy().tobytes() == rows[["p_AD", "p_MCI", "p_CN"]].to_numpy().tobytes()
    assert aggregate(back, "classification") == aggregate(rows, "classification")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "case,dice\na,0.5\n",
        "case,patient,target,dice,reference_voxels,predicted_voxels\na,a,WT,half,1,1\n",
        "case,patient,target,dice,reference_voxels,predicted_voxels\na,a,WT,0.5,,1\n",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "per_case.csv").write_text(text)
    with pytest.raises(InputError, match=r"per_case\.csv"):
        read_per_case(tmp_path / "per_case.csv", "segmentation")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_per_case(tmp_path / "per_case.csv", "segmentation")
