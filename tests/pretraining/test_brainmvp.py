"""BrainMVP's views, gradients and cases that lack modalities."""

from __future__ import annotations

import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.brainmvp import BrainMvp, BrainMvpOptions
from mvp_bench.pretraining.reconstruction import Error
from mvp_bench.pretraining.sampling import Batch, PatchSampler
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator
from tests.pretraining.fake_store import FakeStore, brains

ALWAYS_OTHER = BrainMvpOptions(cross_modal_start=0.0, contrastive_start=0.0)


def make(
    store: FakeStore | None = None, options: BrainMvpOptions = ALWAYS_OTHER, **more: int
) -> tuple[BrainMvp, PatchSampler]:
    method, sampler = build("brainmvp", store or brains(3, MODALITIES), options, **more)
    assert isinstance(method, BrainMvp)
    return method, sampler


def views(method: BrainMvp, batch: Batch, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """target, other, has_other, view 1, view 2."""
    random = generator(seed)
    pair = method.draw_pair(batch, random)
    return pair.target, pair.other, pair.has_other, *method.views(batch, pair, random)


def test_zero_templates_give_a_zero_masked_image() -> None:
    method, sampler = make()
    target, _, _, first, _ = views(method, sampler[0])
    hidden = first != target
    assert (first[hidden] == 0).all()
    assert hidden.any()


def test_views_keep_or_fill_every_voxel_and_have_masks_of_their_own() -> None:
    method, sampler = make()
    with torch.no_grad():
        method.templates.volumes.fill_(77.0)
    target, other, has_other, first, second = views(method, sampler[0])
    assert has_other.all()
    assert ((first == target) | (first == 77.0)).all()
    assert ((second == target) | (second == other)).all()
    hidden = 1 - method.kept / method.grid[0] ** 3
    kept_first, kept_second = first != 77.0, second == target
    assert (1 - kept_first.float().mean()).item() == pytest.approx(hidden)
    assert not torch.equal(kept_first, kept_second)
    assert not torch.equal(kept_first[0], kept_first[1])


def test_other_image_is_another_modality_of_the_same_case_and_place() -> None:
    method, sampler = make()
    for step in range(4):
        batch = sampler[step]
        target, modality, other, _ = method.draw_pair(batch, generator(step))
        for i in range(len(target)):
            chosen = [k for k in range(2) if torch.equal(batch.images[i, k], target[i, 0])]
            assert batch.modality[i, chosen[0]] == modality[i]
            assert torch.equal(other[i, 0], batch.images[i, 1 - chosen[0]])


def test_repeated_modalities_count_once() -> None:
    method, sampler = make(options=replace(ALWAYS_OTHER, slots=4))
    batch = sampler[0]
    batch.modality = torch.tensor([[0, 0, 1, 0], [0, 1, 2, 2]])
    batch.images = torch.arange(8.0).view(2, 4, 1, 1, 1).expand(2, 4, 16, 16, 16)
    counts = {0: 0, 1: 0, 2: 0}
    for seed in range(600):
        _, modality, other, has_other = method.draw_pair(batch, generator(seed))
        assert has_other.all()
        if modality[1] == 0:
            slot = next(k for k in range(4) if torch.equal(batch.images[1, k], other[1, 0]))
            counts[int(batch.modality[1, slot])] += 1
    assert counts[0] == 0
    assert abs(counts[1] - counts[2]) < 0.3 * (counts[1] + counts[2])


def test_one_slot_for_the_whole_batch_as_released() -> None:
    method, sampler = make(brains(4, MODALITIES), replace(ALWAYS_OTHER, target="batch"), batch=4)
    batch = sampler[0]
    for seed in range(5):
        target, *_ = method.draw_pair(batch, generator(seed))
        assert torch.equal(target[:, 0], batch.images[:, 0]) or torch.equal(target[:, 0], batch.images[:, 1])


@pytest.mark.parametrize("options", [ALWAYS_OTHER, replace(ALWAYS_OTHER, parametrisation="minmax", intensity="unit")])
def test_gradient_reaches_only_hidden_voxels_of_the_target_modality(options: BrainMvpOptions) -> None:
    method, sampler = make(brains(1, MODALITIES), options)
    with torch.no_grad():
        method.templates.volumes.copy_(torch.rand(method.templates.volumes.shape, generator=generator(5)))
    batch = sampler[0]
    _, modality, _, _ = method.draw_pair(batch, generator())
    terms = method.losses(batch, 5, generator())
    assert not torch.autograd.grad(terms["cross_modal"].value, method.templates.volumes, retain_graph=True)[0].any()
    gradient = torch.autograd.grad(terms["distillation"].value, method.templates.volumes)[0]
    used = set(modality.tolist())
    for number in range(len(MODALITIES)):
        assert bool(gradient[number].any()) == (number in used)
    inside = torch.zeros_like(gradient, dtype=torch.bool)
    for i, number in enumerate(modality.tolist()):
        first = batch.centre_offset[i] / 2.0 + (torch.tensor(method.templates.grid.shape) - 1) / 2
        z, y, x = (int(v) for v in first.round())
        inside[number, z : z + 16, y : y + 16, x : x + 16] = True
    outside = gradient * ~inside
    if options.parametrisation == "direct":
        assert not outside.any()
    else:  # only the two extremes of a used modality
        assert (outside != 0).flatten(1).sum(1).max() <= 2


def test_second_view_is_the_template_until_the_other_modality_starts() -> None:
    method, sampler = make(options=BrainMvpOptions(cross_modal_start=0.5, contrastive_start=0.5))
    early = method.losses(sampler[0], 4, generator())
    assert set(early) == {"distillation", "cross_modal"}
    gradient = torch.autograd.grad(early["cross_modal"].value, method.templates.volumes, allow_unused=True)[0]
    assert gradient.any()
    late = method.losses(sampler[0], 5, generator())
    assert set(late) == {"distillation", "cross_modal", "contrastive"}


def test_a_case_with_one_modality_gets_the_template_twice() -> None:
    store = brains(2, MODALITIES)
    store._present = {"case00": ("t2",)}
    method, sampler = make(store)
    with torch.no_grad():
        method.templates.volumes.fill_(77.0)
    batch = sampler[0]
    lone = batch.cases.index("Dataset521_Fake/case00")
    target, _, has_other, _, second = views(method, batch)
    assert has_other.tolist() == [i != lone for i in range(2)]
    assert ((second[lone] == target[lone]) | (second[lone] == 77.0)).all()
    assert (second[1 - lone] != 77.0).all()
    assert all(term.value.isfinite() for term in method.losses(batch, 9, generator()).values())


def test_runs_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="no negatives"):
        make(batch=1)
    assert make(options=replace(ALWAYS_OTHER, weight_contrastive=0.0), batch=1)
    lonely = brains(2, ["t1"])
    with pytest.raises(InputError, match="one modality in every case"):
        make(lonely)
    assert make(lonely, replace(ALWAYS_OTHER, cross_modal_start=1.0))


