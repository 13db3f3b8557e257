"""The same scan found again by its image, however it was stored.

A scan is brought to RAS, averaged to about 4 mm, its grey values replaced by ranks (no intensity scale or gamma is
left), and laid over nilearn's ICBM152 template by a rigid registration. There it is band-passed and what its tissue map
explains is removed, since that is what all brains share; the signs of what is left, at fixed places in the brain, are
the hash. Two hashes of one scan differ in few bits. Candidates are then verified at finer resolution by
:func:`same_scan`, which registers one scan to the other.

The template: ICBM152 2009a symmetric, Fonov et al., NeuroImage 54 (2011) 313; it ships inside the nilearn wheel.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
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
from scipy.stats import pearsonr
from skimage.filters import threshold_otsu
from threadpoolctl import threadpool_limits

from mvp_bench.config.groups import OverlapConfig
from mvp_bench.datasets.geometry.volumes import Volume

HASH_BITS = 2048
"""Length of a hash; its text has a quarter as many characters."""
_GRID_MM = 4
"""Voxel edge at which scans are compared with the template."""
_HASH_MM = 8
"""Distance of the places whose bits make the hash."""
_BAND_MM = (3.0, 10.0)
"""Standard deviations of the Gaussians whose difference is the hash's band-pass."""
_FINE_MM = 3.0
"""Voxel edge at which two scans are compared with each other."""
_FINE_BAND_MM = (2.0, 7.0)
"""The band-pass there."""
_BLOCK = 1024
"""Hashes compared with all others at a time: bounds the memory."""
_BLUR_MM = 5.0
"""Standard deviation of the blur under which a scan is registered to the template."""
_HEAD_MM = 150.0
"""From the top of the head down: what counts for the first guess of the position (the rest may be neck)."""
_STEP_MM = 1.0
"""Step of the finite differences."""
_LEVER_MM = 60.0
"""Rotations are measured as the way of a point this far off."""
_TRUST_MM = 4.0
"""How far the first step of the registration may go."""
_QUANTILES = np.linspace(0.0, 1.0, 129)

Array = NDArray[np.float32]
Pose = NDArray[np.float64]
"""4x4 rigid map, mm to mm."""


@dataclass(frozen=True)
class _Scan:
    """A scan at low resolution.

    Attributes:
        values: ranks of grey values (0 to 1) along R, A, S.
        to_voxel: 4x4, world mm to voxel index.
        foreground: where the head is.
    """

    values: Array
    to_voxel: NDArray[np.float64]
    foreground: NDArray[np.bool_]

    def at(self, points: NDArray[np.float64], pose: Pose) -> Array:
        """Values (n,) at ``pose`` (points), linearly interpolated; 0 outside. Points (n, 3) in mm."""
        matrix = self.to_voxel @ pose
        indices = matrix[:3, :3] @ points.T + matrix[:3, 3:]
        return ndimage.map_coordinates(self.values, indices, order=1, mode="constant", prefilter=False)

    def blurred(self, sigma_mm: float) -> _Scan:
        """The same scan, smoothed by a Gaussian."""
        edges = 1 / np.linalg.norm(self.to_voxel[:3, :3], axis=1)
        return _Scan(
            ndimage.gaussian_filter(self.values, sigma_mm / edges, mode="nearest", truncate=3),
            self.to_voxel,
            self.foreground,
        )


@dataclass(frozen=True)
class _Template:
    """The average brain on a regular grid of _GRID_MM.

    Attributes:
        inside: (x, y, z) the brain.
        points: (n, 3) mm, the whole grid.
        tissue: (n, k) maps that explain what all brains share, at the band of the hash.
        coarse: (m, 3) mm, places at which scans are registered: the brain and what is next to it.
        coarse_tissue: (m, k) blurred maps there.
        bits: HASH_BITS indices into the flat grid.
        centre: mm.
        top: mm, of the brain.
    """

    inside: NDArray[np.bool_]
    points: NDArray[np.float64]
    tissue: Array
    coarse: NDArray[np.float64]
    coarse_tissue: Array
    bits: NDArray[np.int64]
    centre: NDArray[np.float64]
    top: float


def perceptual_hash(data: NDArray, affine: NDArray) -> str:
    """Hash of what a brain scan shows; nearly the same for every way of storing the scan.

    Args:
        data: (i, j, k) finite grey values in any axis order; a background, if masked out, holds one value.
        affine: 4x4, voxel index to RAS mm.

    Returns:
        Hexadecimal text of HASH_BITS / 4 characters; empty if the image shows nothing (one value everywhere).
    """
    with threadpool_limits(limits=1):  # the bits of a matrix product may depend on the number of threads
        scan = _reduce(data, affine, _GRID_MM)
        if scan is None:
            return ""
        template = _template()
        band = _band(scan.at(template.points, _locate(scan)), template.inside, _BAND_MM, _GRID_MM)
        inside = template.inside.ravel()
        residual = np.zeros_like(band)
        residual[inside] = _unexplained(band[inside], _orthonormal(template.tissue[inside]))
        return np.packbits(residual[template.bits] > 0).tobytes().hex()


