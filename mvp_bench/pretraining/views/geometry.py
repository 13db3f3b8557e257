"""Crops, mirrors, quarter turns, affine and elastic maps of batches of volumes.

``draw_*`` return CPU tensors with one row per sample; the functions that apply them are pure, work on the images'
device and keep at most a few copies of the batch (96^3 voxels, batch 4: 14 MB each). Images are (B, C, z, y, x);
spatial axes 0, 1, 2 are z, y, x.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional

from mvp_bench.pretraining.views.drawn import Drawn

LEAST_SHARE, MOST_SHARE = 0.5, 1.5
"""Range of an axis's share in a crop's shrinkage, before the shares are made to sum to one."""


@dataclass(frozen=True)
class Crops(Drawn):
    """Boxes in voxels that need not be whole; voxel i of an axis covers [i, i + 1)."""

    start: torch.Tensor
    """float (n, 3): lower faces."""
    size: torch.Tensor
    """float (n, 3): edges."""


def draw_crops(n: int, patch: Sequence[int], scale: tuple[float, float], generator: torch.Generator) -> Crops:
    """Boxes inside the patch whose part of its volume is uniform in ``scale``, at uniform places.

    The edge of axis a is patch_a v^w_a with v the volume's part and random shares w_a >= 0 that sum to one, so that no
    edge exceeds the patch and aspect ratios stay moderate.

    Args:
        scale: lowest and highest part of the patch's volume, 0 < lo <= hi <= 1.
    """
    volume = scale[0] + (scale[1] - scale[0]) * torch.rand(n, 1, generator=generator, dtype=torch.float64)
    share = LEAST_SHARE + (MOST_SHARE - LEAST_SHARE) * torch.rand(n, 3, generator=generator, dtype=torch.float64)
    whole = torch.tensor(patch, dtype=torch.float64)
    size = whole * volume ** (share / share.sum(dim=1, keepdim=True))
    start = torch.rand(n, 3, generator=generator, dtype=torch.float64) * (whole - size)
    return Crops(start, size)


def cut(images: torch.Tensor, crops: Crops, size: Sequence[int]) -> torch.Tensor:
    """Each image's crop, resampled trilinearly to ``size`` voxels: (B, C, *patch) -> (B, C, *size).

    Voxels are cells (``align_corners=False``): voxel i of the result lies at start + (i + 1/2) edge / size - 1/2.
    Positions beyond the outermost voxels' centres take those voxels' values. Separable, one axis after the other; a
    crop of whole numbers that is not resized is copied bit for bit. No low-pass filter before shrinking.
    """
    for axis, length in enumerate(size):
        extent = images.shape[axis + 2]
        start, edge = crops.start[:, axis, None].double().cpu(), crops.size[:, axis, None].double().cpu()
        place = start + (torch.arange(length, dtype=torch.float64) + 0.5) * (edge / length) - 0.5
        place = place.clamp(0, extent - 1)
        low = place.floor()
        shape = [len(images), 1, 1, 1, 1]
        shape[axis + 2] = length
        index = low.long().reshape(shape).to(images.device)
        upper = (place - low).to(images.dtype).reshape(shape).to(images.device)
        below = images.take_along_dim(index, dim=axis + 2)
        above = images.take_along_dim((index + 1).clamp(max=extent - 1), dim=axis + 2)
        images = torch.lerp(below, above, upper.expand_as(below))
    return images


def draw_flips(n: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Which axes (z, y, x) to mirror, each with ``probability``: bool (n, 3)."""
    return torch.rand(n, 3, generator=generator) < probability


