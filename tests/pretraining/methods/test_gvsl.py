"""GVSL: closed forms and slow versions of its losses, its pairs and views, over-fitting, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.gvsl import Gvsl, GvslOptions
from mvp_bench.pretraining.methods.gvsl.views import draw_maps, mapped
from mvp_bench.pretraining.parts.corruption import Corruption, corrupt, draw_corruption, hidden
from mvp_bench.pretraining.parts.registration_losses import (
    AFFINE_NUMBERS,
    FOLDED,
    VARIES,
    bounded_affine,
    correlation_loss,
    smoothness,
    window_edges,
)
from mvp_bench.pretraining.sampling import PatchSampler
from mvp_bench.pretraining.views.cells import voxel_noise
from mvp_bench.pretraining.views.geometry import warp
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import FakeStore, brains

BOUNDS = {"rotation": math.pi / 9, "scale": 0.25, "shear": math.pi / 18}


def make(
    store: FakeStore | None = None, options: GvslOptions | None = None, batch: int = 2
) -> tuple[Gvsl, PatchSampler]:
    method, sampler = build("gvsl", store or brains(3, MODALITIES), options, batch)
    assert isinstance(method, Gvsl)
    return method, sampler


def test_identity_and_zero_flow_leave_the_image() -> None:
    shape = (8, 12, 6)
    image = torch.rand(2, 1, *shape, generator=generator())
    theta = bounded_affine(torch.zeros(2, AFFINE_NUMBERS), **BOUNDS, patch=shape)
    assert torch.allclose(warp(image, torch.zeros(2, 3, *shape), theta), image, atol=1e-5)


def test_affine_outputs_are_bounded() -> None:
    cube, much = (8, 8, 8), torch.full((1, 3), 50.0)
    none = torch.zeros(1, 3)
    turned = bounded_affine(torch.cat([torch.tensor([[0.0, 0.0, 50.0]]), none, none, none], 1), **BOUNDS, patch=cube)
    cos, sin = math.cos(math.pi / 9), math.sin(math.pi / 9)
    assert torch.allclose(turned[0, :, :3], torch.tensor([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]), atol=1e-6)
    scaled = bounded_affine(torch.cat([none, -much, none, none], 1), **BOUNDS, patch=cube)
    assert torch.allclose(scaled[0, :, :3], 0.75 * torch.eye(3), atol=1e-6)
    sheared = bounded_affine(torch.cat([none, none, much, none], 1), **BOUNDS, patch=cube)
    assert sheared[0, 0, 1].item() == pytest.approx(math.tan(math.pi / 18), rel=1e-5)
    shifted = bounded_affine(torch.cat([none, none, none, much], 1), **BOUNDS, patch=cube)
    assert (shifted[0, :, 3] == 50.0).all()


@pytest.mark.parametrize(("slope", "loss"), [(1.0, 0.0), (0.4, 0.0), (3.0, 0.0), (-2.0, 2.0)])
def test_correlation_of_linear_functions(slope: float, loss: float) -> None:
    image = torch.rand(2, 1, 12, 11, 10, generator=generator())
    assert correlation_loss(image, slope * image + 0.3).tolist() == pytest.approx([loss, loss], abs=1e-4)


def slow_correlation_loss(first: np.ndarray, second: np.ndarray, window: int) -> float:
    """One window at a time."""
    edges = [max(e for e in range(1, min(window, axis) + 1) if e % 2) for axis in first.shape]
    losses = []
    for corner in product(*(range(axis - edge + 1) for axis, edge in zip(first.shape, edges, strict=True))):
        box = tuple(slice(c, c + e) for c, e in zip(corner, edges, strict=True))
        a, b = first[box].astype(np.float64), second[box].astype(np.float64)
        if a.var() > VARIES or b.var() > VARIES:
            covariance = ((a - a.mean()) * (b - b.mean())).mean()
            losses.append(1 - covariance / math.sqrt(max(a.var(), VARIES) * max(b.var(), VARIES)))
    return float(np.mean(losses)) if losses else 0.0


@pytest.mark.parametrize("window", [3, 5, 9])
def test_correlation_against_the_slow_version(window: int) -> None:
    rng = np.random.default_rng(window)
    first, second = rng.random((2, 3, 1, 9, 6, 8)).astype(np.float32)
    first[1, :, 4:], second[1, :, 3:] = 0.0, 0.0  # background in both, in one, in none
    second[2] = 0.0
    found = correlation_loss(torch.from_numpy(first), torch.from_numpy(second), window)
    slow = [slow_correlation_loss(a[0], b[0], window) for a, b in zip(first, second, strict=True)]
    assert found.tolist() == pytest.approx(slow, abs=1e-4)
    assert slow[2] == pytest.approx(1.0)


def test_correlation_of_empty_images_is_finite() -> None:
    empty = torch.zeros(1, 1, 10, 10, 10, requires_grad=True)
    loss = correlation_loss(empty, torch.zeros(1, 1, 10, 10, 10))
    loss.sum().backward()
    assert loss.item() == 0 and empty.grad is not None and empty.grad.isfinite().all()


def test_windows_shrink_with_the_patch() -> None:
    assert window_edges((96, 96, 96), 9) == (9, 9, 9)
    assert window_edges((16, 8, 9), 9) == (9, 7, 9)


def test_smoothness_of_constant_and_linear_flows() -> None:
    places = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (5, 6, 7)), indexing="ij")).float()
    constant = torch.tensor([1.0, -2.0, 3.0])[:, None, None, None].expand(3, 5, 6, 7)
    slope = torch.tensor([[0.5, 0.0, 1.0], [0.0, -2.0, 0.0], [0.0, 0.0, 0.1]])
    linear = torch.einsum("ij,jzyx->izyx", slope, places)
    found = smoothness(torch.stack([constant, linear, -places]))
    assert found.tolist() == pytest.approx([0.0, slope.square().sum().item() / 9, FOLDED], rel=1e-5)


def test_smoothness_against_the_slow_version() -> None:
    flow = np.random.default_rng(0).standard_normal((2, 3, 3, 4, 5))
    slow = []
    for sample in flow:
        axes = []
        for axis in range(3):
            steps = [
                float(sample[c][tuple(p + (i == axis) for i, p in enumerate(place))] - sample[c][place]) ** 2
                for c in range(3)
                for place in product(*(range(n - (i == axis)) for i, n in enumerate((3, 4, 5))))
            ]
            axes.append(sum(steps) / len(steps))
        slow.append(sum(axes) / 3)
    assert smoothness(torch.from_numpy(flow)).tolist() == pytest.approx(slow, rel=1e-5)


def test_partner_is_the_next_case_in_a_common_modality() -> None:
    method, sampler = make(brains(4, MODALITIES), batch=4)
    batch = sampler[0]
    seen = set()
    for seed in range(12):
        pair = method.draw_pair(batch, generator(seed))
        assert pair.valid.all()
        for i in range(4):
            slot = next(k for k in range(3) if torch.equal(batch.images[i, k], pair.image[i, 0]))
            other = next(k for k in range(3) if torch.equal(batch.images[(i + 1) % 4, k], pair.other[i, 0]))
            assert batch.modality[i, slot] == batch.modality[(i + 1) % 4, other]
            seen.add(int(batch.modality[i, slot]))
    assert seen == {0, 1, 2}


def test_pairs_without_a_common_modality_or_of_one_case_do_not_count() -> None:
    store = brains(4, MODALITIES)
    store._present = {"case00": ("t1",), "case01": ("t2",), "case02": ("t2", "flair"), "case03": ("t1", "t2")}
    method, sampler = make(store, batch=4)
    batch = sampler[0]
    owned = [set(store._present[case.rsplit("/")[-1]]) for case in batch.cases]
    common = [bool(owned[i] & owned[(i + 1) % 4]) for i in range(4)]
    assert method.draw_pair(batch, generator()).valid.tolist() == common and not all(common)
    batch.cases = [batch.cases[0]] * 4
    assert not method.draw_pair(batch, generator()).valid.any()
    terms = method.losses(batch, 0, generator())
    assert terms["similarity"].value == 0 and terms["smoothness"].value == 0 and terms["restoration"].value > 0
    torch.stack([term.value for term in terms.values()]).sum().backward()


def test_losses_are_means_over_valid_pairs() -> None:
    method, sampler = make(brains(4, MODALITIES), batch=4)
    batch = sampler[0]
    batch.cases[1] = batch.cases[0]
    found, terms = method.found(batch, generator()), method.losses(batch, 0, generator())
    assert found.pair.valid.tolist() == [False, True, True, True]
    similar = correlation_loss(found.warped, found.pair.other)[1:].mean().item()
    unmoved = correlation_loss(found.pair.image, found.pair.other)[1:].mean().item()
    assert terms["similarity"].value.item() == pytest.approx(similar, rel=1e-5)
    assert float(terms["similarity"].trivial) == pytest.approx(unmoved, rel=1e-5)
    assert terms["smoothness"].value.item() == pytest.approx(smoothness(found.flow)[1:].mean().item(), rel=1e-5)
    error = (found.restored - found.pair.image).square().mean().item()
    assert terms["restoration"].value.item() == pytest.approx(error, rel=1e-5)


def test_damage() -> None:
    images = torch.rand(3, 1, 20, 20, 16, generator=generator())
    patch, none = (20, 20, 16), GvslOptions(shuffle=0.0, curve=0.0, again=0.0)

    def damage_of(options: GvslOptions, seed: int = 0) -> Corruption:
        return draw_corruption(3, patch, options.damage, generator(seed))

    assert torch.equal(corrupt(images, damage_of(none)), images)
    shuffled = corrupt(images, damage_of(replace(none, shuffle=1.0)))
    assert not torch.equal(shuffled, images)
    assert torch.equal(shuffled.flatten(1).sort(1).values, images.flatten(1).sort(1).values)
    damage = damage_of(replace(none, again=0.95))
    painted, lost = corrupt(images, damage), hidden(damage, patch, images.device)
    assert torch.equal(painted[~lost], images[~lost])
    assert torch.equal(painted[lost], voxel_noise(damage.seeds[:, 1], patch)[lost])
    assert 0.02 < lost.float().mean() < 0.5
    everything = corrupt(images, damage_of(GvslOptions(), 3))
    assert everything.min() >= 0 and everything.max() <= 1


def test_maps_keep_intensities_and_follow_the_generator() -> None:
    images = torch.rand(2, 1, 16, 12, 16, generator=generator())
    first, again, other = (draw_maps(2, (16, 12, 16), GvslOptions(), generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(mapped(images, first), mapped(images, again))
    assert not torch.equal(mapped(images, first), mapped(images, other))
    still = GvslOptions(rotation_degrees=0.0, scale=0.0, shear_degrees=0.0, shift=0.0, elastic=0.0)
    assert torch.allclose(mapped(images, draw_maps(2, (16, 12, 16), still, generator())), images, atol=1e-5)
    assert mapped(images, first).min() >= 0 and mapped(images, first).max() <= 1


def test_two_volumes_are_overfitted() -> None:
    method, sampler = make(brains(2, ["t1"], variation=1.0))
    fractions = overfitted(method, sampler[0], steps=80)
    assert fractions["restoration"] < 0.4, fractions
    assert fractions["similarity"] < 0.3, fractions
    assert fractions["smoothness"] < 0.3, fractions


def test_unit_intensities_only() -> None:
    assert make()[1].spec.intensity == "unit"
    with pytest.raises(InputError, match=r"--intensity: found zscore; expected unit"):
        make(options=GvslOptions(intensity="zscore"))


def test_a_batch_without_pairs_is_refused() -> None:
    with pytest.raises(InputError, match="--batch-size: found 1; expected at least 2"):
        make(batch=1)
    Gvsl.check_settings(GvslOptions(), ENCODERS["resenc-smoke"], (16, 16, 16), 1, world=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 4}, "window: found 4; expected an odd number"),
        ({"window": 1}, "--window: found 1; expected a whole number from 3"),
        ({"box_edges": (0.3, 0.2)}, "--box-edges"),
        ({"scale": 1.0}, "--scale: found 1.0; .* below 1"),
        ({"width": 0}, "--width: found 0"),
        ({"most_boxes": 0}, "--most-boxes: found 0"),
        ({"slots": -1}, "--slots: found -1; expected a whole number from 0"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Gvsl.check_settings(GvslOptions(**changes), ENCODERS["resenc-smoke"], (16, 16, 16), 2)  # type: ignore[arg-type]
