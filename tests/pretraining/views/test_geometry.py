"""Crops, mirrors, turns, affine and elastic maps: identities, slow counterparts, and what the draws promise."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from mvp_bench.pretraining.views import geometry
from mvp_bench.pretraining.views.geometry import Crops

PATCH = (5, 6, 4)
EDGES = st.tuples(*[st.integers(1, 7)] * 3)


def _elastic(
    n: int, patch: Sequence[int], amplitude: float, distance: float, generator: torch.Generator
) -> torch.Tensor:
    """A smooth random displacement in voxels."""
    points = geometry.draw_control_points(n, patch, amplitude, distance, generator)
    return geometry.displacement_of(points, patch)


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _images(batch: int, shape: tuple[int, ...] = PATCH, channels: int = 2, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, channels, *shape, generator=_seeded(seed))


def _whole(batch: int, shape: tuple[int, ...]) -> Crops:
    return Crops(torch.zeros(batch, 3), torch.tensor(shape).expand(batch, 3).double())


@given(shape=EDGES, seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_cutting_the_whole_patch_copies_it(shape: tuple[int, int, int], seed: int) -> None:
    images = _images(2, shape, seed=seed)
    assert torch.equal(geometry.cut(images, _whole(2, shape), shape), images)


@given(data=st.data(), shape=EDGES)
@settings(max_examples=40, deadline=None)
def test_cutting_whole_numbers_is_slicing(data: st.DataObject, shape: tuple[int, int, int]) -> None:
    size = [data.draw(st.integers(1, edge)) for edge in shape]
    starts = [[data.draw(st.integers(0, e - s)) for e, s in zip(shape, size, strict=True)] for _ in range(2)]
    images = _images(2, shape)
    cut = geometry.cut(images, Crops(torch.tensor(starts).float(), torch.tensor([size] * 2).float()), size)
    for image, start, got in zip(images, starts, cut, strict=True):
        z, y, x = (slice(s, s + n) for s, n in zip(start, size, strict=True))
        assert torch.equal(got, image[:, z, y, x])


def test_resizing_the_whole_patch_is_torchs_trilinear_interpolation() -> None:
    images = _images(3)
    for size in ((10, 3, 4), (2, 9, 8)):
        expected = functional.interpolate(images, size, mode="trilinear", align_corners=False)
        torch.testing.assert_close(geometry.cut(images, _whole(3, PATCH), size), expected, atol=1e-6, rtol=1e-5)


def test_a_crop_of_a_ramp_has_the_positions_of_its_voxels() -> None:
    ramp = torch.arange(20.0)[:, None, None].expand(20, 3, 3)[None, None]
    crop = Crops(torch.tensor([[2.5, 0.0, 0.0]]), torch.tensor([[9.0, 3.0, 3.0]]))
    got = geometry.cut(ramp, crop, (6, 3, 3))[0, 0, :, 1, 1]
    torch.testing.assert_close(got, torch.tensor([2.5 + (i + 0.5) * 1.5 - 0.5 for i in range(6)]))


@given(lo=st.floats(0.05, 1.0), width=st.floats(0.0, 0.9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_drawn_crops_lie_inside_and_have_the_volume_asked_for(lo: float, width: float, seed: int) -> None:
    hi = min(lo + width, 1.0)
    crops = geometry.draw_crops(50, (32, 40, 24), (lo, hi), _seeded(seed))
    whole = torch.tensor((32.0, 40.0, 24.0), dtype=torch.float64)
    assert (crops.start >= 0).all() and (crops.start + crops.size <= whole + 1e-9).all()
    volume = (crops.size / whole).prod(dim=1)
    assert (volume >= lo - 1e-9).all() and (volume <= hi + 1e-9).all()


def test_crops_cover_the_range_of_volumes_and_places() -> None:
    crops = geometry.draw_crops(4000, (10, 10, 10), (0.2, 1.0), _seeded())
    volume = (crops.size / 10).prod(dim=1)
    assert volume.min() < 0.21 and volume.max() > 0.99 and abs(volume.mean() - 0.6) < 0.02
    room = (10 - crops.size).clamp(min=1e-6)
    torch.testing.assert_close((crops.start / room).mean(dim=0), torch.full((3,), 0.5).double(), atol=0.03, rtol=0)


@given(rows=st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_mirroring_is_numpys_and_undone_by_itself(rows: list[tuple[bool, bool, bool]]) -> None:
    images, flips = _images(len(rows)), torch.tensor(rows)
    mirrored = geometry.flip(images, flips)
    for image, row, got in zip(images, rows, mirrored, strict=True):
        expected = np.flip(image.numpy(), [a + 1 for a in range(3) if row[a]])
        assert np.array_equal(got.numpy(), expected)
    assert torch.equal(geometry.flip(mirrored, flips), images)


def test_mirrors_have_the_probability_asked_for() -> None:
    assert not geometry.draw_flips(50, 0.0, _seeded()).any() and geometry.draw_flips(50, 1.0, _seeded()).all()
    rates = geometry.draw_flips(4000, 0.3, _seeded()).float().mean(dim=0)
    torch.testing.assert_close(rates, torch.full((3,), 0.3), atol=0.03, rtol=0)


@pytest.mark.parametrize(
    ("patch", "plane"),
    [((4, 4, 4), (1, 2)), ((6, 5, 5), (1, 2)), ((4, 4, 5), (0, 1)), ((4, 5, 4), (0, 2)), ((3, 4, 5), None)],
)
def test_the_plane_of_turns_has_equal_edges(patch: tuple[int, ...], plane: tuple[int, int] | None) -> None:
    assert geometry.plane_of_turns(patch) == plane


@given(turns=st.lists(st.integers(0, 7), min_size=1, max_size=5), plane=st.sampled_from([(1, 2), (0, 1), (0, 2)]))
@settings(max_examples=30, deadline=None)
def test_turns_are_numpys_and_undone_by_the_rest_of_four(turns: list[int], plane: tuple[int, int]) -> None:
    images, count = _images(len(turns), (4, 4, 4)), torch.tensor(turns)
    turned = geometry.turn(images, count, plane)
    for image, k, got in zip(images, turns, turned, strict=True):
        assert np.array_equal(got.numpy(), np.rot90(image.numpy(), k, (plane[0] + 1, plane[1] + 1)))
    assert torch.equal(geometry.turn(turned, (4 - count) % 4, plane), images)
    assert torch.equal(geometry.turn(images, torch.full_like(count, 4), plane), images)


def test_without_a_plane_nothing_turns() -> None:
    images = _images(3)
    assert torch.equal(geometry.turn(images, torch.tensor([1, 2, 3]), None), images)
    assert set(geometry.draw_turns(200, _seeded()).tolist()) == {0, 1, 2, 3}


@given(shape=st.tuples(*[st.integers(2, 9)] * 3))
@settings(max_examples=20, deadline=None)
def test_the_identity_map_changes_nothing(shape: tuple[int, int, int]) -> None:
    images = _images(2, shape)
    still = torch.zeros(2, 3, *shape)
    neutral = geometry.draw_affine(2, 0.0, (1.0, 1.0), 0.0, 0.0, _seeded())
    torch.testing.assert_close(neutral, torch.eye(3, 4).expand(2, 3, 4))
    for displacement, theta in ((still, None), (None, neutral), (still, neutral), (None, None)):
        torch.testing.assert_close(geometry.warp(images, displacement, theta), images, atol=1e-5, rtol=0)


def test_a_whole_displacement_pulls_the_neighbour() -> None:
    images = _images(1)
    for axis in range(3):
        displacement = torch.zeros(1, 3, *PATCH)
        displacement[:, axis] = 1.0
        pulled = geometry.warp(images, displacement)
        inner = PATCH[axis] - 1
        torch.testing.assert_close(
            pulled.narrow(axis + 2, 0, inner), images.narrow(axis + 2, 1, inner), atol=1e-5, rtol=0
        )
        assert pulled.select(axis + 2, -1).abs().max() < 1e-4, "zeros come in from outside"
        border = geometry.warp(images, displacement, padding="border")
        torch.testing.assert_close(border.select(axis + 2, -1), images.select(axis + 2, -1), atol=1e-5, rtol=0)


def test_nearest_keeps_labels() -> None:
    labels = torch.randint(5, (2, 1, *PATCH), generator=_seeded()).float()
    displacement = _elastic(2, PATCH, 2.0, 3.0, _seeded())
    assert set(geometry.warp(labels, displacement, mode="nearest").unique().tolist()) <= set(range(5))


def test_a_quarter_turn_as_an_affine_map_is_rot90() -> None:
    images = _images(1, (6, 6, 6))
    zero = torch.zeros(1, 3)
    for axis, plane in ((0, (0, 1)), (1, (0, 2)), (2, (1, 2))):
        angle = zero.clone()
        angle[0, axis] = math.pi / 2
        turned = geometry.warp(images, None, geometry.affine_matrices(angle, zero + 1, zero, zero))
        ways = [torch.rot90(images, k, (plane[0] + 2, plane[1] + 2)) for k in (1, 3)]
        assert min((turned - way).abs().max() for way in ways) < 1e-4


def test_a_scale_of_one_axis_is_a_crop_and_a_shift_is_in_halves_of_the_edge() -> None:
    images = _images(1, (8, 8, 8))
    zero = torch.zeros(1, 3)
    theta = geometry.affine_matrices(zero, torch.tensor([[1.0, 1.0, 0.5]]), zero, zero)
    crop = Crops(torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[4.0, 8.0, 8.0]]))
    torch.testing.assert_close(
        geometry.warp(images, None, theta), geometry.cut(images, crop, (8, 8, 8)), atol=1e-5, rtol=0
    )
    moved = geometry.warp(images, None, geometry.affine_matrices(zero, zero + 1, zero, torch.tensor([[0.0, 0.5, 0.0]])))
    torch.testing.assert_close(moved[..., :6, :], images[..., 2:, :], atol=1e-5, rtol=0)


def test_rotations_in_voxel_space_keep_lengths_in_a_patch_that_is_no_cube() -> None:
    patch = (8, 16, 4)
    angle, zero = torch.tensor([[0.3, -0.2, 0.5]]), torch.zeros(1, 3)
    edges = torch.tensor(patch[::-1]).float()
    for given_patch, rigid in ((patch, True), (None, False)):
        linear = geometry.affine_matrices(angle, zero + 1, zero, zero, given_patch)[0, :, :3]
        in_voxels = linear * edges[:, None] / edges
        assert torch.allclose(in_voxels @ in_voxels.T, torch.eye(3), atol=1e-5) is rigid


def test_drawn_affine_maps_keep_to_their_ranges() -> None:
    theta = geometry.draw_affine(2000, 0.0, (0.75, 1.25), 0.0, 0.1, _seeded())
    factors, shifts = theta[:, :, :3].diagonal(dim1=1, dim2=2), theta[:, :, 3]
    assert 0.75 <= factors.min() < 0.76 and 1.24 < factors.max() <= 1.25
    assert 0.098 < shifts.abs().max() <= 0.1
    volume = torch.linalg.det(geometry.draw_affine(100, 0.4, (1.0, 1.0), 0.2, 0.1, _seeded())[:, :, :3])
    torch.testing.assert_close(volume, torch.ones(100))


def test_an_affine_map_then_a_displacement_is_their_composition() -> None:
    z, y, x = torch.meshgrid(*[torch.arange(12.0)] * 3, indexing="ij")
    smooth = (torch.sin(z / 4) + torch.cos(y / 5) + x / 12)[None, None]
    theta = geometry.draw_affine(1, 0.1, (0.8, 0.9), 0.05, 0.02, _seeded())
    displacement = _elastic(1, (12, 12, 12), 1.0, 6.0, _seeded())
    both = geometry.warp(smooth, displacement, theta, padding="border")
    apart = geometry.warp(geometry.warp(smooth, None, theta, padding="border"), displacement, padding="border")
    inner = (..., slice(2, -2), slice(2, -2), slice(2, -2))
    torch.testing.assert_close(both[inner], apart[inner], atol=0.03, rtol=0)


def test_elastic_displacements_are_bounded_smooth_and_follow_their_seed() -> None:
    patch = (24, 20, 16)
    first = _elastic(3, patch, 4.0, 8.0, _seeded(1))
    assert first.shape == (3, 3, *patch) and 0.5 < first.abs().max() <= 4.0
    assert torch.equal(first, _elastic(3, patch, 4.0, 8.0, _seeded(1)))
    assert not torch.equal(first[0], first[1])
    for axis in range(3):  # the slope of a cubic B-spline is at most twice the amplitude per knot distance
        assert first.diff(dim=axis + 2).abs().max() <= 2 * 4.0 / 8.0 * 1.3
    constant = geometry.displacement_of(torch.full((1, 3, 6, 5, 7), 2.5), patch)
    torch.testing.assert_close(constant, torch.full((1, 3, *patch), 2.5))


def test_maps_pass_gradients_to_displacement_and_theta() -> None:
    displacement = torch.zeros(1, 3, *PATCH, requires_grad=True)
    theta = torch.eye(3, 4)[None].requires_grad_()
    geometry.warp(_images(1), displacement, theta).square().sum().backward()
    assert displacement.grad is not None and displacement.grad.abs().sum() > 0
    assert theta.grad is not None and theta.grad.abs().sum() > 0


def test_zero_patches_stay_zero() -> None:
    zeros = torch.zeros(2, 1, *PATCH)
    theta = geometry.draw_affine(2, 0.3, (0.8, 1.2), 0.1, 0.1, _seeded())
    assert not geometry.warp(zeros, _elastic(2, PATCH, 2.0, 3.0, _seeded()), theta).any()
    assert not geometry.cut(zeros, geometry.draw_crops(2, PATCH, (0.3, 0.9), _seeded()), (4, 4, 4)).any()
