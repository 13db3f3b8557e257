"""DICOM RT structure sets: contours drawn slice by slice become a mask on the grid of the series they were drawn on.

A structure (region of interest) is a list of closed polygons, each in one slice, with points in LPS millimetres
(DICOM PS3.3, C.8.8.6). Polygons of one plane exclude each other where they overlap: an inner one is a hole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from skimage.draw import polygon

from mvp_bench.datasets.geometry.volumes import Grid, Volume, read_grid
from mvp_bench.edges import require_regular
from mvp_bench.errors import InputError

SLICE_TOLERANCE = 0.5
"""Slices: a contour belongs to the nearest slice, at most this far away, and may leave its plane by as much."""
PLANE_TOLERANCE = 0.05
"""Slices: contours closer together than this lie in one plane, where overlaps are holes; contours of different planes
that fall on one slice are added."""
_UNREADABLE = (OSError, EOFError, InvalidDicomError, AttributeError, KeyError, ValueError, TypeError)
"""What pydicom raises for files that are no DICOM, break off, or lack an element of a structure set."""


@dataclass(frozen=True)
class Structure:
    """A region of interest; ``contours``: closed polygons, (points, 3) each, LPS mm."""

    name: str
    contours: tuple[NDArray[np.float64], ...]


@dataclass(frozen=True)
class StructureSet:
    """The structures that have closed contours, in the file's order, and the UIDs of the series they refer to."""

    structures: tuple[Structure, ...]
    series: tuple[str, ...]


def read_structure_set(path: Path) -> StructureSet:
    """All structures of an RTSTRUCT file.

    Raises:
        InputError: if the file is damaged or no structure set.
    """
    if path.exists():
        require_regular(path)
    try:
        return _structure_set(dcmread(path))
    except _UNREADABLE as error:
        raise InputError(
            path,
            found=f"no readable structure set ({str(error) or type(error).__name__})",
            expected="a DICOM file of modality RTSTRUCT",
            fix="Download it again.",
        ) from error


def choose_structure(path: Path, structures: Sequence[Structure], name: str = "") -> Structure:
    """The structure whose whole name fits the regular expression ``name`` (without regard to case), or the first one.

    Raises:
        InputError: if there is none.
    """
    fitting = [item for item in structures if not name or re.fullmatch(name, item.name, re.IGNORECASE)]
    if not fitting:
        names = ", ".join(item.name for item in structures) or "none with closed contours"
        raise InputError(
            path, found=f"the structures {names}", expected=f"one called {name}" if name else "at least one"
        )
    return fitting[0]


def draw_structure(path: Path, structure: Structure, grid: Grid) -> NDArray[np.uint8]:
    """1 in every voxel whose centre lies inside (or on) the contours, 0 elsewhere; in the axis order of ``grid``.

    Args:
        path: for messages.

    Raises:
        InputError: if a contour lies on no slice of the grid, or the structure encloses no voxel.
    """
    points = [_voxels(contour, grid) for contour in structure.contours]
    spread = np.array([np.ptp(contour, axis=0) for contour in points])
    axis = int(np.argmin(spread.max(axis=0)))  # across the slices
    heights = np.array([contour[:, axis].mean() for contour in points])
    _all_on_slices(path, structure, spread[:, axis], heights, grid.shape[axis])
    mask = np.zeros(grid.shape, np.uint8)
    slices = np.moveaxis(mask, axis, 0)
    order = np.argsort(heights, kind="stable")
    for plane in np.split(order, np.flatnonzero(np.diff(heights[order]) > PLANE_TOLERANCE) + 1):
        inside = np.zeros(slices.shape[1:], bool)
        for index in plane:
            rows, columns = np.delete(points[index], axis, axis=1).T
            inside[polygon(rows, columns, shape=inside.shape)] ^= True
        slices[int(np.clip(np.rint(heights[plane].mean()), 0, len(slices) - 1))][inside] = 1
    if not mask.any():
        raise InputError(
            path,
            found=f"contours of {structure.name} around no voxel of the image",
            expected="contours on the image that they refer to",
        )
    return mask


def read_structure(path: Path, *, reference: Path, name: str = "") -> Volume:
    """The mask of one structure; with ``functools.partial`` a reader for
    :class:`~mvp_bench.datasets.geometry.derive.Derived`.

    Args:
        path: RTSTRUCT file.
        reference: NIfTI file of the series that it refers to.
        name: see :func:`choose_structure`.

    Raises:
        InputError: as :func:`read_structure_set`, :func:`choose_structure` and :func:`draw_structure`.
    """
    structure = choose_structure(path, read_structure_set(path).structures, name)
    grid = read_grid(reference)
    content = path.read_bytes()
    return Volume(draw_structure(path, structure, grid), grid, xxhash.xxh3_128_hexdigest(content), len(content))


def _structure_set(header: Dataset) -> StructureSet:
    closed: dict[int, list[NDArray[np.float64]]] = {}
    for item in header.get("ROIContourSequence") or ():
        polygons = [
            np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            for contour in item.get("ContourSequence") or ()
            if contour.ContourGeometricType == "CLOSED_PLANAR"
        ]
        closed.setdefault(int(item.ReferencedROINumber), []).extend(polygons)
    structures = [
        Structure(str(item.get("ROIName") or "").strip(), tuple(contours))
        for item in header.StructureSetROISequence
        if (contours := closed.get(int(item.ROINumber)))
    ]
    series = [
        str(reference.SeriesInstanceUID)
        for frame in header.get("ReferencedFrameOfReferenceSequence") or ()
        for study in frame.get("RTReferencedStudySequence") or ()
        for reference in study.get("RTReferencedSeriesSequence") or ()
    ]
    return StructureSet(tuple(structures), tuple(series))


def _voxels(contour: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    """LPS mm -> voxel indices."""
    inverse = np.linalg.inv(grid.affine)
    return (contour * (-1, -1, 1)) @ inverse[:3, :3].T + inverse[:3, 3]


def _all_on_slices(
    path: Path, structure: Structure, spread: NDArray[np.float64], heights: NDArray[np.float64], count: int
) -> None:
    tilted = spread > 2 * SLICE_TOLERANCE
    beyond = (heights < -SLICE_TOLERANCE) | (heights > count - 1 + SLICE_TOLERANCE)
    if tilted.any():
        worst = int(np.argmax(spread))
        found = f"a contour of {structure.name} across {spread[worst]:.3g} slices"
    elif beyond.any():
        worst = int(np.argmax(np.maximum(-heights, heights - count + 1)))
        found = f"a contour of {structure.name} at slice {heights[worst]:.4g} of an image with slices 0 to {count - 1}"
    else:
        return
    raise InputError(path, found=found, expected="contours in the slices of the series that it refers to")