def _reduce(data: NDArray, affine: NDArray, edge_mm: float) -> _Scan | None:
    """Bring a scan to RAS and low resolution, and its grey values to ranks; None if it shows nothing."""
    orientation = io_orientation(affine)
    values = apply_orientation(data, orientation)
    affine = affine @ inv_ornt_aff(orientation, data.shape)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    faces = [np.take(values, index, axis).ravel() for axis in range(3) for index in (0, -1)]
    background = np.median(np.concatenate(faces))
    lowest = values.min()
    if background > lowest and np.mean(values == background) > 0.05:  # grey values were centred within a mask
        values = np.where(values == background, lowest, values)
    steps = [max(1, min(round(edge_mm / edge), length)) for edge, length in zip(edges, values.shape, strict=True)]
    values = _block_mean(values, steps)
    affine = affine @ np.diag([*steps, 1.0])
    affine[:3, 3] += affine[:3, :3] @ [(step - 1) / (2 * step) for step in steps]
    shown = values[values > values.min()]
    if shown.size == 0 or shown.min() == shown.max():
        return None
    foreground = values > (float(values.min()) + float(threshold_otsu(shown))) / 2
    knots = np.quantile(values[foreground], _QUANTILES)
    ranks = np.interp(values, knots, _QUANTILES).astype(np.float32)
    return _Scan(ranks, np.linalg.inv(affine), foreground)


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


def _locate(scan: _Scan) -> Pose:
    """Rigid map from template to scan: the one under which the template's tissues explain most of the scan."""
    template = _template()
    to_world = np.linalg.inv(scan.to_voxel)
    where = np.argwhere(scan.foreground) @ to_world[:3, :3].T + to_world[:3, 3]
    top = np.quantile(where[:, 2], 0.999)
    where = where[where[:, 2] > top - _HEAD_MM]
    start = np.eye(4)
    start[:3, 3] = where.mean(axis=0) - template.centre
    start[2, 3] = top - template.top
    return _align(scan.blurred(_BLUR_MM), template.coarse, template.coarse_tissue, start)


def _align(scan: _Scan, points: NDArray[np.float64], maps: Array, start: Pose) -> Pose:
    """Rigid map from ``points`` (n, 3) to the scan, near ``start``.

    It minimises the share of the scan's variance that a linear combination of ``maps`` (n, k) leaves unexplained, so
    neither scale nor sign of the grey values matters (Levenberg-Marquardt).
    """
    basis = _orthonormal(maps)
    centre = points.mean(axis=0)

    def pose(x: NDArray[np.float64]) -> Pose:
        move = np.eye(4)
        move[:3, :3] = Rotation.from_rotvec(x[:3] / _LEVER_MM).as_matrix()
        move[:3, 3] = centre + x[3:] - move[:3, :3] @ centre
        return start @ move

    def residual(x: NDArray[np.float64]) -> NDArray:
        values = scan.at(points, pose(x))
        spread = np.linalg.norm(values - values.mean())
        return _unexplained(values, basis) / max(float(spread), 1e-6)

    def slope(x: NDArray[np.float64]) -> NDArray:
        steps = _STEP_MM * np.eye(6)
        return np.stack([(residual(x + step) - residual(x - step)) / (2 * _STEP_MM) for step in steps], axis=1)

    found = least_squares(residual, np.zeros(6), slope, x_scale=_TRUST_MM, xtol=1e-3, ftol=1e-4, max_nfev=30)
    return pose(found.x)


def _orthonormal(maps: Array) -> Array:
    """(n, k + 1) orthonormal columns that span the maps and a constant."""
    return np.linalg.qr(np.column_stack([np.ones(len(maps), np.float32), maps]))[0]


def _unexplained(values: Array, basis: Array) -> Array:
    return values - basis @ (basis.T @ values)


def _band(values: Array, inside: NDArray[np.bool_], band_mm: tuple[float, float], edge_mm: float) -> Array:
    """(n,) ranks within the mask, band-passed by a difference of Gaussians that do not look outside the mask."""
    ranks = np.zeros(inside.size, np.float32)
    flat = inside.ravel()
    order = np.argsort(values[flat], kind="stable")
    within = np.empty(order.size, np.float32)
    within[order] = np.linspace(-0.5, 0.5, order.size, dtype=np.float32)
    ranks[flat] = within
    volume, weight = ranks.reshape(inside.shape), inside.astype(np.float32)

    def smooth(sigma_mm: float) -> Array:
        total, share = (
            ndimage.gaussian_filter(each, sigma_mm / edge_mm, mode="constant", truncate=3) for each in (volume, weight)
        )
        return total / np.maximum(share, 1e-3)

    return np.where(inside, smooth(band_mm[0]) - smooth(band_mm[1]), 0).ravel()