def flip(images: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """Mirror each image (B, C, z, y, x) along its axes ``flips`` (B, 3)."""
    chosen = flips.to(images.device)[:, :, None, None, None, None]
    for axis in range(3):
        images = torch.where(chosen[:, axis], images.flip(axis + 2), images)
    return images


def plane_of_turns(patch: Sequence[int]) -> tuple[int, int] | None:
    """Two spatial axes of equal length, in which quarter turns keep the shape, (y, x) preferred; None if none are."""
    for first, second in ((1, 2), (0, 1), (0, 2)):
        if patch[first] == patch[second]:
            return first, second
    return None


def draw_turns(n: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of quarter turns, uniform in 0..3: int64 (n,)."""
    return torch.randint(4, (n,), generator=generator)


def turn(images: torch.Tensor, turns: torch.Tensor, plane: tuple[int, int] | None) -> torch.Tensor:
    """Turn each image (B, C, z, y, x) by its number of quarter turns (modulo 4) in the plane of two spatial axes.

    A positive turn takes the first axis of the plane to the second. No plane: the images as they are.
    """
    if plane is None:
        return images
    axes = (plane[0] + 2, plane[1] + 2)
    count = (turns.to(images.device) % 4)[:, None, None, None, None]
    turned = images
    for quarter in (1, 2, 3):
        turned = torch.where(count == quarter, torch.rot90(images, quarter, axes), turned)
    return turned


def affine_matrices(
    rotation: torch.Tensor,
    scale: torch.Tensor,
    shear: torch.Tensor,
    shift: torch.Tensor,
    patch: Sequence[int] | None = None,
) -> torch.Tensor:
    """theta (n, 3, 4) of ``functional.affine_grid``: output position -> input position, both (x, y, z) in [-1, 1].

    theta = [Rz Ry Rx H S | t] with rotations R, H the upper unitriangular matrix of shears, S the scales.
    Differentiable in everything.

    Args:
        rotation: (n, 3) angles about x, y, z, radians.
        scale: (n, 3) factors along x, y, z; above 1 the image appears smaller.
        shear: (n, 3) angles of xy, xz, yz, radians.
        shift: (n, 3) along x, y, z; 2 is the whole edge.
        patch: voxels (z, y, x); if given, rotations and shears are those of voxel space, where a patch that is no cube
            would otherwise be sheared by them.
    """
    (cx, cy, cz), (sx, sy, sz) = rotation.cos().unbind(1), rotation.sin().unbind(1)
    one, zero = torch.ones_like(cx), torch.zeros_like(cx)
    about_x = _matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    about_y = _matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_z = _matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    xy, xz, yz = shear.tan().unbind(1)
    sheared = _matrix(one, xy, xz, zero, one, yz, zero, zero, one)
    with torch.autocast(rotation.device.type, enabled=False):
        linear = about_z @ about_y @ about_x @ sheared @ torch.diag_embed(scale)
    if patch is not None:
        edges = torch.tensor(tuple(patch)[::-1], dtype=linear.dtype, device=linear.device)
        linear = linear * edges / edges[:, None]
    return torch.cat([linear, shift[:, :, None]], dim=2)


def _matrix(*entries: torch.Tensor) -> torch.Tensor:
    """Nine entries (n,), row by row -> (n, 3, 3)."""
    return torch.stack(entries, dim=1).reshape(-1, 3, 3)


def draw_affine(
    n: int,
    rotation: float,
    scale: tuple[float, float],
    shear: float,
    shift: float,
    generator: torch.Generator,
    patch: Sequence[int] | None = None,
) -> torch.Tensor:
    """Random theta (n, 3, 4), see :func:`affine_matrices`; every axis has draws of its own, all uniform.

    Args:
        rotation, shear: largest angles, radians.
        scale: lowest and highest factor.
        shift: largest shift in normalised coordinates (2 is the whole edge).
        patch: for rotations in voxel space.
    """
    unit = torch.rand(n, 4, 3, generator=generator)
    signed = 2 * unit - 1
    factor = scale[0] + (scale[1] - scale[0]) * unit[:, 1]
    return affine_matrices(rotation * signed[:, 0], factor, shear * signed[:, 2], shift * signed[:, 3], patch)


def draw_control_points(
    n: int, patch: Sequence[int], amplitude: float, smoothness: float, generator: torch.Generator
) -> torch.Tensor:
    """Random displacements of a coarse grid, uniform in +-``amplitude`` voxels: (n, 3, k_z, k_y, k_x).

    Small (k = edge / smoothness + 3), so that points for all processes can be drawn and one's own be enlarged on the
    device by :func:`displacement_of`.

    Args:
        amplitude: no component exceeds it, voxels.
        smoothness: distance of the control points, voxels; folding is impossible for ``amplitude`` < 0.4 of it (Choi
            and Lee, 2000).
    """
    counts = [math.ceil(edge / smoothness) + 3 for edge in patch]
    return amplitude * (2 * torch.rand(n, 3, *counts, generator=generator) - 1)


def displacement_of(points: torch.Tensor, patch: Sequence[int]) -> torch.Tensor:
    """Control points (n, 3, k_z, k_y, k_x) -> displacement (n, 3, *patch) by uniform cubic B-splines.

    Twice continuously differentiable and, as the splines are positive and sum to one, nowhere larger than the largest
    point. Separable; on the points' device.
    """
    with torch.autocast(points.device.type, enabled=False):
        for axis, edge in enumerate(patch, start=2):
            count = points.shape[axis]
            place = (torch.arange(edge, dtype=torch.float64) + 0.5) * (count - 3) / edge + 1
            distance = (place[:, None] - torch.arange(count, dtype=torch.float64)).abs()
            near = 2 / 3 - distance**2 + distance**3 / 2
            basis = torch.where(distance < 1, near, (2 - distance).clamp(min=0) ** 3 / 6)
            points = torch.tensordot(points.movedim(axis, -1), basis.to(points).T, dims=1).movedim(-1, axis)
    return points.contiguous()


def warp(
    images: torch.Tensor,
    displacement: torch.Tensor | None,
    theta: torch.Tensor | None = None,
    mode: Literal["bilinear", "nearest"] = "bilinear",
    padding: Literal["zeros", "border"] = "zeros",
) -> torch.Tensor:
    """Pull images through a map: out(p) = in(theta(p + u(p))), as if ``theta`` were applied first, then ``u``.

    Differentiable in images, displacement and theta; float32. Memory: three numbers per voxel for the grid.

    Args:
        images: (B, C, z, y, x).
        displacement: u, (B, 3, z, y, x), components (z, y, x), voxels; None for none.
        theta: (B, 3, 4), see :func:`affine_matrices`; None for the identity.
        mode: ``bilinear`` is trilinear here.
        padding: what lies outside the image.
    """
    shape = images.shape[2:]
    axes = [(2 * torch.arange(edge, device=images.device, dtype=torch.float32) + 1) / edge - 1 for edge in shape]
    grid = torch.stack(torch.meshgrid(*axes, indexing="ij")[::-1], dim=-1).expand(len(images), -1, -1, -1, -1)
    if displacement is not None:
        voxel = torch.tensor([2 / edge for edge in shape], device=images.device)
        moved = displacement.to(images.device).float() * voxel[:, None, None, None]
        grid = grid + moved.flip(1).movedim(1, -1)
    if theta is not None:
        matrix = theta.to(images.device).float()
        with torch.autocast(images.device.type, enabled=False):
            flat = torch.baddbmm(matrix[:, None, :, 3], grid.flatten(1, 3), matrix[:, :, :3].transpose(1, 2))
        grid = flat.reshape(grid.shape)
    return functional.grid_sample(images.float(), grid, mode=mode, padding_mode=padding, align_corners=False)
