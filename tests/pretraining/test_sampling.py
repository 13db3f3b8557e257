"""Patches follow from (seed, step) alone; modalities of a draw lie at one place."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.pretraining.sampling import (
    Batch,
    PatchSampler,
    SamplingSpec,
    batches,
    draw_slots,
    draw_window,
    to_unit,
)
from tests.pretraining.conftest import MODALITIES, source
from tests.pretraining.fake_store import FakeStore, brains


def sampler(
    store: FakeStore, slots: int = 2, patch: int = 12, batch: int = 2, seed: int = 0, **more: int
) -> PatchSampler:
    spec = SamplingSpec(slots=slots)
    return PatchSampler([source(store)], store.modalities, (patch,) * 3, batch, spec, seed, 20, **more)


def coded(shape: tuple[int, int, int] = (10, 14, 12), modalities: int = 2) -> FakeStore:
    """Voxel value = 1 + its flat index, plus 10,000 per modality."""
    codes = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    return FakeStore({"a": np.stack([codes + 10_000 * i for i in range(modalities)])}, MODALITIES[:modalities])


def same(first: Batch, second: Batch) -> bool:
    tensors = ("images", "modality", "centre_offset", "world", "spacing")
    return first.cases == second.cases and all(torch.equal(getattr(first, n), getattr(second, n)) for n in tensors)


def test_a_step_is_a_pure_function_of_seed_and_step() -> None:
    store = brains(5, MODALITIES)
    one, other = sampler(store), sampler(store)
    late = [one[7], one[3]][1]
    assert same(late, other[3])
    assert not same(one[3], one[4])
    assert not same(one[3], sampler(store, seed=1)[3])


@pytest.mark.parametrize("workers", [0, 2])
def test_the_loader_delivers_the_steps_in_order(workers: int) -> None:
    direct = sampler(brains(3, MODALITIES))
    found = list(batches(sampler(brains(3, MODALITIES)), 15, workers))
    assert len(found) == 5
    assert all(same(batch, direct[15 + i]) for i, batch in enumerate(found))


def test_reading_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    next(batches(sampler(brains(2, MODALITIES)), 0, 0))
    assert torch.equal(torch.rand(1), expected)


def test_two_ranks_share_a_step() -> None:
    store = brains(5, MODALITIES)
    whole = sampler(store, batch=4)
    parts = [sampler(store, batch=2, rank=rank, world=2) for rank in range(2)]
    assert whole[2].cases == parts[0][2].cases + parts[1][2].cases
    assert torch.equal(whole[2].images, torch.cat([p[2].images for p in parts]))


def test_every_case_once_per_pass_whatever_its_modalities() -> None:
    store = brains(4, MODALITIES)
    store._present = {"case00": ("t1",)}
    seen = [case for step in range(2) for case in sampler(store)[step].cases]
    assert sorted(seen) == [f"Dataset521_Fake/case{i:02d}" for i in range(4)]


def test_excluded_patients_and_empty_cases_are_not_seen() -> None:
    store = brains(3, MODALITIES)
    store._present = {"case01": ()}
    data = source(store, excluded=frozenset({"patient-case00"}))
    assert data.included() == ["case02"]
    with pytest.raises(InputError, match="no case"):
        PatchSampler(
            [source(store, excluded=frozenset({"patient-case00", "patient-case02"}))],
            MODALITIES,
            (8, 8, 8),
            1,
            SamplingSpec(),
            0,
            1,
        )


def test_all_modalities_of_a_draw_lie_at_one_place() -> None:
    store = coded()
    for step in range(5):
        batch = sampler(store, patch=8)[step]
        images = batch.images - 10_000 * batch.modality.view(2, 2, 1, 1, 1)
        assert torch.equal(images[:, 0], images[:, 1])


def test_positions_are_those_of_the_window() -> None:
    store = coded()
    store._origins = {"a": (-5.0, 7.0, 11.0)}
    batch = sampler(store, patch=8, slots=1)[0]
    for i in range(2):
        code = batch.images[i, 0, 0, 0, 0] - 1 - 10_000 * batch.modality[i, 0]
        start = np.array(np.unravel_index(int(code), (10, 14, 12)))
        assert np.allclose(batch.world[i], np.array([11.0, 7.0, -5.0]) + 2.0 * start)
        assert np.allclose(batch.centre_offset[i], 2.0 * (start - (np.array([10, 14, 12]) - 1) / 2))


def test_short_axes_are_padded_evenly() -> None:
    batch = sampler(coded((6, 14, 12)), patch=10, slots=1)[0]
    filled = (batch.images[0, 0] != 0).flatten(1).any(1)
    assert filled.tolist() == [False] * 2 + [True] * 6 + [False] * 2


@given(st.tuples(*[st.integers(1, 30)] * 3), st.tuples(*[st.integers(1, 30)] * 3), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_windows_lie_within_or_hold_the_volume(shape, size, seed) -> None:  # type: ignore[no-untyped-def]
    start = draw_window(shape, size, np.random.default_rng(seed))
    for length, extent, first in zip(shape, size, start, strict=True):
        if length >= extent:
            assert 0 <= first <= length - extent
        else:
            assert first <= 0 and first + extent >= length


@given(st.integers(1, 8), st.integers(1, 6), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_slots(present: int, slots: int, seed: int) -> None:
    drawn = draw_slots(present, slots, np.random.default_rng(seed))
    assert len(drawn) == slots
    assert len(set(drawn.tolist())) == min(present, slots)


def test_windows_with_enough_brain_are_preferred() -> None:
    volume = np.zeros((1, 40, 12, 12), np.float32)
    volume[:, 30:] = 1.0
    store = FakeStore({"a": volume}, ["t1"])
    content = []
    for minimum in (0.0, 0.5):
        spec = SamplingSpec(minimum_content=minimum, attempts=8)
        patches = PatchSampler([source(store)], ["t1"], (8, 8, 8), 8, spec, 0, 2)
        content.append(float((patches[0].images != 0).float().mean()))
    assert content[1] > content[0] + 0.2


def test_unit_intensities() -> None:
    store = brains(1, ["t1"])
    patches = PatchSampler([source(store)], ["t1"], (24, 28, 24), 1, SamplingSpec(intensity="unit"), 0, 1)
    image, before = patches[0].images[0, 0].numpy(), store.volumes["case00"][0]
    assert image.min() == 0 and image.max() == 1
    assert (image[before == 0] == 0).all()
    low, high = np.percentile(before[before != 0], (5, 95))
    inside = (before > low) & (before < high) & (before != 0)
    assert np.allclose(image[inside], (before[inside] - low) / (high - low), atol=1e-5)


def test_unit_of_a_constant_image_is_finite() -> None:
    image = np.full((2, 2, 2), 3.0, np.float32)
    to_unit(image, 3.0, 3.0)
    assert np.isfinite(image).all()