def test_losses_do_not_depend_on_the_order_of_the_batch() -> None:
    # With every block kept there is nothing random but the slot, which one slot leaves no choice in.
    options = replace(ALWAYS_OTHER, mask_ratio=0.0, slots=1)
    method, sampler = make(brains(4, MODALITIES), options, batch=4)
    batch = sampler[0]
    method.eval()
    ordered, shuffled = (method.losses(b, 9, generator()) for b in (batch, batch.select([2, 0, 3, 1])))
    for name, term in ordered.items():
        assert term.value.item() == pytest.approx(shuffled[name].value.item(), rel=1e-4)


def test_two_volumes_are_overfitted() -> None:
    options = replace(ALWAYS_OTHER, mask_ratio=0.5)
    method, sampler = make(brains(2, ["t1", "t2"], variation=1.0), options)
    batch = sampler[0]
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    for _ in range(30):
        terms = method.losses(batch, 9, generator())
        optimiser.zero_grad()
        torch.stack([t.value for t in terms.values()]).sum().backward()
        optimiser.step()
    for name, term in terms.items():
        assert term.value < 0.7 * term.trivial, name


@pytest.mark.parametrize("preset", ["mini", "paper", "official"])
def test_presets_run(preset: str) -> None:
    method, sampler = make(options=BrainMvpOptions.presets()[preset])
    terms = method.losses(sampler[0], 9, generator())
    total = torch.stack([t.weight * t.value for t in terms.values()]).sum()
    total.backward()
    assert total.isfinite() and set(terms) == {"distillation", "cross_modal", "contrastive"}


def test_published_numbers() -> None:
    presets = BrainMvpOptions.presets()
    assert (presets["paper"].mask_ratio, presets["official"].mask_ratio) == (0.875, 0.8)
    assert presets["official"].weight_distillation == 10.0 and presets["paper"].weight_distillation == 1.0
    for name in ("paper", "official"):
        assert presets[name].temperature == 1.0
        assert presets[name].cross_modal_start == 0.2 and presets[name].contrastive_start == pytest.approx(2 / 3)


@pytest.mark.parametrize("align", ["centre", "world"])
@pytest.mark.parametrize("coarsening", [1.0, 2.5])
def test_templates_reach_every_voxel_of_every_case(align: str, coarsening: float) -> None:
    store = brains(2, MODALITIES)
    store._origins = {"case00": (-20.0, -30.0, 5.0), "case01": (-16.0, -34.0, 9.0)}
    store.volumes["case01"] = store.volumes["case01"][:, :21, :25, :22]
    options = replace(ALWAYS_OTHER, align=align, template_coarsening=coarsening)  # type: ignore[arg-type]
    method, sampler = make(store, options)
    with torch.no_grad():
        method.templates.volumes.fill_(1.0)
    for step in range(5):
        batch = sampler[step]
        position = batch.centre_offset if align == "centre" else batch.world
        filler = method.templates.windows(batch.modality[:, 0], position, batch.spacing, (16, 16, 16))
        assert torch.allclose(filler, torch.ones_like(filler), atol=1e-5)


