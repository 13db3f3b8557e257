"""Corruptions: what each keeps, an independent slow version, and the hashed noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.parts.corruption import (
    Corruption,
    Probabilities,
    corrupt,
    draw_corruption,
    draw_one_corruption,
    hidden,
)
from mvp_bench.pretraining.views.cells import cells_of, voxel_noise
from tests.pretraining.conftest import generator

PATCH = (16, 20, 24)
NEVER = Probabilities(0.0, 0.0, 0.5, 0.0)


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 1, *PATCH, generator=generator(seed))


def drawn(n: int, seed: int = 1, **changes: float) -> Corruption:
    return draw_corruption(n, PATCH, replace(NEVER, **changes), generator(seed))


def test_nothing_drawn_changes_nothing() -> None:
    before = images(3)
    assert torch.equal(corrupt(before, drawn(3)), before)


def test_shuffling_keeps_the_voxels_of_every_cell() -> None:
    before, draw = images(3), drawn(3, shuffle=1.0, shuffle_edge=0.25)
    after = corrupt(before, draw)
    cells = cells_of(draw.cuts, draw.seeds[:, 0], PATCH) >> 32
    for image, shuffled, cell in zip(before, after, cells, strict=True):
        assert torch.equal(image.sort().values.flatten().sort().values, shuffled.flatten().sort().values)
        for number in cell.unique():
            inside = cell == number
            assert torch.equal(image[0][inside].sort().values, shuffled[0][inside].sort().values)
        assert (image != shuffled).float().mean() > 0.5


def test_cells_are_boxes_no_longer_than_asked_for() -> None:
    draw = drawn(4, shuffle_edge=0.25)
    longest = np.zeros(3, int)
    for cell in (cells_of(draw.cuts, draw.seeds[:, 0], PATCH) >> 32).numpy():
        for number in np.unique(cell):
            where = np.argwhere(cell == number)
            edges = np.ptp(where, axis=0) + 1
            assert edges.prod() == len(where)
            longest = np.maximum(longest, edges)
    assert longest.tolist() == [int(0.25 * edge) for edge in PATCH]


def test_cells_of_small_patches_have_something_to_shuffle() -> None:
    cuts = draw_corruption(200, (8, 8, 8), Probabilities(), generator()).cuts
    assert 0.5 < cuts[:, 1:8].float().mean() < 0.9  # pieces of one or two voxels


def test_increasing_curves_keep_the_order_of_intensities() -> None:
    before = torch.linspace(0, 1, 16 * 20 * 24).reshape(1, 1, *PATCH).expand(20, -1, -1, -1, -1)
    up = corrupt(before, drawn(20, curve=1.0, decreasing=0.0)).flatten(1).diff(dim=1)
    down = corrupt(before, drawn(20, curve=1.0, decreasing=1.0)).flatten(1).diff(dim=1)
    assert (up >= 0).all() and (down <= 0).all()
    assert (up > 0).float().mean() > 0.99


def test_outpainting_keeps_exactly_the_windows() -> None:
    before, draw = images(30), drawn(30, paint=1.0, outer=1.0)
    after = corrupt(before, draw)
    for image, painted, start, stop, there in zip(before, after, draw.start, draw.stop, draw.boxes.valid, strict=True):
        kept = np.zeros(PATCH, bool)
        for first, last in zip(start[there].tolist(), stop[there].tolist(), strict=True):
            edges = [b - a for a, b in zip(first, last, strict=True)]
            assert all(3 / 7 <= edge / whole <= 4 / 7 for edge, whole in zip(edges, PATCH, strict=True))
            kept[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = True
        assert 1 <= int(there.sum()) <= 5
        assert np.array_equal((image == painted)[0].numpy(), kept)


def test_inpainting_changes_exactly_the_boxes() -> None:
    before, draw = images(30), drawn(30, paint=1.0, outer=0.0)
    after = corrupt(before, draw)
    for image, painted, start, stop, there in zip(before, after, draw.start, draw.stop, draw.boxes.valid, strict=True):
        lost = np.zeros(PATCH, bool)
        for first, last in zip(start[there].tolist(), stop[there].tolist(), strict=True):
            assert all(1 / 6 <= (b - a) / e <= 1 / 3 for a, b, e in zip(first, last, PATCH, strict=True))
            lost[tuple(slice(a, b) for a, b in zip(first, last, strict=True))] = True
        assert int(there.sum()) <= 5
        assert np.array_equal((image != painted)[0].numpy(), lost)


def test_against_a_slow_version() -> None:
    """Curves by dense sampling and interpolation, boxes one by one; the seed's noise is taken as it is."""
    n = 12
    before, draw = images(n), draw_corruption(n, PATCH, replace(Probabilities(), shuffle=0.0), generator(3))
    noise = voxel_noise(draw.seeds[:, 1], PATCH)[:, 0].numpy()
    after = corrupt(before, draw)[:, 0].numpy()
    t = np.linspace(0, 1, 20001)
    for i in range(n):
        expected = before[i, 0].numpy().astype(np.float64)
        if draw.curved[i]:
            (_, y0), (x1, y1), (x2, y2), (_, y3) = draw.curves[i].tolist()
            x = 3 * x1 * t * (1 - t) ** 2 + 3 * x2 * t**2 * (1 - t) + t**3
            y = y0 * (1 - t) ** 3 + 3 * y1 * t * (1 - t) ** 2 + 3 * y2 * t**2 * (1 - t) + y3 * t**3
            expected = np.interp(expected, x, y)
        inside, outside = draw.painted[i].tolist()
        assert not (inside and outside)
        boxes = np.zeros(PATCH, bool)
        for box in range(draw.start.shape[1]):
            if (inside and draw.inner[i, box]) or (outside and draw.outer[i, box]):
                z, y, x = (slice(a, b) for a, b in zip(draw.start[i, box], draw.stop[i, box], strict=True))
                boxes[z, y, x] = True
        lost = ~boxes if outside else boxes
        expected[lost] = noise[i][lost]
        np.testing.assert_allclose(after[i], expected, atol=1e-2)  # a table of 1024 steps; curves can be steep
        assert np.abs(after[i] - expected).mean() < 1e-4
    assert {(bool(c), *p) for c, p in zip(draw.curved, draw.painted.tolist(), strict=True)} >= {(True, False, True)}


