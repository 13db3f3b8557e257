"""Which values the masks of a release hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mvp_bench.datasets.reading.label_values import held_values

from .releases import mask, save, truncate


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_values_of_each_mask(tmp_path: Path, dtype: type) -> None:
    one = mask(tmp_path / "one.nii.gz", (1, 2, 4), dtype=dtype)
    two = mask(tmp_path / "two.nii", (2,), dtype=dtype)
    assert held_values([one, two]) == {one: {1, 2, 4}, two: {2}}


def test_values_that_went_through_floating_point(tmp_path: Path) -> None:
    near = mask(tmp_path / "near.nii.gz", (1, 3.99999976), dtype=np.float32)
    nan = save(tmp_path / "nan.nii.gz", np.array([[[np.nan, 1.0, 2.4]]], np.float32))
    assert held_values([near, nan]) == {near: {1, 4}, nan: {1, 2}}


def test_a_damaged_mask_is_left_to_the_check(tmp_path: Path) -> None:
    good, bad = mask(tmp_path / "good.nii.gz"), truncate(mask(tmp_path / "bad.nii.gz"))
    assert held_values([bad, good, tmp_path / "none.nii"]) == {good: {1, 2, 3}}
    assert held_values([]) == {}
