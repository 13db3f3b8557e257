"""Dice against nnU-Net's evaluator."""

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

from mvp_bench.cells.per_case import columns_of, segmentation_rows
from mvp_bench.io import write_json
from mvp_bench.metrics.dice import dice_score
from mvp_bench.metrics.estimators import MeanOverCases
from mvp_bench.metrics.masks import joint_histogram
from mvp_bench.metrics.registry import METRICS, aggregate
from tests.metrics.resampled import repeated

REGIONS = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}
COLUMNS = ["case", "patient", "target", "dice", "reference_voxels", "predicted_voxels"]


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


def test_the_columns_of_the_file() -> None:
    assert list(columns_of("segmentation"))[:6] == COLUMNS


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
    assert METRICS["dice"].of_table(rows, ["ET"]) == {
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
        columns=COLUMNS,
    )
    values = METRICS["dice"].of_table(rows, ["WT", "ET"])
    assert values["dice/region:WT"] == pytest.approx(0.6)
    assert values["dice/region:ET"] == pytest.approx(0.2)
    assert values["dice"] == pytest.approx(0.4)  # not the mean over the three defined scores


def test_metrics_that_are_undefined_everywhere_are_valid_json(tmp_path: Path) -> None:
    empty = np.zeros((1, 1, 1), np.uint8)
    rows = segmentation_rows("c", "p", empty, empty, {"ET": [3]})
    write_json(tmp_path / "metrics.json", aggregate(rows, "segmentation", ["ET"]))
    text = (tmp_path / "metrics.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["dice"] is None


def test_labels_outside_all_regions_and_negative_ones_count_for_nothing() -> None:
    reference = np.array([[[-1, 0, 1, 7]]], np.int16)
    prediction = np.array([[[1, 7, 1, 1]]], np.uint8)
    row = segmentation_rows("c", "p", reference, prediction, {"one": [1], "absent": [5, 300]}).set_index("target")
    assert row.loc["one", COLUMNS[3:]].tolist() == [0.5, 1, 3]
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


# ------------------------------------------------------------------------------------------------------------ resampled


def test_weighted_dice_equals_that_of_repeated_rows() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        [(f"{p}{v}", p, t, rng.random()) for p in "abcdef" for v in "12" for t in ("WT", "ET")], columns=COLUMNS[:4]
    )
    rows.loc[rows.sample(8, random_state=0).index, "dice"] = np.nan
    weights = rng.multinomial(6, np.full(6, 1 / 6), size=20)
    estimates = METRICS["dice"].estimator(rows, ["WT", "ET"]).estimate(weights.astype(float))
    for row, drawn in zip(estimates, weights, strict=True):
        means = repeated(rows, drawn).groupby("target")["dice"].mean()
        np.testing.assert_allclose(row, [means[["WT", "ET"]].mean(), means["WT"], means["ET"]], atol=1e-12)


def test_a_resample_without_a_region_is_dropped() -> None:
    rows = pd.DataFrame(
        [("a", "a", "WT", 0.8), ("a", "a", "ET", np.nan), ("b", "b", "WT", 0.6), ("b", "b", "ET", 0.2)],
        columns=COLUMNS[:4],
    )
    only_a, both = MeanOverCases(rows, "dice", ["WT", "ET"]).estimate(np.array([[2.0, 0.0], [1.0, 1.0]]))
    assert math.isnan(only_a[0])
    assert only_a[1] == pytest.approx(0.8)
    np.testing.assert_allclose(both, [0.45, 0.7, 0.2])


def test_seeds_are_averaged_within_a_case_first() -> None:
    rows = pd.DataFrame(
        [("a", "a", "ET", np.nan), ("a", "a", "ET", 0.0), ("b", "b", "ET", 0.6), ("b", "b", "ET", 0.8)],
        columns=COLUMNS[:4],
    )
    assert MeanOverCases(rows, "dice", ["ET"]).estimate(np.ones((1, 2)))[0, 1] == pytest.approx((0.0 + 0.7) / 2)


def test_a_region_that_is_never_defined_is_left_out_of_the_mean() -> None:
    rows = pd.DataFrame([("a", "a", "WT", 0.8), ("a", "a", "ET", np.nan)], columns=COLUMNS[:4])
    np.testing.assert_allclose(
        MeanOverCases(rows, "dice", ["WT", "ET"]).estimate(np.ones((1, 1)))[0], [0.8, 0.8, np.nan]
    )
