"""Block masks: drawn as small grids, enlarged to voxels, then applied. True means *kept* (visible)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

FLOAT_SLACK = 1e-9
"""So that n (1 - r) which is whole in exact arithmetic is not floored to one less."""


def grid_shape(patch: Sequence[int], block: int) -> tuple[int, ...]:
    """Blocks per axis; the last block of an axis is cut short where ``block`` does not divide the patch."""
    return tuple(math.ceil(edge / block) for edge in patch)


def fitting_block(patch: Sequence[int], block: int, at_least: int) -> int:
    """``block``, halved until every axis of the patch has at least ``at_least`` blocks (never below one voxel)."""
    while block > 1 and min(patch) < at_least * block:
        block //= 2
    return block


def kept_blocks(blocks: int, ratio: float) -> int:
    """floor(n (1 - r)): blocks that stay visible when the fraction ``ratio`` of ``blocks`` is hidden."""
    return math.floor(blocks * (1.0 - ratio) + FLOAT_SLACK)


def draw_kept(batch: int, grid: Sequence[int], kept: int, generator: torch.Generator) -> torch.Tensor:
    """Exactly ``kept`` blocks per sample, a uniformly random set of its own: bool (batch, *grid), on the CPU."""
    blocks = math.prod(grid)
    order = torch.rand(batch, blocks, generator=generator).argsort(dim=1)
    mask = torch.zeros(batch, blocks, dtype=torch.bool)
    mask.scatter_(1, order[:, :kept], True)
    return mask.view(batch, *grid)


def to_voxels(mask: torch.Tensor, patch: Sequence[int], block: int) -> torch.Tensor:
    """Enlarge a grid (batch, *grid) to voxels: bool (batch, 1, *patch)."""
    for axis, edge in enumerate(patch, start=1):
        mask = mask.repeat_interleave(block, dim=axis).narrow(axis, 0, edge)
    return mask.unsqueeze(1)


def fill(image: torch.Tensor, kept: torch.Tensor, filler: torch.Tensor | float) -> torch.Tensor:
    """The image where ``kept``, bit for bit, and ``filler`` elsewhere; gradient reaches a filler at hidden voxels only.

    Args:
        image: (B, 1, z, y, x).
        kept: bool of the same shape.
        filler: of the same shape, or one number.
    """
    if not isinstance(filler, torch.Tensor):
        return image.masked_fill(~kept, filler)
    return torch.where(kept, image, filler.to(image.dtype))