@lru_cache(maxsize=1)
def _template() -> _Template:
    t1, affine = _bundled("t1")
    white, grey = _bundled("wm")[0], _bundled("gm")[0]
    # a 4 mm grid symmetric about x = 0
    low, high = np.array([-76.0, -112.0, -76.0]), np.array([76.0, 80.0, 88.0])
    axes = [np.arange(a, b + 1, _GRID_MM) for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    shape = points.shape[:3]
    points = points.reshape(-1, 3)
    inverse = np.linalg.inv(affine)
    indices = inverse[:3, :3] @ points.T + inverse[:3, 3:]

    def sampled(values: Array, sigma: float) -> Array:
        smooth = ndimage.gaussian_filter(values, sigma, truncate=3)
        return ndimage.map_coordinates(smooth, indices, order=1, prefilter=False)

    brain = (t1 > 0).astype(np.float32)
    inside = (sampled(brain, 2.0) > 0.5).reshape(shape)
    near = ndimage.binary_dilation(inside, iterations=3).ravel()
    coarse = np.flatnonzero(near & (np.indices(shape) % 2 == 0).all(axis=0).ravel())
    coarse_maps = np.stack([sampled(v, 6.0)[coarse] for v in (brain, white, grey, t1)], axis=1)
    tissue = np.stack([_band(sampled(v, 2.0), inside, _BAND_MM, _GRID_MM) for v in (white, grey, t1)], axis=1)
    depth = ndimage.distance_transform_edt(inside).ravel()
    every = _HASH_MM // _GRID_MM
    lattice = np.zeros(shape, bool)
    lattice[::every, ::every, ::every] = True
    places = np.flatnonzero(lattice.ravel() & inside.ravel())
    deepest = places[np.argsort(-depth[places], kind="stable")[:HASH_BITS]]
    where = points[inside.ravel()]
    return _Template(
        inside,
        points,
        tissue,
        points[coarse],
        coarse_maps,
        np.sort(deepest),
        where.mean(axis=0),
        float(where[:, 2].max()),
    )


def _bundled(name: str) -> tuple[Array, NDArray[np.float64]]:
    """A map of the template (0 to 1) and its affine."""
    spec = find_spec("nilearn")  # found, not imported: that takes a second
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "data"
    image = nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz")
    return np.asanyarray(image.dataobj).astype(np.float32) / 255, np.asarray(image.affine, float)


def twin_pairs(
    hashes: Sequence[str], groups: Sequence[Hashable], config: OverlapConfig | None = None
) -> list[tuple[int, int]]:
    """Pairs of images that may show the same scan: same group, hashes that differ in few bits.

    Args:
        hashes: of :func:`perceptual_hash`; empty ones have no twins.
        groups: one per hash; only images of one group (the modality) are compared.
        config: ``hash_distance``.

    Returns:
        (i, j) with i < j, sorted.
    """
    limit = (config or OverlapConfig()).hash_distance * HASH_BITS
    members: dict[Hashable, list[int]] = defaultdict(list)
    for index, (text, group) in enumerate(zip(hashes, groups, strict=True)):
        if text:
            members[group].append(index)
    pairs: list[tuple[int, int]] = []
    for indices in members.values():
        positions = np.array(indices)
        raw = np.frombuffer(bytes.fromhex("".join(hashes[i] for i in indices)), np.uint8).reshape(len(indices), -1)
        signs = np.unpackbits(raw, axis=1).astype(np.float32) * 2 - 1
        for first in range(0, len(positions), _BLOCK):
            # of bits +1 and -1 the product is (equal - different); exact, as single precision counts to 2^24
            differing = (HASH_BITS - signs[first : first + _BLOCK] @ signs[first:].T) / 2
            rows, columns = np.nonzero(differing <= limit)
            keep = columns > rows
            left, right = positions[first + rows[keep]], positions[first + columns[keep]]
            pairs += zip(left.tolist(), right.tolist(), strict=True)
    return sorted(pairs)


def same_scan(a: Volume, b: Volume, config: OverlapConfig | None = None) -> tuple[bool, float]:
    """Whether two images show the same scan: b is registered to a, and band-passed ranks in the brain are correlated.

    Returns:
        The verdict (correlation of at least ``scan_correlation``), and the correlation (-1 to 1).
    """
    config = config or OverlapConfig()
    with threadpool_limits(limits=1):
        one, two = _reduce(a.data, a.grid.affine, _FINE_MM), _reduce(b.data, b.grid.affine, _FINE_MM)
        if one is None or two is None:
            return False, 0.0
        template = _template()
        pose = _locate(one)
        start = _locate(two) @ np.linalg.inv(pose)
        inside = template.inside.ravel()
        places = template.points[inside] @ pose[:3, :3].T + pose[:3, 3]
        blurred = one.blurred(_FINE_MM)
        values = blurred.at(places, np.eye(4))
        move = _align(two.blurred(_FINE_MM), places, np.column_stack([values, values**2]), start)
        bands = [
            _band(scan.at(template.points, way @ pose), template.inside, _FINE_BAND_MM, _GRID_MM)[inside]
            for scan, way in ((one, np.eye(4)), (two, move))
        ]
        correlation = float(pearsonr(*bands).statistic)
    return correlation >= config.scan_correlation, correlation
