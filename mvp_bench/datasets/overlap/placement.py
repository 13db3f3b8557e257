"""Brain scans in a common place: low resolution, ranks of grey values, and a rigid map from a template brain.

The template: nilearn's bundled ICBM152 2009a symmetric, Fonov et al., NeuroImage 54 (2011) 313.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from skimage.filters import threshold_otsu

Array = NDArray[np.float32]
Points = NDArray[np.float64]
Pose = NDArray[np.float64]
"""4x4 rigid map, mm to mm."""

GRID_MM = 4
"""Voxel edge of the template's grid."""
BLUR_MM = 4.0
"""Standard deviation of the blur under which a scan is laid over the template."""
_HEAD_MM = 150.0
"""From the top of the head down: what counts for the first guess of the position (the rest may be neck)."""
_LEVER_MM = 60.0
"""Rotations are measured by the way of a point at this distance, to have one unit with shifts."""
_TRUST_MM = 4.0
"""Length of the first step."""
_PRIOR_MM = 200.0
"""A way of this length from the start weighs as much as all of the scan's variance: bars solutions far outside."""
_STEP_MM = 1.0
"""Step of finite differences."""
_POOR_FIT = 0.35
"""Unexplained share of the variance above which other starts are tried. Phantom and real brains reach 0.1 to 0.3."""
_OTHER_STARTS_MM = (-15.0, 15.0)
"""Shifts along the body's axis: the top of the head may lie outside the field of view."""
_MASKED_SHARE = 0.05
"""One grey value in more voxels than this, and at the faces of the volume, is a masked background."""
_QUANTILES = np.linspace(0.0, 1.0, 129)
_LOW, _HIGH = (-76, -112, -76), (76, 80, 88)
"""Corners of the template's grid in mm; symmetric about x = 0."""


@dataclass(frozen=True)
class Scan:
    """A scan at low resolution.

    Attributes:
        values: (x, y, z) ranks of grey values among the foreground's, 0 to 1, along R, A, S.
        to_voxel: 4x4, world mm to voxel.
        foreground: (x, y, z) what is not air.
    """

    values: Array
    to_voxel: NDArray[np.float64]
    foreground: NDArray[np.bool_]

    def at(self, points: Points, pose: Pose) -> Array:
        """Values (n,) at ``pose`` (points), linearly interpolated; 0 outside. Points (n, 3) in mm."""
        return _interpolate(self.values, points, self.to_voxel @ pose)

    def blurred(self, sigma_mm: float) -> Scan:
        """The same scan, smoothed by a Gaussian."""
        edges = np.linalg.norm(np.linalg.inv(self.to_voxel)[:3, :3], axis=0)
        smooth = ndimage.gaussian_filter(self.values, sigma_mm / edges, mode="nearest", truncate=3)
        return Scan(smooth, self.to_voxel, self.foreground)


@dataclass(frozen=True)
class Template:
    """The average brain on a grid of GRID_MM.

    Attributes:
        inside: (x, y, z) the brain.
        points: (n, 3) mm, the whole grid.
        tissue: three (x, y, z) maps: white matter, grey matter, T1 contrast.
        fit_points: (m, 3) mm, the places at which scans are laid over it: every other point of the brain and its rim.
        fit_maps: (m, k) what is to explain a scan there: tissues, and a linear bias field in the brain.
    """

    inside: NDArray[np.bool_]
    points: Points
    tissue: tuple[Array, Array, Array]
    fit_points: Points
    fit_maps: Array

    @property
    def brain_points(self) -> Points:
        """(b, 3) mm, the points inside."""
        return self.points[self.inside.ravel()]


def reduce_scan(data: NDArray, affine: NDArray, edge_mm: float) -> Scan | None:
    """Bring a scan to RAS and voxels of about ``edge_mm`` (means of blocks); None if it shows nothing."""
    orientation = io_orientation(affine)
    values = apply_orientation(data, orientation)
    affine = affine @ inv_ornt_aff(orientation, data.shape)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    lowest = values.min()
    background = np.median(np.concatenate([np.take(values, i, axis).ravel() for axis in range(3) for i in (0, -1)]))
    if background > lowest and np.mean(values == background) > _MASKED_SHARE:  # centred within a mask
        values = np.where(values == background, lowest, values)
    steps = [max(1, min(round(edge_mm / edge), length)) for edge, length in zip(edges, values.shape, strict=True)]
    values = _block_mean(values, steps)
    affine = affine @ np.diag([*steps, 1.0])
    affine[:3, 3] += affine[:3, :3] @ [(step - 1) / (2 * step) for step in steps]
    values = values - values.min()
    shown = values[values > 0]
    if shown.size == 0 or shown.min() == shown.max():
        return None
    # the root keeps bright fat from dominating; half of it, as a masked brain has no air below the threshold
    foreground = values > (float(threshold_otsu(np.sqrt(shown))) / 2) ** 2
    ranks = np.interp(values, np.quantile(values[foreground], _QUANTILES), _QUANTILES)
    return Scan(ranks.astype(np.float32), np.linalg.inv(affine), foreground)


def locate(scan: Scan) -> Pose:
    """Rigid map from template to scan: the one under which the template's tissues explain most of the scan."""
    brain = template()
    to_world = np.linalg.inv(scan.to_voxel)
    where = np.argwhere(scan.foreground) @ to_world[:3, :3].T + to_world[:3, 3]
    top = np.quantile(where[:, 2], 0.999)
    start = np.eye(4)
    start[:3, 3] = where[where[:, 2] > top - _HEAD_MM].mean(axis=0) - brain.brain_points.mean(axis=0)
    start[2, 3] = top - brain.brain_points[:, 2].max()
    blurred = scan.blurred(BLUR_MM)
    best = align(blurred, brain.fit_points, brain.fit_maps, start)
    if best[1] > _POOR_FIT:
        for shift in _OTHER_STARTS_MM:
            other = start.copy()
            other[2, 3] += shift
            best = min(best, align(blurred, brain.fit_points, brain.fit_maps, other), key=lambda found: found[1])
    return best[0]


