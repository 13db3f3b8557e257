"""TransVW: where words lie and what their crops show, the two losses, over-fitting, bad input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods import transvw
from mvp_bench.pretraining.methods.models_genesis import ModelsGenesis
from mvp_bench.pretraining.methods.transvw import TransVW, TransVWOptions, words_loss
from mvp_bench.pretraining.parts.visual_words import CropPlacement, Words, draw_placement, place_crops, spread_places
from mvp_bench.pretraining.sampling import Batch, Shard
from mvp_bench.pretraining.views.geometry import cut
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import brains

PATCH = (16, 20, 18)
SPACING = (2.0, 1.5, 1.0)
WHOLE = (48.0, 54.0, 36.0)
"""Extent of the volumes that patches are taken from, mm."""
CROP, JITTER = (0.5, 0.7), 0.05


def words_of(batch: int = 2, **options: Any) -> tuple[TransVW, Batch]:
    method, sampler = build("transvw", brains(4, MODALITIES), TransVWOptions(**options), batch=batch)
    assert isinstance(method, TransVW)
    return method, sampler[0]


def patches(n: int, seed: int = 0) -> Batch:
    """Patches at random places of a volume whose three 'modalities' hold each voxel's position (z, y, x) from the
    middle of the volume, mm."""
    spacing = torch.tensor(SPACING, dtype=torch.float64)
    length = torch.tensor(PATCH) * spacing
    room = torch.tensor(WHOLE, dtype=torch.float64) - length
    corner = torch.rand(n, 3, generator=generator(seed), dtype=torch.float64) * room - torch.tensor(WHOLE) / 2
    first = corner + spacing / 2
    axes = [first[:, a, None] + spacing[a] * torch.arange(PATCH[a]) for a in range(3)]
    images = torch.stack([torch.stack(torch.meshgrid(*(p[i] for p in axes), indexing="ij")) for i in range(n)])
    return Batch(images, torch.arange(3).repeat(n, 1), first, first, spacing.expand(n, 3), [""] * n)


def spread(number: int) -> torch.Tensor:
    length = [p * s for p, s in zip(PATCH, SPACING, strict=True)]
    reach = [(w - e) / 2 + ((1 - CROP[1]) / 2 - JITTER) * e for w, e in zip(WHOLE, length, strict=True)]
    return spread_places(number, reach, [w / 2 for w in WHOLE], length)


def placed(batch: Batch, places: torch.Tensor, seed: int = 0) -> tuple[Words, CropPlacement]:
    drawn = draw_placement(len(batch.images), len(places), CROP, JITTER, generator(seed))
    return place_crops(batch, places, drawn), drawn


# -------------------------------------------------------------------------------------------------------- the places


def test_places_are_spread_inside_the_brain() -> None:
    places = spread(44)
    assert places.shape == (44, 3) and torch.equal(places, spread(44))
    assert ((places / (torch.tensor(WHOLE) / 2)) ** 2).sum(1).max() <= 1
    apart = torch.cdist(places, places) + 1e9 * torch.eye(44)
    assert apart.min(1).values.min() > 0.4 * apart.min(1).values.max() > 0
    assert places.mean(0).abs().max() < 1.5 and (places.amax(0) - places.amin(0) > 10).all()


@pytest.mark.parametrize("number", [8, 44])
def test_instances_of_a_word_come_from_one_place_plus_or_minus_the_jitter(number: int) -> None:
    """The images hold positions, so a crop shrunk to one voxel is the position of its centre."""
    batch, places = patches(300), spread(number)
    words, drawn = placed(batch, places)
    centres = cut(batch.images, words.crops, (1, 1, 1)).flatten(1)
    away = centres - places[words.word]
    length = torch.tensor(PATCH) * torch.tensor(SPACING, dtype=torch.float64)
    assert torch.allclose(away[words.there], (drawn.jitter * length)[words.there], atol=1e-6)
    assert (away[words.there].abs() <= JITTER * length + 1e-6).all()
    assert words.there.float().mean() > (0.97 if number == 44 else 0.4)
    assert len(words.word[words.there].unique()) > 0.9 * number


def test_crops_lie_in_the_patch_with_the_drawn_edges() -> None:
    batch = patches(300)
    words, drawn = placed(batch, spread(8))
    patch = torch.tensor(PATCH)
    assert (words.crops.start >= -1e-9).all() and (words.crops.start + words.crops.size <= patch + 1e-9).all()
    assert torch.allclose(words.crops.size, drawn.edge[:, None] * patch)
    assert drawn.edge.min() >= CROP[0] and drawn.edge.max() <= CROP[1]


def test_out_of_reach_the_crop_is_as_near_as_can_be_and_is_not_of_the_word() -> None:
    batch = patches(50)
    far = torch.tensor([[200.0, 300.0, 100.0]], dtype=torch.float64)
    words, _ = placed(batch, far)
    assert not words.there.any() and (words.word == 0).all()
    end = words.crops.start + words.crops.size
    assert torch.allclose(end, torch.tensor(PATCH, dtype=torch.float64).expand(50, 3))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 30))
def test_a_word_is_taken_where_one_can_be_reached(seed: int, number: int) -> None:
    """Reach recomputed axis by axis."""
    batch, places = patches(4, seed), spread(number)
    words, drawn = placed(batch, places, seed)
    for i in range(4):
        reached = []
        for place in places.tolist():
            inside = True
            for axis in range(3):
                length = PATCH[axis] * SPACING[axis]
                low = float(batch.centre_offset[i, axis]) - SPACING[axis] / 2
                centre = place[axis] + float(drawn.jitter[i, axis]) * length
                half = float(drawn.edge[i]) * length / 2
                inside &= low - 1e-6 <= centre - half and centre + half <= low + length + 1e-6
            reached.append(inside)
        assert bool(words.there[i]) == any(reached)
        assert not any(reached) or reached[int(words.word[i])]


def test_a_word_is_the_same_in_every_modality() -> None:
    method, batch = words_of(batch=4)
    other = replace(batch, images=batch.images.flip(2), modality=(batch.modality + 1) % 3)
    first, second = method.view(batch, generator()), method.view(other, generator())
    assert torch.equal(first.word, second.word) and not torch.equal(first.target, second.target)


@pytest.mark.parametrize(("preset", "patch"), [("mini", (32, 40, 32)), ("default", (96, 96, 96))])
def test_most_patches_of_a_brain_show_a_word(preset: str, patch: tuple[int, int, int]) -> None:
    """At 2.5 and 1 mm."""
    options = TransVWOptions.presets().get(preset, TransVWOptions())
    spacing, whole = (2.5 if preset == "mini" else 1.0), torch.tensor([146.0, 176.0, 145.0], dtype=torch.float64)
    length = torch.tensor(patch, dtype=torch.float64) * spacing
    reach = (whole - length) / 2 + ((1 - options.crop_edges[1]) / 2 - options.jitter) * length
    places = spread_places(options.classes, reach.tolist(), (whole / 2).tolist(), length.tolist())
    n = 400
    corner = torch.rand(n, 3, generator=generator(), dtype=torch.float64) * (whole - length) - whole / 2
    steps = torch.full((n, 3), spacing, dtype=torch.float64)
    empty = torch.zeros(1).expand(n, 1, *patch)
    batch = Batch(empty, torch.zeros(n, 1, dtype=torch.int64), corner + spacing / 2, corner, steps, [""] * n)
    drawn = draw_placement(n, options.classes, options.crop_edges, options.jitter, generator())
    assert place_crops(batch, places, drawn).there.float().mean() > 0.9


# ---------------------------------------------------------------------------------------------------------- the views


def test_the_target_is_warped_like_the_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transvw, "corrupt", lambda images, drawn: images)
    method, batch = words_of()
    view = method.view(batch, generator())
    assert torch.equal(view.corrupted, view.target)
    method.options = replace(method.options, elastic=0.0)
    assert not torch.allclose(method.view(batch, generator()).target, view.target, atol=1e-2)


def test_without_warp_the_target_is_the_crop() -> None:
    method, batch = words_of(elastic=0.0)
    drawn = draw_placement(2, method.options.classes, method.options.crop_edges, method.options.jitter, generator())
    crop = cut(batch.images[:, :1], place_crops(batch, method.places, drawn).crops, (16, 16, 16))
    assert torch.allclose(method.view(batch, generator()).target, crop, atol=1e-5)


def test_two_shares_are_one_step() -> None:
    method, batch = words_of(batch=4)
    whole = method.view(batch, generator(4))
    for rank in (0, 1):
        share = replace(batch.select([2 * rank, 2 * rank + 1]), shard=Shard(rank, 2))
        for part, all_ in zip(method.view(share, generator(4)), whole, strict=True):
            assert torch.equal(part, all_[2 * rank : 2 * rank + 2])


# --------------------------------------------------------------------------------------------------------- the losses


@pytest.mark.parametrize("classes", [44, 200])
def test_cross_entropy_of_equal_logits_is_the_logarithm_of_the_classes(classes: int) -> None:
    value = words_loss(torch.zeros(3, classes), torch.tensor([0, 5, 43]), torch.tensor([True, False, True]))
    assert value.item() == pytest.approx(math.log(classes), rel=1e-6)
    assert math.log(classes) == pytest.approx({44: 3.784, 200: 5.298}[classes], abs=1e-3)


def test_words_loss_against_numpy() -> None:
    logits, word = 3 * torch.randn(6, 9, generator=generator()), torch.tensor([0, 8, 3, 3, 1, 7])
    there = torch.tensor([True, True, False, True, False, True])
    losses = []
    for scores, label, counts in zip(logits.double().numpy(), word.tolist(), there.tolist(), strict=True):
        if counts:
            losses.append(np.log(np.sum(np.exp(scores))) - scores[label])
    assert words_loss(logits, word, there).item() == pytest.approx(np.mean(losses), rel=1e-5)
    order = torch.tensor([5, 2, 0, 1, 4, 3])
    assert torch.allclose(words_loss(logits[order], word[order], there[order]), words_loss(logits, word, there))


def test_where_no_word_is_reached_nothing_is_asked() -> None:
    logits = torch.randn(2, 4, requires_grad=True)
    value = words_loss(logits, torch.tensor([0, 1]), torch.zeros(2, dtype=torch.bool))
    value.backward()
    assert value == 0 and logits.grad is not None and not logits.grad.any()


def test_without_words_it_is_models_genesis(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = words_of(weight_classification=0.0)
    genesis, _ = build("models_genesis", brains(4, MODALITIES))
    assert isinstance(genesis, ModelsGenesis)
    genesis.encoder.load_state_dict(method.encoder.state_dict())
    genesis.decoder.load_state_dict(method.decoder.state_dict())
    view = method.view(batch, generator())
    monkeypatch.setattr(genesis, "views", lambda batch, generator: (view.corrupted, view.target))
    totals = [
        sum(term.weight * term.value for term in kind.losses(batch, 0, generator()).values())
        for kind in (method, genesis)
    ]
    assert totals[0] == totals[1]


# ---------------------------------------------------------------------------------------------------- training, input


def test_two_volumes_are_overfitted() -> None:
    method, sampler = build("transvw", brains(2, ["t1"], variation=1.0))
    batch = sampler[0]
    assert isinstance(method, TransVW) and method.view(batch, generator()).there.any()
    fractions = overfitted(method, batch, steps=50)
    assert fractions["restoration"] < 0.1 and fractions["words"] < 0.05, fractions


def test_z_scores_are_refused() -> None:
    options: Any = TransVWOptions(intensity="zscore")
    with pytest.raises(InputError, match="unit for TransVW"):
        build("transvw", brains(2, MODALITIES), options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": 1}, "classes: found 1"),
        ({"crop_edges": (0.0, 0.5)}, "--crop-edges: found"),
        ({"crop_edges": (0.7, 0.5)}, "--crop-edges: found"),
        ({"crop_edges": (0.5, 1.0)}, "--crop-edges: found"),
        ({"jitter": 0.16}, "jitter: found 0.16"),
        ({"jitter": -0.1}, "jitter: found -0.1"),
        ({"elastic": 0.2}, "elastic: found 0.2"),
        ({"weight_classification": -1.0}, "--weight-classification: found -1.0"),
        ({"pooling_grid": 5}, "--pooling-grid: found 5; expected 1 to 4"),
        ({"decreasing": 2.0}, "--decreasing: found 2.0"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TransVW.check_settings(TransVWOptions(**options), ENCODERS["resenc-smoke"], (16, 16, 16), 2)


def test_pictures() -> None:
    method, batch = words_of()
    shown = method.pictures(batch, 0, generator())["views"]
    assert {volumes.shape for volumes in shown.values()} == {(2, 1, 16, 16, 16)}
