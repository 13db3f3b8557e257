"""Boxes against slow loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.pretraining.views import boxes as boxes_module
from mvp_bench.pretraining.views.boxes import (
    Boxes,
    covered,
    draw_boxes,
    edge_range,
    last_box,
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


def test_the_limit_is_that_of_a_float64() -> None:
    everything = 2.0**boxes_module.MOST_BOXES - 1
    assert everything != everything + 1 and boxes_module.MOST_BOXES < 53
