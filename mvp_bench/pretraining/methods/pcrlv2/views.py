"""PCRLv2's views: pairs of overlapping global crops, local crops, and what is done to each.

Flips and affine maps change a crop and its target alike; blur, noise, gamma and swaps the network's input only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mvp_bench.pretraining.methods.pcrlv2.options import Pcrlv2Options
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.pretraining.views.geometry import Crops, cut, draw_affine, draw_crops, draw_flips, flip, warp
from mvp_bench.pretraining.views.intensity import apply_gammas, blur, draw_gammas, gaussian_noise

FLIP = 0.5
"""Probability of a mirror, per axis."""


@dataclass(frozen=True)
class CropChanges(Drawn):
    """What is done to crops, one row each."""

    flips: torch.Tensor
    """bool (n, 3)."""
    theta: torch.Tensor
    """(n, 3, 4)."""
    sigma: torch.Tensor
    """(n,): of the blur, voxels; 0: none."""
    strength: torch.Tensor
    """(n,): of the noise, as a part of the crop's standard deviation; 0: none."""
    noise: torch.Tensor
    """(n, 1, *size), standard normal."""
    gamma: torch.Tensor
    """(n,); 1: none."""
    order: torch.Tensor
    """int64 (n, blocks): which block stands where; its own number: it stays."""


def overlap(first: Crops, second: Crops) -> torch.Tensor:
    """Intersection over union of boxes, (...,) from (..., 3)."""
    low = torch.maximum(first.start, second.start)
    high = torch.minimum(first.start + first.size, second.start + second.size)
    common = (high - low).clamp(min=0).prod(-1)
    return common / (first.size.prod(-1) + second.size.prod(-1) - common)


def draw_pairs(n: int, patch: Size, options: Pcrlv2Options, generator: torch.Generator) -> tuple[Crops, Crops]:
    """Two global crops per sample whose intersection over union is above ``options.least_overlap``.

    The first of ``options.attempts`` pairs, all drawn at once, that overlap enough; where none does, the first pair's
    first crop twice.
    """
    attempts = options.attempts
    drawn = draw_crops(2 * n * attempts, patch, options.global_scale, generator)
    first, second = (crops.map(lambda t: t.reshape(n, attempts, 3)) for crops in drawn.chunk(2))
    enough = overlap(first, second) > options.least_overlap
    rows, chosen = torch.arange(n), enough.int().argmax(dim=1)
    one, two = (crops.map(lambda t: t[rows, chosen]) for crops in (first, second))
    none = ~enough.any(dim=1, keepdim=True)
    return one, Crops(torch.where(none, one.start, two.start), torch.where(none, one.size, two.size))


def draw_looks(n: int, size: Size, options: Pcrlv2Options, generator: torch.Generator) -> CropChanges:
    """Flips, affine maps and changes of ``n`` crops of ``size`` voxels."""
    changed = torch.rand(4, n, generator=generator) < options.change
    strength = torch.rand(2, n, generator=generator)
    blocks = math.prod(edge // block_edge(size, options.swap_block) for edge in size)
    gamma = draw_gammas(n, 1 / options.gamma, options.gamma, generator)
    order = draw_swaps(n, blocks, options.swapped, generator)
    factor = (1 - options.scale, 1 + options.scale)
    return CropChanges(
        flips=draw_flips(n, FLIP, generator),
        theta=draw_affine(n, math.radians(options.rotation_degrees), factor, 0.0, 0.0, generator, size),
        sigma=options.blur * strength[0] * changed[0],
        strength=options.noise * strength[1] * changed[1],
        noise=gaussian_noise((n, 1, *size), generator),
        gamma=torch.where(changed[2], gamma, 1.0),
        order=torch.where(changed[3, :, None], order, torch.arange(blocks)),
    )


def placed(images: torch.Tensor, crops: Crops, looks: CropChanges, size: Size) -> torch.Tensor:
    """Targets: the images' crops, resized, mirrored and mapped. (B, 1, *patch) -> (B, 1, *size)."""
    return warp(flip(cut(images, crops, size), looks.flips), None, looks.theta)


def damaged(targets: torch.Tensor, looks: CropChanges, options: Pcrlv2Options) -> torch.Tensor:
    """Inputs: the targets blurred, with noise, another gamma, and blocks that have changed places."""
    images = blur(targets, looks.sigma)
    scale = looks.strength.to(images)[:, None, None, None, None] * images.flatten(1).std(1)[:, None, None, None, None]
    images = apply_gammas(images + scale * looks.noise.to(images), looks.gamma)
    return swap(images, looks.order, block_edge(images.shape[2:], options.swap_block))


def block_edge(size: Sequence[int], largest: int) -> int:
    """The largest edge up to ``largest`` that divides all of ``size``."""
    common = math.gcd(*size)
    return max(edge for edge in range(1, min(largest, common) + 1) if common % edge == 0)


def draw_swaps(n: int, blocks: int, part: float, generator: torch.Generator) -> torch.Tensor:
    """An order of the blocks in which random pairs, ``part`` of all blocks, have changed places: int64 (n, blocks)."""
    pairs = int(part * blocks / 2)
    shuffled = torch.rand(n, blocks, generator=generator).argsort(dim=1)
    one, two = shuffled[:, :pairs], shuffled[:, pairs : 2 * pairs]
    return torch.arange(blocks).repeat(n, 1).scatter(1, one, two).scatter(1, two, one)


def swap(images: torch.Tensor, order: torch.Tensor, edge: int) -> torch.Tensor:
    """The images (B, C, z, y, x) made of their blocks of ``edge``^3 voxels in the ``order`` (B, blocks)."""
    size, channels, *shape = images.shape
    counts = [length // edge for length in shape]
    split = images.reshape(size, channels, counts[0], edge, counts[1], edge, counts[2], edge)
    blocks = split.permute(0, 2, 4, 6, 1, 3, 5, 7)
    flat = blocks.reshape(size, math.prod(counts), -1)
    moved = flat.take_along_dim(order.to(images.device)[:, :, None], dim=1)
    return moved.reshape(blocks.shape).permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(images.shape)