def align(scan: Scan, points: Points, maps: Array, start: Pose) -> tuple[Pose, float]:
    """Rigid map from ``points`` to the scan, near ``start``.

    It minimises the share of the scan's variance that no linear combination of the maps explains, so neither scale nor
    sign of the grey values matters (least squares with a trust region; variable projection).

    Args:
        scan: smooth.
        points: (n, 3) mm.
        maps: (n, k) what is to explain the scan at the points.
        start: first guess.

    Returns:
        The map, and the unexplained share (0 to 1) with a small price for the way from the start.
    """
    basis = orthonormal(maps)
    centre = points.mean(axis=0)
    slopes = np.gradient(scan.values)

    def pose(x: NDArray[np.float64]) -> Pose:
        move = np.eye(4)
        move[:3, :3] = Rotation.from_rotvec(x[:3] / _LEVER_MM).as_matrix()
        move[:3, 3] = centre + x[3:] - move[:3, :3] @ centre
        return start @ move

    def sample(x: NDArray[np.float64]) -> tuple[NDArray, float]:
        values = scan.at(points, pose(x))
        values -= values.mean()
        return values, max(float(np.linalg.norm(values)), 1e-6)

    def residual(x: NDArray[np.float64]) -> NDArray:
        values, norm = sample(x)
        return np.concatenate([unexplained(values, basis) / norm, x / _PRIOR_MM])

    def jacobian(x: NDArray[np.float64]) -> NDArray:
        matrix = scan.to_voxel @ pose(x)
        slope = np.stack([_interpolate(part, points, matrix) for part in slopes])
        columns = []
        for step in _STEP_MM * np.eye(6):
            change = scan.to_voxel @ (pose(x + step) - pose(x - step)) / (2 * _STEP_MM)
            columns.append(np.sum(slope * (change[:3, :3] @ points.T + change[:3, 3:]), axis=0))
        derivative = np.stack(columns, axis=1)
        values, norm = sample(x)
        growth = values @ (derivative - derivative.mean(axis=0)) / norm  # of the norm
        moved = unexplained(derivative, basis) / norm - np.outer(unexplained(values, basis), growth) / norm**2
        return np.concatenate([moved, np.eye(6) / _PRIOR_MM])

    found = least_squares(residual, np.zeros(6), jacobian, x_scale=_TRUST_MM, xtol=1e-3, ftol=1e-4, max_nfev=30)
    return pose(found.x), 2 * float(found.cost)


def orthonormal(maps: Array) -> Array:
    """(n, k + 1) orthonormal columns that span the maps (n, k) and a constant."""
    return np.linalg.qr(np.column_stack([np.ones(len(maps), np.float32), maps]))[0]


def unexplained(values: NDArray, basis: Array) -> NDArray:
    """What is left of values (n,) or (n, j) without their projection on the orthonormal basis."""
    return values - basis @ (basis.T @ values)


@lru_cache(maxsize=1)
def template() -> Template:
    """The template, made once per process (0.3 s)."""
    t1, affine = _bundled("t1")
    axes = [np.arange(low, high + 1, GRID_MM, dtype=float) for low, high in zip(_LOW, _HIGH, strict=True)]
    shape = tuple(len(axis) for axis in axes)
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)

    def sampled(values: Array, sigma_mm: float) -> Array:
        smooth = ndimage.gaussian_filter(values, sigma_mm, truncate=3)  # the bundled maps have voxels of 1 mm
        return _interpolate(smooth, points, np.linalg.inv(affine))

    brain, white, grey = (t1 > 0).astype(np.float32), _bundled("wm")[0], _bundled("gm")[0]
    inside = (sampled(brain, GRID_MM / 2) > 0.5).reshape(shape)
    every_other = np.zeros(shape, bool)
    every_other[::2, ::2, ::2] = True
    fit = np.flatnonzero(every_other & ndimage.binary_dilation(inside))
    maps = np.stack([sampled(values, BLUR_MM)[fit] for values in (brain, white, grey, t1)], axis=1)
    bias = maps[:, :1] * (points[fit] / _LEVER_MM)
    white, grey, t1 = (sampled(values, GRID_MM / 2).reshape(shape) for values in (white, grey, t1))
    return Template(inside, points, (white, grey, t1), points[fit], np.hstack([maps, bias]).astype(np.float32))


def _bundled(name: str) -> tuple[Array, NDArray[np.float64]]:
    """A map of the template (0 to 1) and its affine."""
    spec = find_spec("nilearn")  # found, not imported: that takes a second
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "data"
    image = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    return np.asanyarray(image.dataobj).astype(np.float32) / 255, np.asarray(image.affine, float)


def _interpolate(values: Array, points: Points, to_voxel: NDArray[np.float64]) -> Array:
    indices = to_voxel[:3, :3] @ points.T + to_voxel[:3, 3:]
    return ndimage.map_coordinates(values, indices, order=1, mode="constant", prefilter=False)


def _block_mean(values: NDArray, steps: Sequence[int]) -> Array:
    for axis, step in enumerate(steps):
        count = values.shape[axis] // step
        total = np.zeros((*values.shape[:axis], count, *values.shape[axis + 1 :]), np.float32)
        for offset in range(step):
            index = [slice(None)] * 3
            index[axis] = slice(offset, count * step, step)
            total += values[tuple(index)]
        values = total / step
    return values.astype(np.float32, copy=False)
