"""One scan is found again however it was stored; different people are told apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mvp_bench.config.groups import OverlapConfig
from mvp_bench.datasets.geometry.perceptual import HASH_BITS, perceptual_hash, same_scan, twin_pairs
from mvp_bench.datasets.geometry.volumes import Grid, Volume
from mvp_bench.datasets.phantom.cohorts import cohort_of
from mvp_bench.datasets.phantom.subject import make_subject

CONFIG = OverlapConfig()
CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]
Change = Callable[[Volume], Volume]


@cache
def scan(dataset: int, index: int, modality: str, spacing: float = 4.0) -> Volume:
    made = make_subject(cohort_of(dataset), spacing, 11, index)
    return volume(made.grid.image(made.images[modality]))


def volume(image: nib.Nifti1Image) -> Volume:
    data = np.asarray(image.dataobj)
    return Volume(data, Grid(data.shape, image.affine), "", 0)


def oriented(item: Volume, code: str) -> Volume:
    image = nib.Nifti1Image(item.data, item.grid.affine)
    change = nib.orientations.ornt_transform(nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(code))
    return volume(image.as_reoriented(change))


def with_data(item: Volume, data: np.ndarray) -> Volume:
    return Volume(data, item.grid, "", 0)


def z_scored(item: Volume) -> Volume:
    inside = item.data > 0
    values = item.data[inside]
    data = np.where(inside, (item.data - values.mean()) / values.std(), 0).astype(np.float32)
    return with_data(item, data)


def cropped(item: Volume) -> Volume:
    affine = item.grid.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [2, 1, 3]
    data = np.pad(item.data[2:, 1:, 3:], ((0, 5), (4, 0), (0, 2)))
    affine[:3, 3] -= affine[:3, :3] @ [0, 4, 0]
    return Volume(data, Grid(data.shape, affine), "", 0)


def moved(item: Volume) -> Volume:
    """Turned by up to 10 degrees about each axis, shifted, and interpolated at another spacing, with a gamma of 0.8."""
    affine = item.grid.affine
    centre = (affine @ [*(np.array(item.data.shape) - 1) / 2, 1])[:3]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", (10, -8, 6), degrees=True).as_matrix()
    motion[:3, 3] = centre - motion[:3, :3] @ centre + (4, -6, 5)
    onto = affine @ np.diag([0.9, 0.9, 0.9, 1])
    shape = tuple(int(length / 0.9) for length in item.data.shape)
    matrix = np.linalg.inv(affine) @ motion @ onto
    data = ndimage.affine_transform(
        item.data.astype(np.float32), matrix[:3, :3], matrix[:3, 3], output_shape=shape, order=1
    )
    return Volume((data / data.max()) ** 0.8, Grid(shape, onto), "", 0)  # type: ignore[arg-type]


CHANGES: dict[str, Change] = {
    "scaled": lambda item: with_data(item, (item.data * 0.037).astype(np.float32)),
    "gamma": lambda item: with_data(item, (item.data / item.data.max()) ** 1.3),
    "z-scored": z_scored,
    "whole numbers": lambda item: with_data(item, (item.data * (4000 / item.data.max())).astype(np.int16)),
    "turned over": lambda item: with_data(oriented(item, "PIR"), oriented(item, "PIR").data * 3.5),
    "cropped and padded": cropped,
    "moved and resampled": moved,
}
SCANS = [(521, 0, "t1c"), (524, 1, "flair"), (512, 2, "t1"), (503, 0, "dwi")]


def distance(a: str, b: str) -> float:
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8)) for text in (a, b)]
    return float(np.mean(bits[0] != bits[1]))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("dataset", "index", "modality"), SCANS)
def test_a_twin_is_found(dataset: int, index: int, modality: str, change: str) -> None:
    one = scan(dataset, index, modality)
    two = CHANGES[change](one)
    hashes = [perceptual_hash(item.data, item.grid.affine) for item in (one, two)]
    assert all(len(text) == HASH_BITS // 4 for text in hashes)
    assert distance(*hashes) < CONFIG.hash_distance
    assert twin_pairs(hashes, [modality] * 2, CONFIG) == [(0, 1)]
    assert twin_pairs(hashes, [modality, "another"], CONFIG) == []
    assert same_scan(one, two, CONFIG)[0]


@settings(max_examples=12, deadline=None)
@given(code=st.sampled_from(CODES), scale=st.floats(0.01, 100))
def test_orientation_and_scale_hardly_change_a_bit(code: str, scale: float) -> None:
    one = scan(512, 0, "t1", 5.0)
    two = oriented(with_data(one, one.data.astype(np.float32) * np.float32(scale)), code)
    found = [perceptual_hash(item.data, item.grid.affine) for item in (one, two)]
    assert distance(*found) < 0.02


@pytest.mark.slow
def test_two_hundred_people_are_told_apart() -> None:
    """And a planted twin of one of them, in another orientation and intensity scale, is found among them."""
    people = [scan(dataset, index, "t1", 5.0) for dataset in (512, 514) for index in range(100)]
    twin = oriented(with_data(people[77], people[77].data.astype(np.float32) * np.float32(0.01)), "ASL")
    hashes = [perceptual_hash(item.data, item.grid.affine) for item in [*people, twin]]
    pairs = twin_pairs(hashes, ["t1"] * len(hashes), CONFIG)
    confirmed = [
        (i, j) for i, j in pairs if same_scan(*(people[k] if k < 200 else twin for k in (i, j)), config=CONFIG)[0]
    ]
    assert confirmed == [(77, 200)]


def test_other_contrasts_of_a_person_are_other_scans() -> None:
    one, two = scan(524, 0, "t1"), scan(524, 0, "flair")
    hashes = [perceptual_hash(item.data, item.grid.affine) for item in (one, two)]
    assert distance(*hashes) > CONFIG.hash_distance


def test_what_shows_nothing_has_no_hash() -> None:
    assert perceptual_hash(np.zeros((20, 20, 20)), np.diag([8.0, 8, 8, 1])) == ""
    assert twin_pairs(["", ""], ["t1", "t1"], CONFIG) == []


def test_pairs_over_blocks_equal_the_plain_comparison() -> None:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (40, HASH_BITS // 8), dtype=np.uint8)
    near = base[:3].copy()
    near[:, :10] ^= 255  # 80 bits
    hashes = [row.tobytes().hex() for row in (*base, *near)]
    expected = [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if distance(hashes[i], hashes[j]) <= CONFIG.hash_distance
    ]
    assert twin_pairs(hashes, ["t1"] * len(hashes), CONFIG) == expected == [(0, 40), (1, 41), (2, 42)]
