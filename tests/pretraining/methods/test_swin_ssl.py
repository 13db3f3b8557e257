"""Swin UNETR's pre-training: turns, cut-outs, the three losses against slow versions, over-fitting, what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.swin_ssl import (
    BOXES,
    Cuts,
    SwinSsl,
    SwinSslOptions,
    absolute_error,
    constant_absolute_error,
    cut_out,
    draw_cuts,
    first_box,
    first_boxes_within,
    scaled_noise,
)
from mvp_bench.pretraining.sampling import PatchSampler
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.boxes import draw_boxes, edge_range
from mvp_bench.pretraining.views.geometry import turn
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import build, generator, overfitted, source
from tests.pretraining.fake_store import brains

SMOKE = ENCODERS["resenc-smoke"]
UNCUT = SwinSslOptions(cut_noise=0.0, cut_other=0.0)


def make(
    options: SwinSslOptions | None = None, batch: int = 2, patch: Size | None = None
) -> tuple[SwinSsl, PatchSampler]:
    """On brains of one modality, which makes all images of a batch known."""
    store = brains(4, ["t1"], variation=1.0)
    method, sampler = build("swinunetr_ssl", store, options, batch)
    assert isinstance(method, SwinSsl)
    if patch is not None:
        method = SwinSsl(method.options, replace(method.context, patch=patch))
        sampler = PatchSampler([source(store)], ("t1",), patch, batch, method.sampling(), 0, 10)
    return method, sampler


@pytest.mark.parametrize("patch", [(16, 16, 16), (16, 24, 16), (12, 16, 16)])
def test_target_is_the_turned_image_and_turning_back_gives_it(patch: Size) -> None:
    method, sampler = make(patch=patch, batch=4)
    batch = sampler[0]
    views = method.views(batch, generator(1))
    assert set(views.turns.tolist()) <= {0, 1, 2, 3} and len(set(views.turns.tolist())) > 2
    image = batch.images.repeat(2, 1, 1, 1, 1)
    assert torch.equal(turn(views.target, -views.turns, method.plane), image)
    assert not torch.equal(views.target, image)
    four = image
    for _ in range(4):
        four = turn(four, torch.ones(8, dtype=torch.int64), method.plane)
    assert torch.equal(four, image)


def test_at_most_60_percent_of_a_patch_is_altered() -> None:
    shares = []
    for patch in ((16, 16, 16), (16, 24, 16)):
        method, sampler = make(patch=patch, batch=4)
        for seed in range(5):
            views = method.views(sampler[seed], generator(seed))
            shares.append((views.cut != views.target).flatten(1).float().mean(1))
    assert torch.cat(shares).max() <= 0.6
    assert torch.cat(shares).mean() > 0.35  # background replaced by background does not count as altered


@pytest.mark.parametrize("patch", [(16, 16, 16), (32, 40, 32)])
def test_each_cut_out_takes_nearly_as_much_as_it_may(patch: Size) -> None:
    cuts = draw_cuts(6, patch, SwinSslOptions(), generator())
    for start, stop in ((cuts.noise_start, cuts.noise_stop), (cuts.other_start, cuts.other_stop)):
        shares = first_boxes_within(start, stop, patch, 0.3).flatten(1).float().mean(1)
        assert shares.max() <= 0.3 and shares.min() > 0.25
    edges = cuts.noise_stop - cuts.noise_start
    assert edges.min() >= 1 and all(int(edges[..., a].max()) == patch[a] // 4 for a in range(3))


def slow_prefix(start: np.ndarray, stop: np.ndarray, patch: Size, limit: float) -> np.ndarray:
    """One box after the other, until the next would be too much."""
    covered = np.zeros(patch, bool)
    for (z0, y0, x0), (z1, y1, x1) in zip(start, stop, strict=True):
        more = covered.copy()
        more[z0:z1, y0:y1, x0:x1] = True
        if more.sum() > limit * more.size:
            break
        covered = more
    return covered


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.3, 1.0])
def test_first_boxes_against_the_slow_version(limit: float) -> None:
    patch = (12, 16, 10)
    boxes = draw_boxes(3, BOXES, *edge_range(patch, 0.05, 0.25), patch, generator())
    found = first_boxes_within(boxes.start, boxes.stop, patch, limit)
    slow = [slow_prefix(a, b, patch, limit) for a, b in zip(boxes.start.numpy(), boxes.stop.numpy(), strict=True)]
    assert np.array_equal(found[:, 0].numpy(), np.stack(slow))
    first = first_box(boxes.start, boxes.stop, patch)
    for z, y, x in ((0, 0, 0), (5, 7, 4), (11, 15, 9)):
        at = torch.tensor((z, y, x))
        over = ((boxes.start <= at) & (at < boxes.stop)).all(-1)
        expected = [int(row.int().argmax()) if row.any() else BOXES for row in over]
        assert first[:, 0, z, y, x].tolist() == expected


def test_cut_out_takes_noise_in_the_images_range_and_the_other_image_in_place() -> None:
    images, others = torch.randn(2, 1, 16, 16, 16, generator=generator()), torch.full((2, 1, 16, 16, 16), 99.0)
    options = SwinSslOptions()
    cuts = draw_cuts(2, (16, 16, 16), options, generator())
    cut = cut_out(images, others, cuts, options)
    foreign = first_boxes_within(cuts.other_start, cuts.other_stop, (16, 16, 16), 0.3)
    noisy = first_boxes_within(cuts.noise_start, cuts.noise_stop, (16, 16, 16), 0.3) & ~foreign
    assert torch.equal(cut == 99.0, foreign)
    noise = scaled_noise(cuts.noise, images)
    assert torch.equal(cut[noisy], noise[noisy])
    assert torch.equal(cut[~noisy & ~foreign], images[~noisy & ~foreign])
    for row, image in zip(noise, images, strict=True):
        assert row.min().item() == pytest.approx(image.min().item(), abs=1e-4)
        assert row.max().item() == pytest.approx(image.max().item(), abs=1e-4)
    assert torch.equal(cut_out(images, others, cuts, UNCUT), images)


def test_the_other_image_is_the_next_samples_same_view() -> None:
    method, sampler = make(replace(UNCUT, cut_other=0.3), batch=3)
    views = method.views(sampler[0], generator())
    for view in range(2):
        for i in range(3):
            row, other = 3 * view + i, 3 * view + (i + 1) % 3
            same = views.cut[row] == views.target[row]
            assert not same.all()
            assert torch.equal(views.cut[row][~same], views.target[other][~same])


def slow_losses(logits: np.ndarray, turns: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Cross-entropy of turns, and NT-Xent at temperature 0.5, one exponential at a time."""
    rotation = -np.mean([row[t] - math.log(np.exp(row).sum()) for row, t in zip(logits, turns, strict=True)])
    views = [v / np.linalg.norm(v) for v in np.concatenate([first, second])]
    total, size = 0.0, len(first)
    for i, view in enumerate(views):
        shares = [math.exp(float(view @ other) / 0.5) for other in views]
        total -= math.log(shares[(i + size) % (2 * size)] / (sum(shares) - shares[i]))
    return float(rotation), total / (2 * size)


