"""Cells against slow loops, shuffling inside them, and the hashed noise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mvp_bench.pretraining.views.cells import (
    cell_numbers,
    cells_of,
    draw_cuts,
    draw_seeds,
    shuffle_in_cells,
    voxel_hash,
    voxel_noise,
)

PATCH = (7, 9, 6)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _cells(n: int, patch: Sequence[int], largest: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    return cells_of(draw_cuts(n, patch, largest, generator), draw_seeds(n, generator), patch)


@given(seed=st.integers(0, 99), largest=st.tuples(*[st.integers(1, 4)] * 3))
@settings(max_examples=10, deadline=None)
def test_cells_are_boxes_no_longer_than_allowed(seed: int, largest: tuple[int, int, int]) -> None:
    numbers = cell_numbers(_cells(2, PATCH, largest, _seeded(seed)))
    for sample in numbers:
        volume = 0
        for number in sample.unique():
            place = (sample == number).nonzero()
            edges = place.amax(dim=0) - place.amin(dim=0) + 1
            assert (edges <= torch.tensor(largest)).all()
            assert edges.prod() == len(place), "a cell is a whole box"
            volume += len(place)
        assert volume == sample.numel()


@given(seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_shuffling_keeps_the_voxels_of_every_cell(seed: int) -> None:
    images = torch.randn(2, 2, *PATCH, generator=_seeded(seed))
    cells = _cells(2, PATCH, (3, 4, 3), _seeded(seed + 1))
    shuffled = shuffle_in_cells(images, cells)
    assert torch.equal(shuffled.flatten(1).sort().values, images.flatten(1).sort().values)
    for before, after, numbers in zip(images, shuffled, cell_numbers(cells), strict=True):
        # Cell and values of all channels, voxel by voxel: the same voxels, elsewhere in their cell.
        voxels = [sorted(zip(numbers.flatten().tolist(), *x.flatten(1).tolist(), strict=True)) for x in (before, after)]
        assert voxels[0] == voxels[1]


def test_shuffling_moves_voxels_and_reaches_every_arrangement() -> None:
    cells = _cells(600, (1, 1, 3), (1, 1, 100), _seeded())
    whole = (cell_numbers(cells).flatten(1).amax(1) == cell_numbers(cells).flatten(1).amin(1)).nonzero()[:, 0]
    images = torch.arange(3.0).view(1, 1, 1, 1, 3).expand(len(whole), -1, -1, -1, -1)
    found = shuffle_in_cells(images, cells[whole]).flatten(1)
    arrangements, counts = found.unique(dim=0, return_counts=True)
    assert len(arrangements) == 6 and counts.min() > 0.5 * len(whole) / 6


def test_one_voxel_cells_shuffle_nothing() -> None:
    images = torch.randn(1, 1, *PATCH, generator=_seeded())
    assert torch.equal(shuffle_in_cells(images, _cells(1, PATCH, (1, 1, 1), _seeded())), images)


def test_two_passes_let_voxels_leave_their_first_cell() -> None:
    images = torch.arange(64.0).view(1, 1, 1, 1, 64)
    generator = _seeded()
    cells = _cells(1, (1, 1, 64), (1, 1, 8), generator)
    once = shuffle_in_cells(images, cells)
    twice = shuffle_in_cells(once, _cells(1, (1, 1, 64), (1, 1, 8), generator))
    number = cell_numbers(cells).flatten()
    assert (number[once.flatten().long()] == number).all()
    assert (number[twice.flatten().long()] != number).any()


def test_noise_is_uniform_and_without_pattern() -> None:
    seeds = torch.tensor([0, 1, 2, 12345, (1 << 32) - 1])
    noise = voxel_noise(seeds, (40, 40, 40))
    assert noise.shape == (5, 1, 40, 40, 40) and noise.min() >= 0 and noise.max() < 1
    flat = noise[:, 0].double().numpy()
    for volume in flat:
        assert stats.kstest(volume.ravel(), "uniform").pvalue > 1e-3
        for axis in range(3):
            ahead, behind = np.delete(volume, 0, axis).ravel(), np.delete(volume, -1, axis).ravel()
            assert abs(np.corrcoef(ahead, behind)[0, 1]) < 0.02
    assert np.abs(np.corrcoef(flat.reshape(5, -1)) - np.eye(5)).max() < 0.02
    assert torch.equal(voxel_noise(seeds[3:4], (40, 40, 40)), noise[3:4])


def test_hash_is_murmurs_finaliser() -> None:
    def mixed(x: int) -> int:
        x ^= x >> 16
        x = x * 0x85EBCA6B % (1 << 32)
        x ^= x >> 13
        x = x * 0xC2B2AE35 % (1 << 32)
        return x ^ (x >> 16)

    seed = 0xDEADBEEF
    found = voxel_hash(torch.tensor([seed]), (1, 2, 3)).flatten().tolist()
    assert found == [mixed((mixed(i + 1) + seed) % (1 << 32)) for i in range(6)]
