"""Random cells of voxels, shuffling inside them, and random numbers for single voxels that follow from a seed.

What is drawn is small, cuts and a seed per sample, so that every process can draw for all samples of a step; numbers
for single voxels are hashed from the seeds on the images' device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

BITS = 32
"""Length of the hash, and of the random part of a cell's keys."""
LOW = (1 << BITS) - 1
FRACTION_BITS = 24
"""A float32 in [0, 1) holds as many exactly."""


def draw_cuts(n: int, patch: Sequence[int], largest: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Cut each axis into pieces of uniform lengths 1..``largest`` (voxels, per axis), the first of which may begin
    before the patch. The products of the pieces are a sample's cells.

    They stand for the many small overlapping boxes of Models Genesis.

    Returns:
        bool (n, z + y + x): whether a piece begins at a coordinate, axis after axis.
    """
    cuts = []
    for edge, most in zip(patch, largest, strict=True):
        lengths = torch.randint(1, most + 1, (n, edge), generator=generator)
        before = (torch.rand(n, 1, generator=generator) * lengths[:, :1]).long()
        ends = (lengths.cumsum(dim=1) - before).clamp(max=edge)  # of the pieces; the last are all beyond the patch
        cuts.append(torch.zeros(n, edge + 1, dtype=torch.bool).scatter_(1, ends, True)[:, :edge])
    return torch.cat(cuts, dim=1)


def draw_seeds(n: int, generator: torch.Generator) -> torch.Tensor:
    """int64 (n,), below 2^32."""
    return torch.randint(1 << BITS, (n,), generator=generator)


def cells_of(cuts: torch.Tensor, seeds: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """Keys for :func:`shuffle_in_cells`: a cell's number times 2^32, plus a random number below 2^32 per voxel.

    Args:
        cuts: from :func:`draw_cuts`.
        seeds: (n,) of the random numbers.

    Returns:
        int64 (n, *patch), on the cuts' device; one int64 per voxel. :func:`cell_numbers` gives the numbers alone.
    """
    z, y, x = (part.long().cumsum(dim=1) for part in cuts.split(list(patch), dim=1))
    numbers = (z[:, :, None, None] * (patch[1] + 1) + y[:, None, :, None]) * (patch[2] + 1) + x[:, None, None, :]
    return (numbers << BITS) + voxel_hash(seeds, patch)[:, 0]


def cell_numbers(cells: torch.Tensor) -> torch.Tensor:
    """The numbers of cells from :func:`cells_of`: equal in one cell of a sample, different between its cells."""
    return cells >> BITS


def shuffle_in_cells(images: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Permute the voxels inside each cell, all channels alike: (B, C, *patch), cells (B, *patch) of :func:`cells_of`.

    Sorting by cell puts a cell's voxels in a row, in their own order (stable) or in random order (by the full key);
    what is at a place of the second order goes to the same place of the first. Memory: four int64 per voxel.
    """
    keys = cells.to(images.device).flatten(1)
    target = cell_numbers(keys).argsort(dim=1, stable=True)
    source = torch.empty_like(target).scatter_(
        1, target, keys.argsort(dim=1)
    )  # for each voxel, where its value is from
    flat = images.flatten(2)
    return flat.gather(2, source[:, None].expand(-1, flat.shape[1], -1)).reshape(images.shape)


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