def test_world_positions_are_right_off_the_templates_grid() -> None:
    """Cases of different frames, sizes and places: each filler voxel is the template's at its own world position."""
    store = brains(3, MODALITIES)
    store._origins = {"case00": (-21.0, -30.0, 5.0), "case01": (-16.0, -34.5, 9.0), "case02": (7.0, 0.5, -3.0)}
    store.volumes["case01"] = store.volumes["case01"][:, :21, :25, :22]
    options = replace(ALWAYS_OTHER, align="world", subvoxel=True)
    method, sampler = make(store, options)
    grid = method.templates.grid
    axes = [
        first + edge * torch.arange(n) for first, edge, n in zip(grid.origin, grid.spacing, grid.shape, strict=True)
    ]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    with torch.no_grad():
        method.templates.volumes.copy_((z + 10 * y - 3 * x).expand_as(method.templates.volumes))
    for step in range(4):
        batch = sampler[step]
        found = method.templates.windows(batch.modality[:, 0], batch.world, batch.spacing, (16, 16, 16))
        for i in range(2):
            z, y, x = torch.meshgrid(*[batch.world[i, a] + 2.0 * torch.arange(16) for a in range(3)], indexing="ij")
            assert torch.allclose(found[i, 0], (z + 10 * y - 3 * x).float(), atol=1e-3)


def test_all_slots_are_rebuilt_as_published() -> None:
    store = brains(3, MODALITIES)
    store._present = {"case01": ("flair", "t1")}
    method, sampler = make(store, replace(ALWAYS_OTHER, target="all", slots=0))
    assert method.sampling().slots == len(MODALITIES)
    batch = sampler[0]
    pair = method.draw_pair(batch, generator())
    assert torch.equal(pair.target[:, 0], batch.images.flatten(0, 1))
    assert torch.equal(pair.modality, batch.modality.flatten())
    with torch.no_grad():
        method.templates.volumes.copy_(torch.rand(method.templates.volumes.shape, generator=generator(5)))
    first, _ = method.views(batch, pair, generator(1))
    for row in range(6):
        sample = row // 3
        window = method.templates.windows(
            pair.modality[row : row + 1],
            batch.centre_offset[sample : sample + 1],
            batch.spacing[sample : sample + 1],
            (16, 16, 16),
        )
        assert ((first[row] == pair.target[row]) | (first[row] == window[0])).all()
    terms = method.losses(batch, 9, generator())
    assert terms["contrastive"].trivial == pytest.approx(math.log(6))
    assert all(term.value.isfinite() for term in terms.values())


def test_every_published_difference_is_a_field() -> None:
    """Mask ratio, weights, starts, slots, temperature, template size, target, scaling; each can be set alone."""
    presets = BrainMvpOptions.presets()
    differing = {f.name for f in fields(BrainMvpOptions) if len({getattr(p, f.name) for p in presets.values()}) > 1}
    assert {"mask_ratio", "weight_distillation", "slots", "target", "template_shape", "align", "epsilon"} <= differing
    assert presets["official"].template_shape == (155, 240, 240) and presets["official"].epsilon == 1e-9
    assert (presets["paper"].target, presets["official"].target) == ("all", "batch")
    for name in ("weight_distillation", "weight_cross_modal", "weight_contrastive"):  # each loss can be left out
        method, sampler = make(options=replace(ALWAYS_OTHER, **{name: 0.0}))
        terms = method.losses(sampler[0], 9, generator())
        torch.stack([t.weight * t.value for t in terms.values()]).sum().backward()
        assert sum(t.weight == 0 for t in terms.values()) + (3 - len(terms)) == 1


TABLE: dict[str, tuple[object, object]] = {
    "mask_ratio": (0.875, 0.8),
    "block": (8, 8),
    "weight_distillation": (1.0, 10.0),
    "weight_cross_modal": (1.0, 1.0),
    "weight_contrastive": (1.0, 1.0),
    "contrastive_start": (2 / 3, 2 / 3),
    "cross_modal_start": (0.2, 0.2),
    "slots": (0, 4),
    "target": ("all", "batch"),
    "temperature": (1.0, 1.0),
    "parametrisation": ("minmax", "minmax"),
    "intensity": ("unit", "unit"),
    "batch_size": (3, 3),
    "accumulation": (1, 2),
    "learning_rate": (3e-4, 3e-4),
    "weight_decay": (1e-5, 1e-5),
    "template_decay": (1e-5, 1e-5),
    "patch_size": ((96, 96, 96), (96, 96, 96)),
    "spacing": (1.0, 1.0),
}
"""What paper and released code say, by the field that says it here."""


