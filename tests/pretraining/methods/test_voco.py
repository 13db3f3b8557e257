"""VoCo: overlaps, closed forms of the losses, crops, teacher, refusals, over-fitting, resuming."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.voco import VocoOptions, VolumeContrast
from mvp_bench.pretraining.parts.volume_contrast import (
    EPSILON,
    absence_loss,
    agreement,
    best_constant,
    crop_size,
    distinctness_loss,
    overlaps,
    position_loss,
    tiles,
)
from mvp_bench.pretraining.sampling import PatchSampler
from mvp_bench.pretraining.views.geometry import Crops, cut
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator
from tests.pretraining.fake_store import FakeStore, brains
from tests.pretraining.test_run import Unplugged

SMALL = VocoOptions(hidden=32, features=16)
EIGHT = replace(SMALL, grid=(2, 2, 2))


def make(store: FakeStore | None = None, options: VocoOptions = EIGHT, **sizes: Any) -> tuple[Any, PatchSampler]:
    method, sampler = build("voco", store or brains(3, MODALITIES), options, **sizes)
    assert isinstance(method, VolumeContrast)
    return method, sampler


def corners(patch: tuple[int, ...], grid: tuple[int, ...]) -> torch.Tensor:
    """Lower faces of all base crops, z slowest."""
    axes = [[i * extent / count for i in range(count)] for extent, count in zip(patch, grid, strict=True)]
    return torch.tensor(list(itertools.product(*axes)), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("patch", "grid"), [((96, 96, 96), (3, 3, 3)), ((32, 40, 32), (3, 3, 3)), ((8, 9, 10), (1, 3, 2))]
)
def test_target_on_a_base_crop_is_one_hot(patch: tuple[int, ...], grid: tuple[int, ...]) -> None:
    labels = overlaps(corners(patch, grid), patch, grid)
    torch.testing.assert_close(labels, torch.eye(len(labels)), atol=1e-6, rtol=0)
    assert ((labels == 0).sum(dim=1) == len(labels) - 1).all()  # no rounding error counts as an overlap


@pytest.mark.parametrize("axes", [(0, 1), (0, 2), (1, 2)])
def test_half_a_cell_off_in_two_axes_is_four_quarters(axes: tuple[int, int]) -> None:
    start = torch.zeros(1, 3)
    start[0, list(axes)] = 16.0
    labels = overlaps(start, (96, 96, 96), (3, 3, 3)).reshape(3, 3, 3)
    assert sorted(labels[labels > 0].tolist()) == [0.25] * 4
    assert labels.nonzero().amax(dim=0).tolist() == [int(a in axes) for a in range(3)]


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, 4)] * 3).filter(lambda g: max(g) > 1),
    st.tuples(*[st.integers(8, 50)] * 3),
    st.tuples(*[st.floats(0, 1)] * 3),
)
def test_labels_are_volumes_of_intersections(
    grid: tuple[int, ...], patch: tuple[int, ...], place: tuple[float, ...]
) -> None:
    edge = np.array(patch) / np.array(grid)
    start = np.array(place) * (np.array(patch) - edge)
    expected = []
    for base in corners(patch, grid).numpy():
        common = np.minimum(start + edge, base + edge) - np.maximum(start, base)
        expected.append(np.prod(np.maximum(common, 0)) / np.prod(edge))
    labels = overlaps(torch.from_numpy(start), patch, grid)
    np.testing.assert_allclose(labels.numpy(), expected, atol=1e-6)
    assert labels.sum().item() == pytest.approx(1, abs=1e-5)


# ------------------------------------------------------------------------------------------------------------- losses


def test_orthogonal_base_crops_and_right_predictions_cost_nothing() -> None:
    starts = torch.rand(4, 5, 3, generator=generator()) * 64
    labels = overlaps(starts, (96, 96, 96), (3, 3, 3))
    assert position_loss(labels, labels).item() == pytest.approx(0, abs=2 * EPSILON)
    assert absence_loss(labels, labels == 0).item() == 0
    assert distinctness_loss(torch.eye(27)[None], torch.ones(1, 27, dtype=torch.bool)).item() == 0
    one_hot = torch.eye(27)[None]  # target b has the features of base b
    assert position_loss(agreement(one_hot, torch.eye(27)[None]), one_hot).item() == pytest.approx(0, abs=2 * EPSILON)


def test_collapsed_features_cost_two(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = make(options=SMALL)
    monkeypatch.setattr(method, "places", lambda unit: torch.zeros_like(unit))  # one-hot labels
    for head in (method.projector, method.teacher_projector):
        monkeypatch.setattr(head, "forward", lambda x: torch.ones(len(x), 16))
    terms = method.losses(sampler[0], 0, generator())
    assert terms["position"].value.item() == pytest.approx(0, abs=2 * EPSILON)
    assert terms["negative"].value.item() == pytest.approx(1, abs=1e-5)
    assert terms["distinct"].value.item() == pytest.approx(1, abs=1e-5)
    assert sum(t.weight * t.value.item() for t in terms.values()) == pytest.approx(2, abs=1e-4)
    assert terms["negative"].trivial == terms["distinct"].trivial == 1


def test_losses_equal_slow_ones() -> None:
    rng = np.random.default_rng(3)
    batch, targets, bases, width = 3, 2, 27, 5
    s_bases, t_bases = rng.standard_normal((2, batch, bases, width))
    s_targets, t_targets = rng.standard_normal((2, batch, targets, width))
    labels = overlaps(torch.from_numpy(rng.uniform(0, 64, (batch, targets, 3))), (96,) * 3, (3, 3, 3))
    labels[0, 0] = torch.eye(27)[4]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return max(0.0, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))

    position, absence, distinct = [], [], []
    for i in range(batch):
        for t in range(targets):
            positive, absent, total = 0.0, [], 0.0
            for b in range(bases):
                s = (cosine(s_targets[i, t], t_bases[i, b]) + cosine(t_targets[i, t], s_bases[i, b])) / 2
                label = float(labels[i, t, b])
                if label > 0:
                    positive -= label * np.log(1 - abs(label - s) + 1e-6)
                    total += label
                else:
                    absent.append(s**2)
            position.append(positive / total)
            absence.append(np.mean(absent))
        distinct += [cosine(s_bases[i, a], s_bases[i, b]) ** 2 for a, b in itertools.combinations(range(bases), 2)]
    one, two, three, four = (torch.from_numpy(x) for x in (s_targets, t_bases, t_targets, s_bases))
    predicted = (agreement(one, two) + agreement(three, four)) / 2
    assert position_loss(predicted, labels).item() == pytest.approx(np.mean(position), rel=1e-5)
    assert absence_loss(predicted, labels == 0).item() == pytest.approx(np.mean(absence), rel=1e-5)
    everything = torch.ones(four.shape[:2], dtype=torch.bool)
    assert distinctness_loss(four, everything).item() == pytest.approx(np.mean(distinct), rel=1e-5)


def test_a_target_that_touches_every_base_crop_has_no_negatives() -> None:
    labels = overlaps(torch.tensor([[[3.0, 3.0, 3.0]]]), (16, 16, 16), (2, 2, 2))
    predicted = torch.full_like(labels, 0.7).requires_grad_()
    loss = absence_loss(predicted, labels == 0)
    loss.backward()
    assert loss.item() == 0 and predicted.grad is not None and not predicted.grad.any()


def test_base_crops_are_held_still_as_second_of_a_pair() -> None:
    bases = torch.rand(2, 4, 6, generator=generator(), requires_grad=True)
    distinctness_loss(bases, torch.ones(bases.shape[:2], dtype=torch.bool)).backward()
    assert bases.grad is not None
    assert bases.grad[:, :3].abs().amax(dim=2).min() > 0 and not bases.grad[:, 3].any()


def test_trivial_value_is_the_best_a_constant_gets() -> None:
    method, _ = make(options=SMALL)
    labels = overlaps(method.places(torch.rand(4000, 1, 3, generator=generator(5))), (16,) * 3, (3, 3, 3))
    values = {c: position_loss(torch.full_like(labels, c), labels).item() for c in (0.0, method.constant, 0.6, 1.0)}
    assert min(values, key=values.__getitem__) == method.constant == pytest.approx(best_constant(labels), abs=0.051)


# -------------------------------------------------------------------------------------------------------------- crops


def test_crops_fit_the_stride_and_leave_the_norms_something() -> None:
    assert crop_size((96, 96, 96), (3, 3, 3), 32) == (64, 64, 64)
    assert crop_size((160, 160, 160), (2, 2, 2), 32) == (96, 96, 96)
    assert crop_size((32, 40, 32), (2, 2, 2), 8) == (16, 24, 16)
    method, sampler = make(options=SMALL)
    bases, targets, _ = method.crops(sampler[0], generator())
    assert bases.shape == (2, 27, 8, 8, 8) and targets.shape == (2, 1, 8, 8, 8)
    assert min(method.encoder(bases[0, :, None])[-1].shape[2:]) == 2


@pytest.mark.parametrize("grid", [(2, 3, 1), (3, 3, 3)])
def test_tiles_are_the_base_crops(grid: tuple[int, int, int]) -> None:
    patch, size = (12, 9, 10), (8, 4, 12)
    images = torch.rand(2, 1, *patch, generator=generator())
    found = tiles(images, grid, size)
    edge = torch.tensor(patch, dtype=torch.float64) / torch.tensor(grid)
    for number, start in enumerate(corners(patch, grid)):
        one = cut(images, Crops(start.expand(2, 3), edge.expand(2, 3)), size)
        torch.testing.assert_close(found[:, number], one[:, 0])
    same = tiles(images[:, :, :8, :8, :8], (2, 2, 2), (4, 4, 4))
    assert torch.equal(same[:, 6], images[:, 0, 4:8, 4:8, :4])


def test_labels_stay_right_under_mirrors_and_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = make(options=replace(SMALL, flip=0.5, turn=1.0, targets=27))
    monkeypatch.setattr(method, "places", lambda unit: corners((16,) * 3, (3, 3, 3)).expand(unit.shape))
    batch = sampler[0]
    posed = method.posed(batch, generator())
    assert not torch.equal(posed, batch.images)
    bases, targets, start = method.crops(batch, generator())
    torch.testing.assert_close(targets, bases)
    torch.testing.assert_close(overlaps(start, (16,) * 3, (3, 3, 3))[0], torch.eye(27), atol=1e-6, rtol=0)


def test_targets_lie_at_every_whole_voxel_inside_the_patch() -> None:
    method, _ = make(options=SMALL)
    starts = method.places(torch.rand(20_000, 3, generator=generator(), dtype=torch.float64))
    counts = [starts[:, axis].unique(return_counts=True) for axis in range(3)]
    for values, count in counts:
        assert values.tolist() == list(range(11))  # 10 + 16 / 3 < 16
        assert count.min() > 0.85 * 20_000 / 11
    method, _ = make(options=EIGHT)
    assert method.places(torch.rand(1000, 3, generator=generator())).max() == 8


def test_background_stays_zero() -> None:
    method, sampler = make(options=replace(EIGHT, flip=0.0, turn=0.0))
    images = sampler[0].images
    posed = method.posed(sampler[0], generator())
    assert ((posed == 0) == (images == 0)).all()
    shifts = (posed - images)[images != 0]
    assert 0 < shifts.abs().max() <= 0.1 + 1e-5


def test_base_crops_and_targets_of_two_modalities() -> None:
    store = brains(2, MODALITIES)
    store._present = {"case00": ("t2",)}
    options = replace(EIGHT, cross_modal=True, flip=0.0, turn=0.0, offset=0.0)
    method, sampler = make(store, options)
    batch = sampler[0]
    assert batch.images.shape[1] == 2
    bases, targets, start = method.crops(batch, generator())
    for i in range(2):
        z, y, x = (int(v) for v in start[i, 0])
        assert torch.equal(targets[i, 0], batch.images[i, 1, z : z + 8, y : y + 8, x : x + 8])
        assert torch.equal(bases[i, 0], batch.images[i, 0, :8, :8, :8])
        lone = batch.cases[i].endswith("case00")
        assert torch.equal(batch.images[i, 0], batch.images[i, 1]) == lone
    assert all(term.value.isfinite() for term in method.losses(batch, 0, generator()).values())
    with pytest.raises(InputError, match="one modality in every case"):
        make(brains(2, ["t1"]), options)


# ------------------------------------------------------------------------------------------------------------ teacher


def test_teacher_follows_without_gradient() -> None:
    method, sampler = make()
    sum(t.value for t in method.losses(sampler[0], 0, generator()).values()).backward()
    teachers = [*method.teacher_encoder.parameters(), *method.teacher_projector.parameters()]
    students = [*method.encoder.parameters(), *method.projector.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in teachers)
    assert any(bool(p.grad.any()) for p in method.encoder.parameters())
    before = [p.clone() for p in teachers]
    method.after_step(0)  # equal weights
    assert all(torch.equal(a, b) for a, b in zip(before, teachers, strict=True))
    with torch.no_grad():
        for p in students:
            p.add_(1.0)
    method.after_step(1)
    for old, teacher, student in zip(before, teachers, students, strict=True):
        torch.testing.assert_close(teacher, 0.9 * old + 0.1 * student)


def test_losses_do_not_depend_on_the_order_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = make(brains(4, MODALITIES), replace(SMALL, targets=2), batch=4)
    drawn = method.crops(sampler[0], generator())
    values = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        monkeypatch.setattr(method, "crops", lambda batch, g, order=order: tuple(part[order] for part in drawn))
        values.append([term.value.item() for term in method.losses(sampler[0], 0, generator()).values()])
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_runs_that_cannot_work_are_refused() -> None:
    spec = ENCODERS["resenc-smoke"]
    VolumeContrast.check_settings(SMALL, spec, (16, 12, 16), 1)
    with pytest.raises(InputError, match=r"--patch-size.*16 x 8 x 16, cut into 3 x 3 x 3 base crops.*12 x 12 x 12"):
        VolumeContrast.check_settings(SMALL, spec, (16, 8, 16), 1)
    with pytest.raises(InputError, match="two base crops at least"):
        VolumeContrast.check_settings(replace(SMALL, grid=(1, 1, 1)), spec, (16, 16, 16), 1)
    with pytest.raises(InputError, match="--targets: found 0; expected a whole number from 1"):
        VolumeContrast.check_settings(replace(SMALL, targets=0), spec, (16, 16, 16), 1)


def test_a_case_much_smaller_than_the_patch_is_refused() -> None:
    def store(z: int) -> FakeStore:
        brain = brains(3, MODALITIES)
        brain.volumes["case01"] = brain.volumes["case01"][:, :z]
        return brain

    make(store(8), EIGHT)  # of 16 voxels, half a base crop of 8 is padding on either side
    with pytest.raises(InputError, match=r"Dataset521_Fake/case01.*14 mm along z.*patch is 32 mm.*at least 16 mm") as e:
        make(store(7), EIGHT)
    assert "--patch-size" in str(e.value) and "--spacing" in str(e.value)
    make(store(7), replace(EIGHT, grid=(1, 2, 2)))  # one layer of base crops along z: as good as any method's patch


@pytest.mark.parametrize(("options", "steps"), [(EIGHT, 50), (replace(SMALL, targets=4), 70)])
def test_two_volumes_are_overfitted(options: VocoOptions, steps: int) -> None:
    method, sampler = make(brains(2, ["t1"], variation=1.0), options)
    batch = sampler[0]
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    for step in range(steps):
        terms = method.losses(batch, 0, generator())
        optimiser.zero_grad()
        torch.stack([t.value for t in terms.values()]).sum().backward()
        optimiser.step()
        method.after_step(step)
    assert terms["position"].value < 0.5 * terms["position"].trivial
    assert terms["negative"].value < 0.1 and terms["distinct"].value < 0.15


def test_interrupted_and_resumed_equals_uninterrupted(run: Callable[..., Any], tmp_path: Path) -> None:
    run("whole", method="voco", options=EIGHT)
    store = brains(3, MODALITIES)
    store.__class__ = Unplugged
    store.reads_left = 9  # type: ignore[attr-defined]  # 2 per step
    with pytest.raises(KeyboardInterrupt):
        run("parts", store=store, method="voco", options=EIGHT)
    content = torch.load(tmp_path / "parts" / "checkpoint_last.pt", weights_only=True)["method"]
    name = next(name for name, value in content.items() if name.startswith("encoder.") and value.dim() == 5)
    assert not torch.equal(content[name], content["teacher_encoder.module." + name.removeprefix("encoder.")])
    store.reads_left = 10**9  # type: ignore[attr-defined]
    run("parts", store=store, method="voco", options=EIGHT)
    for file in ("encoder.safetensors", "log.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


def test_pictures() -> None:
    method, sampler = make()
    shown = method.pictures(sampler[0], 0, generator())["views"]
    assert shown["patch"].shape == (2, 1, 16, 16, 16)
    assert shown["target"].shape == shown["nearest base crop"].shape == (2, 8, 8, 8)


def test_empty_crops_count_nowhere_and_pass_no_gradient() -> None:
    method, sampler = make(options=replace(SMALL, flip=0.0, turn=0.0, offset=0.0))
    batch = sampler[0]
    batch.images[:, :, : batch.images.shape[2] // 2] = 0.0
    bases, _, _ = method.crops(batch, generator())
    shown = (bases != 0).flatten(2).any(dim=2)
    assert 0 < shown.sum() < shown.numel()
    terms = method.losses(batch, 0, generator())
    torch.stack([term.weight * term.value for term in terms.values()]).sum().backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e3 for p in method.encoder.parameters())
    features = torch.randn(1, 2, 3, requires_grad=True)
    counted = torch.tensor([[True, False]])
    assert distinctness_loss(features, counted).item() == 0
    nothing = torch.zeros(2, 1, 3)
    assert position_loss(torch.rand(2, 1, 3), nothing).item() == 0
