"""Random boxes of voxels, and which voxels they cover."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mvp_bench.pretraining.views.drawn import Drawn

MOST_BOXES = 52
"""Boxes that :func:`last_box` can tell apart: bits of a float64's mantissa."""


@dataclass(frozen=True)
class Boxes(Drawn):
    """N boxes of whole voxels per sample, in an order that may matter."""

    start: torch.Tensor
    """int64 (n, N, 3): first voxels."""
    stop: torch.Tensor
    """int64 (n, N, 3): one beyond the last voxels."""
    valid: torch.Tensor
    """bool (n, N): whether the box is there (samples may have fewer than N)."""


def edge_range(patch: Sequence[int], lo: float, hi: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Smallest and largest edges in voxels of boxes whose edges are parts ``lo`` to ``hi`` of the patch's."""
    shortest = tuple(max(1, math.ceil(lo * edge)) for edge in patch)
    return shortest, tuple(max(least, math.floor(hi * edge)) for least, edge in zip(shortest, patch, strict=True))


def draw_boxes(
    n: int,
    count: torch.Tensor | int,
    lo: Sequence[int],
    hi: Sequence[int],
    patch: Sequence[int],
    generator: torch.Generator,
    inside: bool = True,
) -> Boxes:
    """Boxes with whole edges, uniform in ``lo``..``hi`` per axis, at uniform places.

    Args:
        count: boxes of each sample (n,), or of every sample; N is the largest.
        lo, hi: least and largest edge (z, y, x), both included, at most the patch's.
        inside: the whole box lies in the patch; otherwise its centre does, and what sticks out is cut off.
    """
    counts = torch.as_tensor(count).expand(n)
    most = int(counts.max()) if n else 0
    low, high, whole = torch.tensor([tuple(lo), tuple(hi), tuple(patch)])
    unit = torch.rand(2, n, most, 3, generator=generator, dtype=torch.float64)
    edge = low + (unit[0] * (high - low + 1)).long()
    start = (unit[1] * (whole - edge + 1)).long() if inside else (unit[1] * whole).long() - edge // 2
    stop = torch.minimum(start + edge, whole)
    return Boxes(start.clamp(min=0), stop, torch.arange(most) < counts[:, None])


def _members(boxes: Boxes, patch: Sequence[int], dtype: torch.dtype) -> list[torch.Tensor]:
    """Per axis, 1 where a box covers a coordinate: (n, N, edge); 0 everywhere for boxes that are not there."""
    members = []
    for axis, edge in enumerate(patch):
        place = torch.arange(edge, device=boxes.start.device)
        inside = (place >= boxes.start[:, :, axis, None]) & (place < boxes.stop[:, :, axis, None])
        members.append((inside & boxes.valid[:, :, None]).to(dtype))
    return members


def _sum_over_boxes(members: Sequence[torch.Tensor]) -> torch.Tensor:
    """The boxes' products of memberships, added up: (n, z, y, x). One matrix product; temporary: n N z y numbers."""
    z, y, x = members
    faces = (z[:, :, :, None] * y[:, :, None, :]).flatten(2)
    with torch.autocast(x.device.type, enabled=False):
        return (faces.transpose(1, 2) @ x).reshape(len(x), z.shape[2], y.shape[2], x.shape[2])


def covered(boxes: Boxes, patch: Sequence[int]) -> torch.Tensor:
    """Voxels in any box: bool (n, 1, *patch), on the boxes' device. Meant for up to some hundred boxes per sample
    (40 boxes, 96^3 voxels, 4 samples: 6 MB, and 14 MB for the sums)."""
    return (_sum_over_boxes(_members(boxes, patch, torch.float32)) > 0).unsqueeze(1)


def last_box(boxes: Boxes, patch: Sequence[int]) -> torch.Tensor:
    """The number of the last box that covers each voxel, -1 where none does: int64 (n, 1, *patch), on their device.

    Box i adds 2^i to its voxels; the highest bit of the sum, the exponent of the float64, is the last box. Memory for
    96^3 voxels and 4 samples: 28 MB for the sums, as much for the result.

    Raises:
        ValueError: for more than 52 boxes, whose sum a float64 cannot hold.
    """
    most = boxes.start.shape[1]
    if most > MOST_BOXES:
        raise ValueError(f"{most} boxes per sample; at most {MOST_BOXES} can be told apart")
    z, y, x = _members(boxes, patch, torch.float64)
    bits = 2.0 ** torch.arange(most, dtype=torch.float64, device=x.device)
    total = _sum_over_boxes([z, y, x * bits[:, None]])
    return (torch.frexp(total).exponent.long() - 1).unsqueeze(1)
