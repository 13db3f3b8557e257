"""SimCLR's closed forms, its pairs of crops, who is a negative, over-fitting, and settings that cannot work."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.simclr import SimClr, SimclrOptions, draw_pairs, view_size
from mvp_bench.pretraining.sampling import PatchSampler, Shard
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator
from tests.pretraining.fake_store import brains

SMOKE = ENCODERS["resenc-smoke"]
SMALL = SimclrOptions.presets()["smoke"]


def _simclr(cases: int = 4, batch: int = 2, **changes: object) -> tuple[SimClr, PatchSampler]:
    options = replace(SMALL, **changes)  # type: ignore[arg-type]
    method, sampler = build("simclr", brains(cases, MODALITIES, variation=1.0), options, batch)
    assert isinstance(method, SimClr)
    return method, sampler


def _fake_projections(method: SimClr, features: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method.projector, "forward", lambda pooled: features)


@pytest.mark.parametrize("batch", [2, 4])
def test_equal_embeddings_get_the_log_of_the_other_views(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = _simclr(batch=batch)
    _fake_projections(method, torch.ones(2 * batch, 3), monkeypatch)
    term = method.losses(sampler[0], 0, generator())["contrast"]
    assert float(term.value) == pytest.approx(math.log(2 * batch - 1), rel=1e-5)
    assert float(term.trivial) == pytest.approx(math.log(2 * batch - 1), rel=1e-5)


def test_matched_pairs_that_are_otherwise_orthogonal(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = _simclr()
    _fake_projections(method, torch.eye(2).repeat(2, 1), monkeypatch)
    value = float(method.losses(sampler[0], 0, generator())["contrast"].value)
    assert value == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-5) == pytest.approx(0.2395, abs=5e-5)


def _slow(views: np.ndarray, cases: list[str], temperature: float) -> float:
    """NT-Xent with loops; view i and i + N are of one sample."""
    unit = views / np.linalg.norm(views, axis=1, keepdims=True)
    n, total = len(cases), 0.0
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        attracted = math.exp(unit[i] @ unit[partner] / temperature)
        repelled = sum(math.exp(unit[i] @ unit[j] / temperature) for j in range(2 * n) if cases[j % n] != cases[i % n])
        total -= math.log(attracted / (attracted + repelled))
    return total / (2 * n)


@pytest.mark.parametrize("cases", [("a", "b", "c", "d"), ("a", "b", "a", "c")])
def test_the_loss_is_the_slow_one_and_a_case_is_no_negative_of_itself(
    cases: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    method, sampler = _simclr(batch=4)
    features = torch.randn(8, 5, generator=generator(3))
    _fake_projections(method, features, monkeypatch)
    batch = replace(sampler[0], cases=list(cases))
    term = method.losses(batch, 0, generator())["contrast"]
    assert float(term.value) == pytest.approx(_slow(features.double().numpy(), list(cases), 0.5), rel=1e-5)
    _fake_projections(method, torch.ones(8, 5), monkeypatch)
    equal = float(method.losses(batch, 0, generator())["contrast"].value)
    assert float(term.trivial) == pytest.approx(equal, rel=1e-5)


def test_the_loss_is_symmetric_in_the_views_and_in_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = _simclr(batch=4)
    features, values = torch.randn(2, 4, 5, generator=generator()), []
    order = torch.tensor([2, 0, 3, 1])
    for arranged in (features, features.flip(0), features[:, order]):
        _fake_projections(method, arranged.flatten(0, 1), monkeypatch)
        values.append(float(method.losses(sampler[0], 0, generator())["contrast"].value))
    assert values[1:] == pytest.approx([values[0]] * 2, rel=1e-5)


def test_more_samples_than_cases_are_masked_instead_of_repelled() -> None:
    method, sampler = _simclr(cases=2, batch=3)
    batch = sampler[0]
    assert len(set(batch.cases)) == 2
    term = method.losses(batch, 0, generator())["contrast"]
    # The case that comes once has four negatives; each view of the other case has two.
    assert float(term.trivial) == pytest.approx((2 * math.log(5) + 4 * math.log(3)) / 6, rel=1e-5)
    term.value.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())


@given(
    patch=st.tuples(*[st.integers(8, 96)] * 3),
    crop=st.floats(0.2, 1.0),
    partner_offset=st.floats(0.0, 0.5),
    seed=st.integers(0, 9),
)
@settings(max_examples=40, deadline=None)
def test_pairs_lie_inside_and_close_to_each_other(
    patch: tuple[int, int, int], crop: float, partner_offset: float, seed: int
) -> None:
    first, second = draw_pairs(20, patch, crop, partner_offset, generator(seed))
    whole = torch.tensor(patch, dtype=torch.float64)
    for crops in (first, second):
        torch.testing.assert_close(crops.size, (crop * whole).expand(20, 3))
        assert (crops.start >= 0).all() and (crops.start + crops.size <= whole + 1e-9).all()
    apart = (first.start - second.start).abs()
    assert (apart <= partner_offset * crop * whole + 1e-9).all()
    shared = ((first.size - apart) / first.size).prod(dim=1)
    assert (shared >= 0.125 - 1e-9).all()


def test_pairs_use_the_room_they_have() -> None:
    first, second = draw_pairs(3000, (30, 30, 30), 0.4, 0.5, generator())
    assert first.start.min() < 0.1 and first.start.max() > 17.9
    apart = second.start - first.start
    assert apart.min() < -5.9 and apart.max() > 5.9 and abs(apart.mean()) < 0.1


@pytest.mark.parametrize(
    ("patch", "crop", "stride", "size"),
    [
        ((96, 96, 96), 2 / 3, 32, (64, 64, 64)),
        ((32, 40, 32), 2 / 3, 8, (24, 24, 24)),
        ((16, 16, 16), 2 / 3, 4, (12, 12, 12)),
        ((160, 128, 32), 0.5, 32, (96, 64, 32)),
        ((32, 32, 32), 0.1, 8, (8, 8, 8)),
    ],
)
def test_views_are_multiples_of_the_stride(
    patch: tuple[int, int, int], crop: float, stride: int, size: tuple[int, int, int]
) -> None:
    assert view_size(patch, crop, stride) == size


def test_views_without_changes_are_crops_of_the_patch() -> None:
    still = {"flip": 0.0, "turns": False, "blur": 0.0, "gamma": 1.0, "gain": 0.0, "offset": 0.0, "noise": 0.0}
    method, sampler = _simclr(**still, crop_edge=1.0)
    batch = sampler[0]
    for view in method.views(batch, generator()):
        torch.testing.assert_close(view, batch.images[:, :1], atol=1e-5, rtol=0)
    method, _ = _simclr(**still, crop_edge=0.75, partner_offset=0.0)
    first, second = method.views(batch, generator())
    assert first.shape == (2, 1, 12, 12, 12)
    torch.testing.assert_close(first, second)


def test_views_differ_change_the_brain_only_and_follow_the_generator() -> None:
    method, sampler = _simclr()
    batch = sampler[0]
    first, second = method.views(batch, generator(1))
    assert first.shape == (2, 1, 12, 12, 12) and not torch.equal(first, second)
    assert torch.equal(torch.cat(method.views(batch, generator(1))), torch.cat([first, second]))
    batch.images[:] = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1, 1)
    for view in method.views(batch, generator(1)):
        assert not view[0].any() and (view[1] != 1).all()


def test_two_processes_show_what_one_would() -> None:
    method, sampler = _simclr(batch=4)
    whole = sampler[0]
    expected = method.views(whole, generator(5))
    halves = [replace(whole.select([2 * r, 2 * r + 1]), shard=Shard(r, 2)) for r in range(2)]
    shown = [method.views(half, generator(5)) for half in halves]
    for view in range(2):
        torch.testing.assert_close(torch.cat([shown[0][view], shown[1][view]]), expected[view])


@pytest.mark.parametrize(("new_views", "steps", "part"), [(False, 50, 0.05), (True, 100, 0.5)])
def test_two_volumes_are_overfitted(new_views: bool, steps: int, part: float) -> None:
    method, sampler = _simclr(cases=2)
    batch = sampler[0]
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    values = []
    for step in range(steps):
        term = method.losses(batch, 0, generator(step if new_views else 0))["contrast"]
        optimiser.zero_grad()
        term.value.backward()
        optimiser.step()
        values.append(term.value.item())
    assert np.mean(values[-20:]) < part * float(term.trivial)


@pytest.mark.parametrize(
    ("options", "patch", "batch", "message"),
    [
        (SMALL, 16, 1, "at least 2 for SimCLR"),
        (replace(SMALL, crop_edge=0.0), 16, 2, "above 0 and at most 1"),
        (replace(SMALL, crop_edge=1.25), 16, 2, "above 0 and at most 1"),
        (replace(SMALL, crop_edge=0.3), 16, 2, "one voxel in the deepest map"),
        (SMALL, 18, 2, "multiples of 4"),
        (replace(SMALL, intensity="raw"), 16, 2, "one of zscore, unit"),  # type: ignore[arg-type]
    ],
)
def test_settings_that_cannot_work_are_refused(options: SimclrOptions, patch: int, batch: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SimClr.check_settings(options, SMOKE, (patch, patch, patch), batch)


def test_cases_that_crops_can_miss_are_refused() -> None:
    thin = brains(2, ["t1"], shape=(6, 40, 40))
    with pytest.raises(InputError, match=r"12 mm along z, so that a crop of 8 voxels of the patch's 32") as caught:
        build("simclr", thin, replace(SMALL, crop_edge=0.25), patch=32)
    assert "case00" in str(caught.value)
    build("simclr", thin, replace(SMALL, crop_edge=0.5), patch=32)
