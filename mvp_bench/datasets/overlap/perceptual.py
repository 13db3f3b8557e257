"""The same scan found again by its image, however it was stored.

A scan is brought to RAS and low resolution, its grey values replaced by ranks (no intensity scale or gamma is left),
and laid over a template brain by a rigid registration. There it is band-passed and what the template's tissues explain
is removed, since that is what all brains share; the signs of what is left, at fixed places in the brain, are the hash.
Two hashes of one scan differ in few bits. Candidates are then verified at finer resolution by :func:`same_scan`, which
registers one scan to the other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from threadpoolctl import threadpool_limits

from mvp_bench.datasets.overlap.placement import (
    GRID_MM,
    Array,
    align,
    locate,
    orthonormal,
    reduce_scan,
    template,
    unexplained,
)
from mvp_bench.datasets.volumes import Volume
from mvp_bench.settings import OverlapConfig

HASH_BITS = 2048
"""Length of a hash; its text has a quarter as many characters."""
_BAND_MM = (3.0, 10.0)
"""Standard deviations of the Gaussians whose difference is the hash's band-pass."""
_FINE_MM = 3.0
"""Voxel edge at which two scans are compared."""
_FINE_BAND_MM = (2.0, 7.0)
"""Band-pass of that comparison."""
_BLOCK = 1024
"""Hashes compared with all others at a time: bounds the memory."""


def perceptual_hash(data: NDArray, affine: NDArray) -> str:
    """Hash of what a brain scan shows; nearly the same for every way of storing the scan.

    Args:
        data: (i, j, k) finite grey values in any axis order; a background, if masked out, holds one value.
        affine: 4x4, voxel index to RAS mm.

    Returns:
        Hexadecimal text of HASH_BITS / 4 characters; empty if the image shows nothing (one value everywhere).
    """
    with threadpool_limits(limits=1):  # the bits of a matrix product may depend on the number of threads
        scan = reduce_scan(data, affine, GRID_MM)
        if scan is None:
            return ""
        brain = template()
        basis, bits = _shared()
        band = _band(scan.at(brain.brain_points, locate(scan)), _BAND_MM)
        return np.packbits(unexplained(band, basis)[bits] > 0).tobytes().hex()


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
        index = np.array(indices)
        raw = np.frombuffer(bytes.fromhex("".join(hashes[i] for i in indices)), np.uint8).reshape(len(indices), -1)
        signs = np.unpackbits(raw, axis=1).astype(np.float32) * 2 - 1
        for first in range(0, len(index), _BLOCK):
            # of bits +1 and -1 the product is (equal - different); exact, as single precision counts to 2^24
            differing = (HASH_BITS - signs[first : first + _BLOCK] @ signs[first:].T) / 2
            rows, columns = np.nonzero(differing <= limit)
            keep = columns > rows
            pairs += zip(index[first + rows[keep]].tolist(), index[first + columns[keep]].tolist(), strict=True)
    return sorted(pairs)


def same_scan(a: Volume, b: Volume, config: OverlapConfig | None = None) -> tuple[bool, float]:
    """Whether two images show the same scan: b is registered to a, and band-passed ranks in the brain are correlated.

    Args:
        a, b: images of one modality.
        config: ``scan_correlation``.

    Returns:
        The verdict (correlation of at least ``scan_correlation``), and the correlation (-1 to 1; 0 if one of the
        images shows nothing).
    """
    limit = (config or OverlapConfig()).scan_correlation
    with threadpool_limits(limits=1):
        one, two = (reduce_scan(volume.data, volume.grid.affine, _FINE_MM) for volume in (a, b))
        if one is None or two is None:
            return False, 0.0
        pose = locate(one)
        places = template().brain_points @ pose[:3, :3].T + pose[:3, 3]
        values = one.blurred(_FINE_MM).at(places, np.eye(4))
        maps = np.column_stack([values, values**2])
        move, _ = align(two.blurred(_FINE_MM), places, maps, locate(two) @ np.linalg.inv(pose))
        bands = [_band(scan.at(places, way), _FINE_BAND_MM) for scan, way in ((one, np.eye(4)), (two, move))]
        correlation = float(np.corrcoef(bands)[0, 1])
    return correlation >= limit, correlation


@lru_cache(maxsize=1)
def _shared() -> tuple[Array, NDArray[np.int64]]:
    """Orthonormal maps (b, k) of what all brains share in the hash's band, and the HASH_BITS places of the bits.

    The places are every other point of the template's grid along each axis, those deepest in the brain.
    """
    brain = template()
    basis = orthonormal(np.stack([_band(tissue[brain.inside], _BAND_MM) for tissue in brain.tissue], axis=1))
    chosen = np.zeros(brain.inside.shape, bool)
    chosen[::2, ::2, ::2] = True
    depth = np.where(chosen, ndimage.distance_transform_edt(brain.inside), 0)[brain.inside]
    return basis, np.sort(np.argsort(-depth, kind="stable")[:HASH_BITS])


def _band(values: Array, band_mm: tuple[float, float]) -> Array:
    """(b,) ranks of the values (b,) in the template's brain, less their surroundings: a difference of Gaussians that
    do not look outside the brain."""
    inside = template().inside
    order = np.argsort(values, kind="stable")
    ranks = np.empty(order.size, np.float32)
    ranks[order] = np.linspace(-0.5, 0.5, order.size, dtype=np.float32)
    volume, weight = np.zeros(inside.shape, np.float32), inside.astype(np.float32)
    volume[inside] = ranks

    def smooth(sigma_mm: float) -> Array:
        total, share = (
            ndimage.gaussian_filter(part, sigma_mm / GRID_MM, mode="constant", truncate=3)[inside]
            for part in (volume, weight)
        )
        return total / share

    return smooth(band_mm[0]) - smooth(band_mm[1])