def test_paper_and_official_are_what_was_published_and_released() -> None:
    presets, loops = BrainMvpOptions.presets(), BrainMvpOptions.loops()
    for column, preset in enumerate(("paper", "official")):
        values = {**asdict(presets[preset]), **loops[preset]}
        assert {name: values[name] for name in TABLE} == {name: row[column] for name, row in TABLE.items()}, preset
    assert presets["official"].align == "volume" and presets["official"].template_shape == (155, 240, 240)
    assert get_args(Error) == ("mse", "l2"), "the norm of the reconstruction"


def test_without_templates(tmp_path: Path) -> None:
    """The ablation: a template that never moves is a zero-masked image throughout, and nothing is kept of it."""
    options = replace(ALWAYS_OTHER, template_rate=0.0)
    method, sampler = make(options=options)
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.1))
    for step in range(3):
        terms = method.losses(sampler[step], 9, generator(step))
        optimiser.zero_grad()
        torch.stack([t.value for t in terms.values()]).sum().backward()
        optimiser.step()
    assert not method.templates.volumes.any()
    assert method.save_templates(tmp_path) == {} and not list(tmp_path.iterdir())


@pytest.mark.parametrize("align", ["centre", "volume", "world"])
@pytest.mark.parametrize("edge", [96, 160])
def test_filler_index_is_voxel_index_on_the_sri24_grid(align: str, edge: int) -> None:
    """From the file to the filler: a volume of 155 x 240 x 240 voxels that hold their own index, and a template that
    holds the same. Every patch, also one padded along z, meets itself."""
    shape = (155, 240, 240)
    codes = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    store = FakeStore({"a": codes}, ["t1"], (1.0, 1.0, 1.0), origins={"a": (-120.0, 17.5, 3.0)})
    alone = replace(ALWAYS_OTHER, cross_modal_start=1.0, weight_contrastive=0.0)
    options = replace(alone, align=align, template_shape=shape)  # type: ignore[arg-type]
    method, sampler = make(store, options, batch=1, patch=edge)
    with torch.no_grad():
        method.templates.volumes.copy_(torch.from_numpy(codes))
        for step in range(3):
            target, _, _, first, second = views(method, sampler[step])
            assert torch.equal(first, target) and torch.equal(second, target)
            assert (target == 0).any() == (edge > shape[0])


@pytest.mark.parametrize("align", ["volume", "world"])
def test_filler_index_is_voxel_index_of_cropped_cases(align: str) -> None:
    """The same for cases that are stored cropped, unevenly, as preprocessing does; templates see the whole image."""
    shape, low, high = (31, 48, 47), (3, 7, 1), (29, 44, 40)
    codes = 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(1, *shape)
    cut = codes[(slice(None), *(slice(a, b) for a, b in zip(low, high, strict=True)))]
    corner = np.array([-20.0, 17.5, 3.0])
    first = {"a": tuple(float(v) for v in corner + low[::-1])}
    middle = {"a": tuple(float(v) for v in corner + (np.array(shape[::-1]) - 1) / 2)}
    store = FakeStore({"a": cut}, ["t1"], (1.0, 1.0, 1.0), origins=first, middles=middle)  # type: ignore[arg-type]
    alone = replace(ALWAYS_OTHER, cross_modal_start=1.0, weight_contrastive=0.0)
    given = shape if align == "volume" else cut.shape[1:]
    method, sampler = make(store, replace(alone, align=align, template_shape=given), batch=1)  # type: ignore[arg-type]
    with torch.no_grad():
        method.templates.volumes.copy_(torch.from_numpy(codes if align == "volume" else cut))
        for step in range(3):
            target, _, _, one, two = views(method, sampler[step])
            assert torch.equal(one, target) and torch.equal(two, target)


def test_the_middle_of_the_uncropped_image_must_be_known() -> None:
    store = FakeStore(brains(1, MODALITIES).volumes, MODALITIES, middles={})
    with pytest.raises(InputError, match=r"without a note of where(.|\n)*run mvp_plan again"):
        make(store, replace(ALWAYS_OTHER, align="volume"))


def test_a_batch_of_one_per_process_needs_the_others_negatives() -> None:
    arguments = (ENCODERS["resenc-smoke"], (16, 16, 16), 1)
    BrainMvp.check_settings(ALWAYS_OTHER, *arguments, world=2)
    for options, world in ((ALWAYS_OTHER, 1), (replace(ALWAYS_OTHER, gather_negatives=False), 2)):
        with pytest.raises(InputError, match="no negatives"):
            BrainMvp.check_settings(options, *arguments, world=world)
