"""Block masks: exact counts, constant blocks, independent samples, exact filling."""

from __future__ import annotations

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.pretraining import masking
from tests.pretraining.conftest import generator


def test_counts_of_the_paper() -> None:
    assert masking.grid_shape((96, 96, 96), 8) == (12, 12, 12)
    assert masking.kept_blocks(1728, 0.8) == 345
    assert masking.kept_blocks(1728, 0.875) == 216
    assert masking.kept_blocks(10, 0.9) == 1  # 10 * (1 - 0.9) is 0.99999999999999978 in floating point


@given(
    patch=st.tuples(*[st.integers(4, 20)] * 3),
    block=st.integers(1, 8),
    ratio=st.floats(0.0, 0.99),
    seed=st.integers(0, 5),
)
@settings(max_examples=40, deadline=None)
def test_exactly_as_many_blocks_and_constant_in_each(
    patch: tuple[int, int, int], block: int, ratio: float, seed: int
) -> None:
    grid = masking.grid_shape(patch, block)
    kept = masking.kept_blocks(math.prod(grid), ratio)
    drawn = masking.draw_kept(3, grid, kept, generator(seed))
    assert (drawn.flatten(1).sum(1) == kept).all()
    voxels = masking.to_voxels(drawn, patch, block)
    assert voxels.shape == (3, 1, *patch)
    index = [torch.arange(edge) // block for edge in patch]
    assert torch.equal(voxels[:, 0], drawn[:, index[0]][:, :, index[1]][:, :, :, index[2]])


def test_samples_are_independent_and_seeded() -> None:
    first = masking.draw_kept(2, (6, 6, 6), 43, generator())
    assert not torch.equal(first[0], first[1])
    assert torch.equal(first, masking.draw_kept(2, (6, 6, 6), 43, generator()))
    many = masking.draw_kept(4000, (2, 2, 2), 2, generator()).float().flatten(1)
    assert (many.mean(0) - 0.25).abs().max() < 0.03  # uniform over blocks


def test_filling_is_exact() -> None:
    image, filler = torch.randn(2, 1, 8, 8, 8), torch.randn(2, 1, 8, 8, 8, requires_grad=True)
    kept = masking.to_voxels(masking.draw_kept(2, (2, 2, 2), 3, generator()), (8, 8, 8), 4)
    filled = masking.fill(image, kept, filler)
    assert torch.equal(filled[kept], image[kept])
    assert torch.equal(filled[~kept], filler[~kept])
    filled.sum().backward()
    assert torch.equal(filler.grad, (~kept).float())
    assert (masking.fill(image, kept, 0.0)[~kept] == 0).all()


def test_block_shrinks_in_small_patches() -> None:
    assert masking.fitting_block((96, 96, 96), 16, 4) == 16
    assert masking.fitting_block((32, 40, 32), 16, 4) == 8
    assert masking.fitting_block((16, 16, 16), 16, 4) == 4
    assert masking.fitting_block((2, 2, 2), 16, 4) == 1
