"""The corruptions of Models Genesis (Zhou et al., MedIA 2021): local shuffling, intensity curves, in- and out-painting.

What is drawn is small (cuts, boxes, curves, seeds), whatever the patch, so that every process can draw for all samples
of a step. Numbers for single voxels are hashed from a sample's seed on the images' device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.method import LossTerm
from mvp_bench.pretraining.reconstruction import constant_mse, reconstruction_error
from mvp_bench.pretraining.views.boxes import Boxes, covered, shuffle_in_cells
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.pretraining.views.intensity import apply_curves, draw_curves
from mvp_bench.pretraining.views.painting import draw_inner, draw_windows

BITS = 32
"""Of the hash."""
LOW = (1 << BITS) - 1
FRACTION_BITS = 24
"""A float32 in [0, 1) holds as many exactly."""
LEAST_SHUFFLED = 2
"""Voxels: a cell of one has nothing to shuffle."""


@dataclass(frozen=True)
class Probabilities:
    """How often each corruption is met with."""

    shuffle: float = 0.5
    curve: float = 0.9
    decreasing: float = 0.5
    """Of the curves, how many decrease."""
    paint: float = 0.9
    outer: float = 0.8
    """Of the painted samples, how many are out-painted; the others are in-painted."""
    shuffle_edge: float = 0.1
    """No probability: longest edge of a cell that is shuffled, as a part of the patch's (two voxels at least)."""

    def require_valid(self) -> None:
        """Refuse what is no probability, and a task without corruption.

        Raises:
            InputError: naming the field.
        """
        for name in ("shuffle", "curve", "decreasing", "paint", "outer", "shuffle_edge"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(name, found=getattr(self, name), expected="a number from 0 to 1")
        if not (self.shuffle or self.curve or self.paint):
            raise InputError(
                "shuffle, curve, paint",
                found="all 0",
                expected="at least one above 0: the network would be asked to copy its input",
            )


@dataclass(frozen=True)
class Corruption(Drawn):
    """What is done to each of n samples. On the CPU."""

    shuffled: torch.Tensor
    """bool (n,): voxels change places inside small cells."""
    cuts: torch.Tensor
    """bool (n, z + y + x): whether a new cell begins at a coordinate, axis after axis."""
    curved: torch.Tensor
    """bool (n,): intensities go through a curve."""
    curves: torch.Tensor
    """(n, 4, 2): control points, see ``draw_curves``."""
    start: torch.Tensor
    """int64 (n, N, 3): first voxels of in-painted boxes, or of windows that out-painting keeps."""
    stop: torch.Tensor
    """int64 (n, N, 3): behind their last voxels."""
    inner: torch.Tensor
    """bool (n, N): the box is there if the sample is in-painted."""
    outer: torch.Tensor
    """bool (n, N): the window is there if the sample is out-painted."""
    painted: torch.Tensor
    """bool (n, 2): in-painted, out-painted; never both."""
    seeds: torch.Tensor
    """int64 (n, 2), below 2^32: of the shuffling, of the noise."""

    @property
    def boxes(self) -> Boxes:
        """The boxes or windows that are there."""
        valid = (self.inner & self.painted[:, :1]) | (self.outer & self.painted[:, 1:])
        return Boxes(self.start, self.stop, valid)


def draw_corruption(
    n: int, patch: Sequence[int], probabilities: Probabilities, generator: torch.Generator
) -> Corruption:
    """Each kind of corruption with its own probability, independently, as in Models Genesis."""
    chance = torch.rand(4, n, generator=generator)
    inner, windows = draw_inner(n, patch, generator), draw_windows(n, patch, generator)
    none = (torch.zeros_like(inner.valid), torch.zeros_like(windows.valid))
    outward = chance[3] < probabilities.outer
    painted = (chance[2] < probabilities.paint)[:, None] & torch.stack([~outward, outward], dim=1)
    return Corruption(
        shuffled=chance[0] < probabilities.shuffle,
        cuts=draw_cuts(n, patch, probabilities.shuffle_edge, generator),
        curved=chance[1] < probabilities.curve,
        curves=draw_curves(n, generator, probabilities.decreasing),
        start=torch.cat([inner.start, windows.start], dim=1),
        stop=torch.cat([inner.stop, windows.stop], dim=1),
        inner=torch.cat([inner.valid, none[1]], dim=1),
        outer=torch.cat([none[0], windows.valid], dim=1),
        painted=painted,
        seeds=torch.randint(1 << BITS, (n, 2), generator=generator),
    )


def draw_one_corruption(
    n: int, patch: Sequence[int], probabilities: Probabilities, generator: torch.Generator
) -> Corruption:
    """Exactly one of shuffling, curve, in-painting and out-painting per sample, equally likely, as in TransVW.

    Of ``probabilities`` only ``decreasing`` and ``shuffle_edge`` are looked at.
    """
    choice = torch.randint(4, (n,), generator=generator)
    drawn = draw_corruption(n, patch, probabilities, generator)
    painted = torch.stack([choice == 2, choice == 3], dim=1)
    return replace(drawn, shuffled=choice == 0, curved=choice == 1, painted=painted)


def corrupt(images: torch.Tensor, drawn: Corruption) -> torch.Tensor:
    """Shuffle, map and paint, in this order; samples that were drawn none of it stay as they are, bit for bit.

    Args:
        images: (B, C, z, y, x) in [0, 1].
        drawn: B rows, on the CPU.
    """
    patch, device = images.shape[2:], images.device
    rows = drawn.shuffled.nonzero()[:, 0]
    if len(rows):
        cells = cells_of(drawn.cuts[rows].to(device), drawn.seeds[rows, 0].to(device), patch)
        rows = rows.to(device)
        images = images.index_copy(0, rows, shuffle_in_cells(images[rows], cells))
    rows = drawn.curved.nonzero()[:, 0]
    if len(rows):
        curves, rows = drawn.curves[rows], rows.to(device)
        images = images.index_copy(0, rows, apply_curves(images[rows], curves))
    if drawn.painted.any():
        noise = voxel_noise(drawn.seeds[:, 1].to(device), patch)
        images = torch.where(hidden(drawn, patch, device), noise.to(images.dtype), images)
    return images


def hidden(drawn: Corruption, patch: Sequence[int], device: torch.device) -> torch.Tensor:
    """Voxels that become noise: inside in-painted boxes, outside the windows of out-painting; bool (B, 1, *patch)."""
    outward = drawn.painted[:, 1].to(device)[:, None, None, None, None]
    return covered(drawn.boxes.to(device), patch) ^ outward


def draw_cuts(n: int, patch: Sequence[int], longest: float, generator: torch.Generator) -> torch.Tensor:
    """Cut each axis into pieces of uniform lengths from one voxel to ``longest`` of the axis (at least two voxels); the
    first piece may begin before the patch. The products of the pieces are a sample's cells.

    Returns:
        bool (n, z + y + x): whether a piece begins at a coordinate.
    """
    cuts = []
    for edge in patch:
        lengths = torch.randint(1, max(int(longest * edge), LEAST_SHUFFLED) + 1, (n, edge), generator=generator)
        before = (torch.rand(n, 1, generator=generator) * lengths[:, :1]).long()
        ends = (lengths.cumsum(dim=1) - before).clamp(max=edge)  # of the pieces; the last are all beyond the patch
        cuts.append(torch.zeros(n, edge + 1, dtype=torch.bool).scatter_(1, ends, True)[:, :edge])
    return torch.cat(cuts, dim=1)


def cells_of(cuts: torch.Tensor, seeds: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """Cells and keys for ``shuffle_in_cells``: int64 (n, *patch), on the cuts' device. One int64 per voxel."""
    z, y, x = (part.long().cumsum(dim=1) for part in cuts.split(list(patch), dim=1))
    numbers = (z[:, :, None, None] * patch[1] + y[:, None, :, None]) * patch[2] + x[:, None, None, :]
    return (numbers << BITS) + voxel_hash(seeds, patch)[:, 0]


def voxel_noise(seeds: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """Noise uniform in [0, 1) that follows from each sample's seed: float32 (n, 1, *patch), on the seeds' device."""
    return (voxel_hash(seeds, patch) >> (BITS - FRACTION_BITS)).float() / (1 << FRACTION_BITS)


def voxel_hash(seeds: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """A number below 2^32 per voxel, from index and seed: int64 (n, 1, *patch), on the seeds' device."""
    voxels = patch[0] * patch[1] * patch[2]
    index = _mixed(torch.arange(1, voxels + 1, device=seeds.device))
    return _mixed((index + seeds[:, None]) & LOW).reshape(-1, 1, *patch)


def _mixed(bits: torch.Tensor) -> torch.Tensor:
    """A bijection of 32-bit numbers in which every input bit sways every output bit: the finaliser of MurmurHash3
    (A. Appleby, public domain)."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x85EBCA6B) & LOW
    bits = bits ^ (bits >> 13)
    bits = (bits * 0xC2B2AE35) & LOW
    return bits ^ (bits >> 16)


def restoration(output: torch.Tensor, target: torch.Tensor) -> LossTerm:
    """Mean squared error over all voxels of sigmoid(output) against the un-corrupted images in [0, 1]; trivial: each
    sample's mean.

    Args:
        output, target: (B, 1, z, y, x).
    """
    return LossTerm(reconstruction_error(output.float().sigmoid(), target, "mse"), 1.0, constant_mse(target))
