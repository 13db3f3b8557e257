"""Boxes and cells against slow loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.pretraining.views import boxes as boxes_module
from mvp_bench.pretraining.views.boxes import (
    Boxes,
    cell_numbers,
    covered,
    draw_boxes,
    draw_cells,
    edge_range,
    last_box,
    shuffle_in_cells,
)

PATCH = (7, 9, 6)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _last_by_loop(boxes: Boxes, patch: tuple[int, ...]) -> torch.Tensor:
    labels = torch.full((len(boxes), 1, *patch), -1)
    for sample in range(len(boxes)):
        for i in range(boxes.start.shape[1]):
            if boxes.valid[sample, i]:
                (a, b, c), (d, e, f) = boxes.start[sample, i].tolist(), boxes.stop[sample, i].tolist()
                labels[sample, 0, a:d, b:e, c:f] = i
    return labels


@given(counts=st.lists(st.integers(0, 52), min_size=1, max_size=3), inside=st.booleans(), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_covered_and_last_box_are_those_of_a_loop(counts: list[int], inside: bool, seed: int) -> None:
    boxes = draw_boxes(len(counts), torch.tensor(counts), (1, 1, 1), (4, 5, 3), PATCH, _seeded(seed), inside)
    labels = _last_by_loop(boxes, PATCH)
    assert torch.equal(last_box(boxes, PATCH), labels)
    assert torch.equal(covered(boxes, PATCH), labels >= 0)
    assert boxes.valid.sum(dim=1).tolist() == counts


def test_more_boxes_than_bits_are_refused_but_can_cover() -> None:
    boxes = draw_boxes(1, 53, (1, 1, 1), (2, 2, 2), PATCH, _seeded())
    with pytest.raises(ValueError, match="53 boxes per sample; at most 52"):
        last_box(boxes, PATCH)
    assert torch.equal(covered(boxes, PATCH), _last_by_loop(boxes, PATCH) >= 0)


def test_no_boxes_cover_nothing() -> None:
    boxes = draw_boxes(2, 0, (1, 1, 1), (2, 2, 2), PATCH, _seeded())
    assert not covered(boxes, PATCH).any() and (last_box(boxes, PATCH) == -1).all()


def test_boxes_inside_have_edges_and_places_over_the_whole_range() -> None:
    boxes = draw_boxes(300, 10, (2, 3, 1), (4, 3, 6), PATCH, _seeded())
    edges = boxes.stop - boxes.start
    assert edges.amin((0, 1)).tolist() == [2, 3, 1] and edges.amax((0, 1)).tolist() == [4, 3, 6]
    assert boxes.start.amin((0, 1)).tolist() == [0, 0, 0] and boxes.stop.amax((0, 1)).tolist() == list(PATCH)


def test_boxes_with_their_centre_inside_are_cut_off_at_the_border() -> None:
    boxes = draw_boxes(500, 4, (4, 4, 4), (4, 4, 4), PATCH, _seeded(), inside=False)
    edges = boxes.stop - boxes.start
    assert (boxes.start >= 0).all() and (boxes.stop <= torch.tensor(PATCH)).all()
    assert edges.max() == 4 and edges.min() == 2
    centre = torch.where(boxes.start > 0, boxes.start + 2, boxes.stop - 2)
    for axis, edge in enumerate(PATCH):
        assert centre[..., axis].unique().tolist() == list(range(edge))


def test_edges_as_parts_of_the_patch_are_at_least_one_voxel() -> None:
    assert edge_range((30, 12, 4), 1 / 6, 1 / 3) == ((5, 2, 1), (10, 4, 1))
    assert edge_range((4, 4, 4), 0.01, 0.1) == ((1, 1, 1), (1, 1, 1))


@given(seed=st.integers(0, 99), largest=st.tuples(*[st.integers(1, 4)] * 3))
@settings(max_examples=10, deadline=None)
def test_cells_are_boxes_no_longer_than_allowed(seed: int, largest: tuple[int, int, int]) -> None:
    numbers = cell_numbers(draw_cells(2, PATCH, largest, _seeded(seed)))
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
    cells = draw_cells(2, PATCH, (3, 4, 3), _seeded(seed + 1))
    shuffled = shuffle_in_cells(images, cells)
    assert torch.equal(shuffled.flatten(1).sort().values, images.flatten(1).sort().values)
    for before, after, numbers in zip(images, shuffled, cell_numbers(cells), strict=True):
        # Cell and values of all channels, voxel by voxel: the same voxels, elsewhere in their cell.
        voxels = [sorted(zip(numbers.flatten().tolist(), *x.flatten(1).tolist(), strict=True)) for x in (before, after)]
        assert voxels[0] == voxels[1]


def test_shuffling_moves_voxels_and_reaches_every_arrangement() -> None:
    cells = draw_cells(600, (1, 1, 3), (1, 1, 100), _seeded())
    whole = (cell_numbers(cells).flatten(1).amax(1) == cell_numbers(cells).flatten(1).amin(1)).nonzero()[:, 0]
    images = torch.arange(3.0).view(1, 1, 1, 1, 3).expand(len(whole), -1, -1, -1, -1)
    found = shuffle_in_cells(images, cells[whole]).flatten(1)
    arrangements, counts = found.unique(dim=0, return_counts=True)
    assert len(arrangements) == 6 and counts.min() > 0.5 * len(whole) / 6


def test_one_voxel_cells_shuffle_nothing() -> None:
    images = torch.randn(1, 1, *PATCH, generator=_seeded())
    assert torch.equal(shuffle_in_cells(images, draw_cells(1, PATCH, (1, 1, 1), _seeded())), images)


def test_two_passes_let_voxels_leave_their_first_cell() -> None:
    images = torch.arange(64.0).view(1, 1, 1, 1, 64)
    generator = _seeded()
    cells = draw_cells(1, (1, 1, 64), (1, 1, 8), generator)
    once = shuffle_in_cells(images, cells)
    twice = shuffle_in_cells(once, draw_cells(1, (1, 1, 64), (1, 1, 8), generator))
    number = cell_numbers(cells).flatten()
    assert (number[once.flatten().long()] == number).all()
    assert (number[twice.flatten().long()] != number).any()


def test_the_limit_is_that_of_a_float64() -> None:
    everything = 2.0**boxes_module.MOST_BOXES - 1
    assert everything != everything + 1 and boxes_module.MOST_BOXES < 53
