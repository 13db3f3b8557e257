"""The geometry and the losses of volume contrast (VoCo; Wu et al., CVPR 2024) as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional

from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.geometry import Crops, cut

EPSILON = 1e-6
"""Inside the logarithm of the position loss, as published."""
LEAST_OVERLAP = 1e-9
"""Overlaps below this part of a crop are rounding errors."""
LEAST_DEEP = 2
"""Voxels per axis of a crop's deepest map: norms over one voxel fail, over two they keep nothing but a sign."""
CONSTANTS = 21
"""Constant predictions from 0 to 1 of which the best is taken as the trivial solution."""


def crop_size(patch: Sequence[int], grid: Sequence[int], stride: int) -> Size:
    """Voxels that crops are resized to: per axis the multiple of ``stride`` next to patch / grid, two at least."""
    z, y, x = (stride * max(LEAST_DEEP, math.floor(n / g / stride + 0.5)) for n, g in zip(patch, grid, strict=True))
    return z, y, x


def overlaps(start: torch.Tensor, patch: Sequence[int], grid: Sequence[int]) -> torch.Tensor:
    """Labels l_b = |target and base b| / |target|, which sum to 1: (..., 3) -> float32 (..., N = prod grid), z slowest.

    Args:
        start: lower faces of the targets in voxels of the patch; their edges are those of the base crops, patch / grid.
    """
    start = start.double()
    shares = []
    for axis, (extent, count) in enumerate(zip(patch, grid, strict=True)):
        distance = start[..., axis, None] * (count / extent) - torch.arange(count, dtype=torch.float64)
        share = 1 - distance.abs()
        shares.append(torch.where(share > LEAST_OVERLAP, share, 0.0))
    return torch.einsum("...i,...j,...k->...ijk", *shares).flatten(-3).float()


def tiles(images: torch.Tensor, grid: Sequence[int], size: Sequence[int]) -> torch.Tensor:
    """The base crops of patches (B, 1, *patch), each resampled to ``size``: (B, N, *size), z slowest.

    They tile the patch, so that it is resampled as a whole, to the same values as crop by crop.
    """
    whole = torch.tensor(images.shape[2:], dtype=torch.float64).expand(len(images), 3)
    enlarged = cut(images, Crops(torch.zeros_like(whole), whole), [g * s for g, s in zip(grid, size, strict=True)])
    split = enlarged.reshape(len(images), grid[0], size[0], grid[1], size[1], grid[2], size[2])
    return split.permute(0, 1, 3, 5, 2, 4, 6).flatten(1, 3)


def agreement(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """ReLU of the cosines of all pairs, in float32: (B, I, D), (B, J, D) -> (B, I, J); between 0 and 1."""
    with torch.autocast(first.device.type, enabled=False):  # cosines need more than bfloat16's three digits
        one, two = functional.normalize(first.float(), dim=-1), functional.normalize(second.float(), dim=-1)
        return (one @ two.transpose(1, 2)).relu()


def position_loss(predicted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """L_pos = sum over l > 0 of -l log(1 - |l - s| + 1e-6) / sum of l, mean over the targets with any label; else 0.

    Args:
        predicted, labels: s and l, (B, T, N); l = 0 wherever a crop is not to count.
    """
    losses = -labels * (1 - (labels - predicted).abs() + EPSILON).log()  # 0 where l = 0
    total = labels.sum(dim=-1)
    counted = total > 0
    return (losses.sum(dim=-1) / torch.where(counted, total, 1.0)).sum() / counted.sum().clamp(min=1)


def absence_loss(predicted: torch.Tensor, absent: torch.Tensor) -> torch.Tensor:
    """L_neg = mean of s^2 over base crops without overlap, mean over the targets; 0 for a target that has none.

    Args:
        predicted: s (B, T, N).
        absent: bool (B, T, N).
    """
    return ((predicted.square() * absent).sum(dim=-1) / absent.sum(dim=-1).clamp(min=1)).mean()


def distinctness_loss(bases: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """L_reg = mean over pairs i < j of ReLU(cos(b_i, stop-gradient b_j))^2 of a patch's base crops.

    Args:
        bases: (B, N, D).
        counted: bool (B, N): pairs of others are left out.
    """
    pairs = (counted[:, :, None] & counted[:, None]).triu(1)
    return (agreement(bases, bases.detach()).square() * pairs).sum() / pairs.sum().clamp(min=1)


def best_constant(labels: torch.Tensor) -> float:
    """The prediction s, the same for all targets and base crops (M, 1, N), that has the lowest L_pos."""
    constants = torch.linspace(0, 1, CONSTANTS)
    losses = torch.stack([position_loss(constant.expand(labels.shape), labels) for constant in constants])
    return float(constants[losses.argmin()])
