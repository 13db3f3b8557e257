"""Numbers of the phantom that must not move unnoticed: a change of the generator that moves them raises its version."""

from __future__ import annotations

import numpy as np
import pytest

from mvp_bench.datasets.phantom.anatomy import CHANNELS, load_atlas
from mvp_bench.datasets.phantom.cohorts import COHORTS
from mvp_bench.datasets.phantom.subject import make_subject
from mvp_bench.identity import RESULT_VERSIONS

VERSION = 1
"""The result version to which the numbers below belong."""
ATLAS = {
    **{"csf": 34.481, "gm": 96.741, "wm": 61.401, "deep": 1.918, "iron": 0.348, "artery": 0.575, "vein": 2.191},
    **{"choroid": 0.174, "pituitary": 0.05, "dura": 8.147, "bone": 45.952, "marrow": 16.823, "fat": 45.326},
    **{"muscle": 128.064, "ventricle": 2.065, "periventricular": 5.642, "infratentorial": 23.821},
    **{"medial_temporal": 1.676, "strip": 193.504, "head": 445.354, "susceptibility": 6.78},
}
"""Channel -> mean of the atlas at 2 mm, in thousandths."""
IMAGES = {
    501: {"t1": (44.844, 85.655), "t1c": (65.32, 122.842), "t2": (52.026, 100.393), "flair": (23.304, 44.319)},
    503: {"dwi": (47.348, 92.357), "adc": (276.92, 554.316), "flair": (88.059, 169.334)},
    512: {"t1": (166.896, 235.223)},
}
"""Dataset -> modality -> mean and standard deviation of the first subject's image at 6 mm."""
MASKS = {501: {1: 25, 2: 3, 3: 11}, 503: {1: 48}}
"""Dataset -> label value -> voxels of the first subject's mask at 6 mm."""


def test_numbers_of_the_version() -> None:
    assert RESULT_VERSIONS["phantom"] == VERSION, "write down the new version's numbers"


def test_atlas() -> None:
    atlas = load_atlas(2.0)
    means = {name: 1000 * float(atlas.channel(name).mean(dtype=np.float64)) for name in CHANNELS}
    assert means == pytest.approx(ATLAS, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("dataset", IMAGES)
def test_subject(dataset: int) -> None:
    subject = make_subject(COHORTS[dataset], 6.0, 0, 0)
    found = {m: (float(image.mean()), float(image.std())) for m, image in subject.images.items()}
    assert found.keys() == IMAGES[dataset].keys()
    for modality, numbers in IMAGES[dataset].items():
        assert found[modality] == pytest.approx(numbers, rel=1e-3)
    if subject.labels is not None:
        values, counts = np.unique(subject.labels[subject.labels > 0], return_counts=True)
        assert dict(zip(values.tolist(), counts.tolist(), strict=True)) == MASKS[dataset]