def test_all_channels_are_painted_with_the_same_noise() -> None:
    before = 5 + images(6).repeat(1, 2, 1, 1, 1)
    before[:, 1] += 1
    draw = drawn(6, paint=1.0, outer=1.0)
    after, lost = corrupt(before, draw), hidden(draw, PATCH, before.device)[:, 0]
    assert torch.equal(after[:, 0][lost], after[:, 1][lost])
    assert (after[:, 0][lost] >= 0).all() and (after[:, 0][lost] <= 1).all()
    assert abs(after[:, 0][lost].mean() - 0.5) < 0.02 and abs(after[:, 0][lost].std() - 12**-0.5) < 0.02
    assert all(torch.equal(after[:, c][~lost], before[:, c][~lost]) for c in range(2))


def test_probabilities() -> None:
    n = 4000
    draw = draw_corruption(n, (8, 8, 8), Probabilities(), generator())
    assert draw.shuffled.float().mean() == pytest.approx(0.5, abs=0.03)
    assert draw.curved.float().mean() == pytest.approx(0.9, abs=0.02)
    assert draw.painted.float().mean(0).tolist() == pytest.approx([0.9 * 0.2, 0.9 * 0.8], abs=0.03)
    assert (draw.curves[:, 0, 1] == 1).float().mean() == pytest.approx(0.5, abs=0.03)


def test_exactly_one_of_four() -> None:
    n = 4000
    draw = draw_one_corruption(n, (8, 8, 8), Probabilities(), generator())
    kinds = torch.stack([draw.shuffled, draw.curved, *draw.painted.unbind(1)], dim=1)
    assert (kinds.sum(1) == 1).all()
    assert kinds.float().mean(0).tolist() == pytest.approx([0.25] * 4, abs=0.03)


def test_order_of_the_samples_does_not_matter() -> None:
    before, draw = images(6), draw_corruption(6, PATCH, Probabilities(), generator(5))
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(corrupt(before[order], draw[order]), corrupt(before, draw)[order])


def test_draws_do_not_grow_with_the_voxels() -> None:
    """Every process draws for all."""
    draw = draw_corruption(1, (96, 96, 96), Probabilities(), generator())
    assert sum(getattr(draw, name).numel() for name in draw.__dataclass_fields__) < 1000


def test_hidden_is_nothing_where_nothing_is_painted() -> None:
    assert not hidden(drawn(4), PATCH, torch.device("cpu")).any()


@pytest.mark.parametrize("field", ["shuffle", "curve", "decreasing", "paint", "outer", "shuffle_edge", "again"])
def test_what_is_no_probability_is_refused(field: str) -> None:
    for value in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match=f"--{field.replace('_', '-')}: found"):
            replace(Probabilities(), **{field: value}).require_valid()


def test_copying_is_no_task() -> None:
    with pytest.raises(InputError, match="copy its input"):
        NEVER.require_valid()
