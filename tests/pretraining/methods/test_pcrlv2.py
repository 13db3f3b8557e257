"""PCRLv2: crops, similarities against slow versions, the middle scale's weight, over-fitting, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.models.record import EncoderRecord
from mvp_bench.pretraining.methods.pcrlv2 import Pcrlv2, Pcrlv2Options
from mvp_bench.pretraining.methods.pcrlv2.network import local_global, mean_cosine, simsiam
from mvp_bench.pretraining.methods.pcrlv2.options import crop_sizes, middle_weight
from mvp_bench.pretraining.methods.pcrlv2.views import (
    block_edge,
    damaged,
    draw_looks,
    draw_pairs,
    draw_swaps,
    overlap,
    swap,
)
from mvp_bench.pretraining.sampling import PatchSampler
from mvp_bench.pretraining.views.geometry import Crops
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import FakeStore, brains
from tests.pretraining.test_run import Unplugged

SMOKE = ENCODERS["resenc-smoke"]


def make(
    store: FakeStore | None = None, options: Pcrlv2Options | None = None, batch: int = 2
) -> tuple[Pcrlv2, PatchSampler]:
    method, sampler = build("pcrlv2", store or brains(3, MODALITIES), options, batch)
    assert isinstance(method, Pcrlv2)
    return method, sampler


def test_weight_of_the_middle_scale() -> None:
    assert [middle_weight(e / 240) for e in (0, 120, 240)] == pytest.approx([1.0, 0.5, 0.0])
    method, sampler = make(options=Pcrlv2Options(weight_middle=2.0))
    weights = [method.losses(sampler[0], step, generator())["middle"].weight for step in (0, 5)]
    assert weights == pytest.approx([2.0, 1.0])


def test_identical_views_have_similarity_minus_one() -> None:
    rows = torch.randn(4, 6, generator=generator())
    assert simsiam((rows, rows), (rows, rows)).item() == pytest.approx(-1.0, abs=1e-6)
    assert local_global(rows.repeat(3, 1), (rows, rows)).item() == pytest.approx(-1.0, abs=1e-6)
    assert simsiam((rows, rows), (-rows, -rows)).item() == pytest.approx(1.0, abs=1e-6)


def test_no_gradient_reaches_the_targets() -> None:
    p1, p2, z1, z2, local = torch.randn(5, 4, 6, generator=generator()).unbind(0)
    for rows in (p1, p2, z1, z2, local):
        rows.requires_grad_()
    (simsiam((p1, p2), (z1, z2)) + local_global(local, (z1, z2))).backward()
    assert z1.grad is None and z2.grad is None
    assert all(rows.grad is not None and rows.grad.any() for rows in (p1, p2, local))


def slow_cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(a**2) * sum(b**2)))


def test_similarities_against_the_slow_version() -> None:
    rng = np.random.default_rng(0)
    p1, p2, z1, z2 = rng.standard_normal((4, 3, 5))
    local = rng.standard_normal((6, 3, 5))  # L = 6 crops of N = 3 samples
    tensors = [torch.from_numpy(rows) for rows in (p1, p2, z1, z2)]
    slow = -0.5 * np.mean([slow_cosine(p1[i], z2[i]) + slow_cosine(p2[i], z1[i]) for i in range(3)])
    assert simsiam(tensors[:2], tensors[2:]).item() == pytest.approx(float(slow), abs=1e-6)
    pairs = [slow_cosine(local[k, i], z[i]) for i in range(3) for k in range(6) for z in (z1, z2)]
    found = local_global(torch.from_numpy(local).reshape(18, 5), tensors[2:])
    assert found.item() == pytest.approx(-sum(pairs) / (3 * 12), abs=1e-6)
    order = torch.tensor([2, 0, 1])
    permuted = simsiam([rows[order] for rows in tensors[:2]], [rows[order] for rows in tensors[2:]])
    assert permuted.item() == pytest.approx(float(slow), abs=1e-6)
    assert mean_cosine(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


@pytest.mark.parametrize("patch", [(16, 16, 16), (32, 40, 32), (96, 96, 64)])
def test_global_crops_overlap_and_lie_inside(patch: tuple[int, int, int]) -> None:
    options = Pcrlv2Options()
    first, second = draw_pairs(500, patch, options, generator())
    assert overlap(first, second).min() > options.least_overlap
    assert overlap(first, second).max() < 1, "no pair had to fall back to one crop twice"
    for crops in (first, second):
        assert (crops.start >= 0).all() and (crops.start + crops.size <= torch.tensor(patch)).all()
        volume = crops.size.prod(1) / math.prod(patch)
        assert volume.min() >= 0.3 - 1e-9 and volume.max() <= 1 + 1e-9


def test_overlap_against_counting_voxels() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        starts, sizes = rng.integers(0, 6, (2, 3)), rng.integers(1, 7, (2, 3))
        volumes = np.zeros((2, 12, 12, 12), bool)
        for volume, low, size in zip(volumes, starts, sizes, strict=True):
            volume[tuple(slice(a, a + b) for a, b in zip(low, size, strict=True))] = True
        one, two = Crops(torch.from_numpy(starts).double(), torch.from_numpy(sizes).double()).chunk(2)
        slow = (volumes[0] & volumes[1]).sum() / (volumes[0] | volumes[1]).sum()
        assert overlap(one, two).item() == pytest.approx(float(slow), abs=1e-9)


def test_where_no_pair_overlaps_one_crop_is_taken_twice() -> None:
    options = Pcrlv2Options(global_scale=(0.01, 0.01), least_overlap=0.95, attempts=2)
    first, second = draw_pairs(50, (32, 32, 32), options, generator())
    assert torch.equal(first.start, second.start) and torch.equal(first.size, second.size)


@settings(max_examples=60, deadline=None)
@given(
    stride=st.sampled_from([4, 8, 16, 32]),
    blocks=st.tuples(*[st.integers(1, 6)] * 3).filter(lambda b: math.prod(b) > 1),
    part=st.floats(0.05, 1.0),
)
def test_crops_are_resized_to_what_an_encoder_can_take(stride: int, blocks: tuple[int, int, int], part: float) -> None:
    patch = (blocks[0] * stride, blocks[1] * stride, blocks[2] * stride)
    for size in crop_sizes(patch, stride, Pcrlv2Options(global_edge=part, local_edge=part)):
        assert all(edge % stride == 0 and edge <= whole for edge, whole in zip(size, patch, strict=True))
        assert math.prod(edge // stride for edge in size) >= 2


@pytest.mark.parametrize(
    ("patch", "stride", "whole", "part"),
    [
        ((96, 96, 96), 32, (64, 64, 64), (64, 32, 32)),
        ((32, 40, 32), 8, (24, 32, 24), (8, 16, 8)),
        ((64, 64, 32), 32, (64, 64, 32), (64, 32, 32)),
        ((16, 16, 16), 4, (12, 12, 12), (8, 4, 4)),
    ],
)
def test_sizes_of_the_profiles(patch: Any, stride: int, whole: Any, part: Any) -> None:
    assert crop_sizes(patch, stride, Pcrlv2Options()) == (whole, part)


def test_swaps_exchange_pairs_of_blocks() -> None:
    order = draw_swaps(3, 27, 0.4, generator())
    assert torch.equal(order.gather(1, order), torch.arange(27).expand(3, -1))  # an exchange is its own inverse
    assert ((order != torch.arange(27)).sum(1) == 10).all()
    image = torch.rand(3, 2, 12, 12, 12, generator=generator())
    swapped = swap(image, order, 4)
    assert torch.equal(swap(swapped, order, 4), image)
    for i in range(3):
        for block, origin in enumerate(order[i].tolist()):
            (a, b, c), (d, e, f) = (np.unravel_index(n, (3, 3, 3)) for n in (block, origin))
            here = swapped[i, :, 4 * a : 4 * a + 4, 4 * b : 4 * b + 4, 4 * c : 4 * c + 4]
            assert torch.equal(here, image[i, :, 4 * d : 4 * d + 4, 4 * e : 4 * e + 4, 4 * f : 4 * f + 4])
    assert [block_edge(size, 8) for size in ((64, 64, 64), (24, 24, 24), (12, 12, 12), (8, 4, 4))] == [8, 8, 6, 4]


def test_only_inputs_are_damaged() -> None:
    images = torch.randn(4, 1, 12, 12, 12, generator=generator())
    still = Pcrlv2Options(change=0.0)
    assert torch.allclose(damaged(images, draw_looks(4, (12, 12, 12), still, generator()), still), images, atol=1e-5)
    always = Pcrlv2Options(change=1.0)
    assert not torch.allclose(
        damaged(images, draw_looks(4, (12, 12, 12), always, generator()), always), images, atol=0.1
    )
    method, sampler = make(options=still)
    views = method.views(sampler[0], generator())
    assert torch.allclose(views.cut, views.target, atol=1e-5)
    assert views.cut.shape == (4, 1, 12, 12, 12) and views.local.shape == (12, 1, 8, 4, 4)
    method, sampler = make(options=always)
    assert torch.equal(method.views(sampler[0], generator()).target, views.target)


def test_a_global_crop_of_the_whole_patch_is_the_patch() -> None:
    options = Pcrlv2Options(global_scale=(1.0, 1.0), global_edge=1.0, change=0.0, rotation_degrees=0.0, scale=0.0)
    method, sampler = make(options=options)
    batch = sampler[0]
    flipped = method.views(batch, generator()).target
    image = batch.images.repeat(2, 1, 1, 1, 1)
    assert torch.allclose(flipped.flatten(1).sort(1).values, image.flatten(1).sort(1).values, atol=1e-5)


def test_only_the_heads_of_one_random_scale_are_trained() -> None:
    method, sampler = make()
    assert method.scales == 2 and method.middle_scale == 0
    trained = set()
    for seed in range(8):
        method.zero_grad()
        torch.stack([t.value for t in method.losses(sampler[0], 0, generator(seed)).values()]).sum().backward()
        used = [i for i, head in enumerate(method.heads) if any(p.grad is not None for p in head.parameters())]
        assert len(used) == 1
        trained.update(used)
    assert trained == {0, 1}


def test_two_volumes_are_overfitted() -> None:
    method, sampler = make(brains(2, ["t1"], variation=1.0))
    fractions = overfitted(method, sampler[0], steps=90)
    assert fractions["reconstruction"] < 0.3, fractions
    assert fractions["middle"] < 0.25, fractions
    assert fractions["similarity"] < 0.1, fractions
    assert fractions["local"] < 0.7, fractions


def test_interrupted_and_resumed_equals_uninterrupted(run: Callable[..., EncoderRecord], tmp_path: Path) -> None:
    """Running statistics of the heads' norms included."""
    run("whole", method="pcrlv2")
    store = brains(3, MODALITIES)
    store.__class__, store.reads_left = Unplugged, 9  # type: ignore[attr-defined]  # 2 per step
    with pytest.raises(KeyboardInterrupt):
        run("parts", store=store, method="pcrlv2")
    store.reads_left = 10**9  # type: ignore[attr-defined]
    run("parts", store=store, method="pcrlv2")
    for file in ("encoder.safetensors", "log.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file


def test_patches_too_small_for_crops_are_refused() -> None:
    with pytest.raises(InputError, match="--patch-size: found 8 x 4 x 4: global crops of 8 x 4 x 4 voxels and local"):
        Pcrlv2.check_settings(Pcrlv2Options(), SMOKE, (8, 4, 4), 2)
    Pcrlv2.check_settings(Pcrlv2Options(), SMOKE, (8, 8, 8), 2)
    with pytest.raises(InputError, match="total stride of swinunetr"):
        Pcrlv2.check_settings(Pcrlv2Options(), ENCODERS["swinunetr"], (64, 32, 32), 2)


def test_cases_smaller_than_global_crops_are_refused() -> None:
    store = brains(3, MODALITIES)
    store.volumes["case01"] = store.volumes["case01"][:, :, :10]
    with pytest.raises(InputError, match=r"case01: found 10 voxels along y; expected at least 11, the smallest global"):
        make(store)
    store.volumes["case01"] = brains(3, MODALITIES).volumes["case01"][:, :, :11]
    make(store)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_scale": (0.5, 0.4)}, "--global-scale"),
        ({"local_scale": (0.0, 0.4)}, "--local-scale"),
        ({"global_edge": 1.2}, "--global-edge"),
        ({"local_crops": 0}, "--local-crops: found 0; expected a whole number from 1"),
        ({"attempts": 0}, "--attempts: found 0"),
        ({"swap_block": 0}, "--swap-block: found 0"),
        ({"intensity": "raw"}, "--intensity"),
    ],
)
def test_options_that_cannot_work_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Pcrlv2.check_settings(Pcrlv2Options(**changes), SMOKE, (16, 16, 16), 2)  # type: ignore[arg-type]


def test_one_sample_is_too_few_for_batch_norm() -> None:
    with pytest.raises(InputError, match="--batch-size: found 1; expected at least 2"):
        make(batch=1)