def test_losses_against_the_slow_version(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = make(batch=4)
    batch = sampler[0]
    rng = np.random.default_rng(0)
    logits, embedded = rng.standard_normal((8, 4)), rng.standard_normal((8, 5))
    rebuilt = rng.standard_normal((8, 1, 16, 16, 16))
    monkeypatch.setattr(method.rotation, "forward", lambda _: torch.from_numpy(logits))
    monkeypatch.setattr(method.contrast, "forward", lambda _: torch.from_numpy(embedded))
    monkeypatch.setattr(method.decoder, "forward", lambda _: torch.from_numpy(rebuilt))
    views, terms = method.views(batch, generator()), method.losses(batch, 0, generator())
    rotation, contrastive = slow_losses(logits, views.turns.numpy(), embedded[:4], embedded[4:])
    assert terms["rotation"].value.item() == pytest.approx(rotation, rel=1e-5)
    assert terms["contrastive"].value.item() == pytest.approx(contrastive, rel=1e-5)
    target = views.target.numpy().astype(np.float64)
    error = sum(abs(a - b) for a, b in zip(rebuilt.ravel(), target.ravel(), strict=True)) / rebuilt.size
    assert terms["reconstruction"].value.item() == pytest.approx(error, rel=1e-5)


def test_trivial_values() -> None:
    method, sampler = make(batch=3)
    for head in (method.rotation, method.contrast):
        for parameter in head.parameters():
            torch.nn.init.constant_(parameter, 0.0 if parameter.dim() == 2 else 1.0)
    terms = method.losses(sampler[0], 0, generator())
    assert terms["rotation"].value.item() == pytest.approx(math.log(4), abs=1e-6) == terms["rotation"].trivial
    assert terms["contrastive"].value.item() == pytest.approx(math.log(5), abs=1e-5)
    assert float(terms["contrastive"].trivial) == pytest.approx(math.log(5), abs=1e-6)


def test_heads_look_at_the_whole_map_as_published_and_at_eighths_in_short_runs() -> None:
    assert make(SwinSslOptions())[0].rotation.layers[0].in_features == SMOKE.out_channels
    assert make()[0].rotation.layers[0].in_features == 8 * SMOKE.out_channels


def test_best_constant_is_the_median() -> None:
    target = torch.rand(2, 1, 3, 5, 7, generator=generator()) ** 2
    found = constant_absolute_error(target).item()
    best = np.mean([min(np.abs(t - c).mean() for c in t.ravel()) for t in target.numpy()])
    assert found == pytest.approx(float(best), rel=1e-5)
    assert absolute_error(target, target) == 0


def test_two_images_of_one_case_are_no_negatives() -> None:
    method, sampler = make(batch=3)
    batch = sampler[0]
    batch.cases = ["a", "a", "b"]
    assert float(method.losses(batch, 0, generator())["contrastive"].trivial) == pytest.approx(
        (4 * math.log(3) + 2 * math.log(5)) / 6, abs=1e-6
    )


def test_cuts_are_drawn_for_all_processes_and_shared_out() -> None:
    both = draw_cuts(4, (16, 16, 16), SwinSslOptions(), generator())
    first, second = both.chunk(2)
    assert isinstance(first, Cuts) and len(first) == len(second) == 2
    assert torch.equal(torch.cat([first.noise, second.noise]), both.noise)


def test_two_volumes_are_overfitted() -> None:
    method, sampler = make()
    fractions = overfitted(method, sampler[0])
    assert fractions["rotation"] < 0.1, fractions
    assert fractions["contrastive"] < 0.2, fractions
    assert fractions["reconstruction"] < 0.75, fractions


def test_patches_without_a_plane_of_equal_edges_are_refused() -> None:
    with pytest.raises(InputError, match="--patch-size: found 16 x 20 x 24; expected two equal edges"):
        SwinSsl.check_settings(SwinSslOptions(), SMOKE, (16, 20, 24), 2)
    SwinSsl.check_settings(SwinSslOptions(), SMOKE, (16, 20, 16), 2)


def test_a_batch_without_negatives_is_refused() -> None:
    with pytest.raises(InputError, match="--batch-size: found 1; expected at least 2"):
        make(batch=1)
    SwinSsl.check_settings(SwinSslOptions(), SMOKE, (16, 16, 16), 1, world=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"box_edges": (0.0, 0.2)}, "--box-edges"),
        ({"cut_noise": 1.5}, "--cut-noise: found 1.5"),
        ({"cut_other": -0.1}, "--cut-other"),
        ({"temperature": 0.0}, "temperature"),
        ({"pooling_grid": 0}, "--pooling-grid"),
        ({"intensity": "raw"}, "--intensity"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SwinSsl.check_settings(SwinSslOptions(**changes), SMOKE, (16, 16, 16), 2)  # type: ignore[arg-type]
