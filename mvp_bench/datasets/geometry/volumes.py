"""NIfTI files: read to their last byte, compared by grid, written atomically.

Arrays here are in the file's own axis order; nothing in this room depends on the orientation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.geometry.nifti import NiftiHeader, read_nifti, read_nifti_header
from mvp_bench.errors import InputError
from mvp_bench.io import atomic_path

INTEGER_TOLERANCE = 1e-3
"""Label values may differ from whole numbers by this much (files that went through floating point)."""
EDGE_MM = (0.01, 100.0)
"""Shortest and longest edge of a voxel that is believed."""


@dataclass(frozen=True)
class Grid:
    """Where the voxels lie: shape in voxels and the 4x4 affine from voxel index to world millimetres."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def voxel_mm(self) -> NDArray[np.float64]:
        """Edge lengths of a voxel along the three axes, in mm."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@dataclass(frozen=True)
class Volume:
    """A file's content, and what identifies it.

    Attributes:
        data: values in the file's own axis order; may be read only.
        squeezed: whether the file has a fourth dimension of length 1, which is dropped here but which nnU-Net refuses.
        flaws: contradictions of the header, with what was believed; other programs may believe the other side.
        doubts: what in the header makes the orientation uncertain, in words; empty if nothing does.
    """

    data: NDArray
    grid: Grid
    checksum: str
    bytes: int
    squeezed: bool = False
    flaws: tuple[str, ...] = ()
    doubts: str = ""


def read_volume(path: Path, volumes: Sequence[int] = ()) -> Volume:
    """Read a NIfTI file to its end, the check sum of a gzip stream included.

    Args:
        volumes: of a four-dimensional file, these volumes along the last axis: their mean is given.

    Raises:
        InputError: if the file is missing, no ordinary file, truncated, corrupt, not NIfTI, not three-dimensional, or
            not numeric; if its header speaks of more than the file can hold, or has no usable place and spacing.
    """
    content = read_nifti(path)
    header = content.header
    grid = _grid(path, header, volumes)
    if not volumes or len(header.shape) == 3:
        data = content.scaled(content.stored)
    elif len(volumes) == 1:
        data = content.scaled(content.stored[..., volumes[0]])
    else:
        data = np.zeros(grid.shape)
        for volume in volumes:  # one at a time: a diffusion series in double precision may not fit into memory
            data += content.scaled(content.stored[..., volume])
        data = (data / len(volumes)).astype(np.float32)
    flaws, doubts = _two_orientations(header, grid)
    return Volume(
        data.reshape(grid.shape, order="F"),
        grid,
        content.checksum,
        content.bytes,
        squeezed=data.ndim > 3,
        flaws=(*header.flaws, *flaws),
        doubts=doubts,
    )


def read_grid(path: Path, volumes: Sequence[int] = ()) -> Grid:
    """Shape and affine from the header alone: the first bytes of the file are read, not its voxels.

    Args:
        volumes: as for :func:`read_volume`.

    Raises:
        InputError: as :func:`read_volume`, for faults of the header.
    """
    return _grid(path, read_nifti_header(path), volumes)


def read_shape(path: Path) -> tuple[int, ...]:
    """Lengths of all axes, more than three of them included, from the header alone.

    Raises:
        InputError: if there is no readable header.
    """
    return read_nifti_header(path).shape


@dataclass(frozen=True)
class GridOffset:
    """How far apart two grids of equal shape are.

    Attributes:
        mm: largest distance between the places of one corner voxel.
        voxels: the same as a multiple of the smallest voxel edge of the second grid.
        origin_only: the axes agree, so that every voxel is off by the same vector.
    """

    mm: float
    voxels: float
    origin_only: bool


def grid_offset(grid: Grid, other: Grid, tolerance: float = CheckConfig.grid_tolerance) -> GridOffset | None:
    """Distance between two grids of equal shape; None if their shapes differ.

    Args:
        tolerance: part of a voxel by which the axes may move a corner and still count as equal.
    """
    if grid.shape != other.shape:
        return None
    corners = np.array(np.meshgrid(*((0.0, n - 1.0) for n in grid.shape))).reshape(3, -1)
    turned = (grid.affine - other.affine)[:3, :3] @ corners
    apart = turned + (grid.affine - other.affine)[:3, 3:]
    mm, turned_mm = (float(np.linalg.norm(vectors, axis=0).max()) for vectors in (apart, turned))
    edge = float(other.voxel_mm.min())
    return GridOffset(mm, mm / edge, turned_mm <= tolerance * edge)


def grid_difference(grid: Grid, other: Grid, tolerance: float = CheckConfig.grid_tolerance) -> str:
    """How ``grid`` differs, in words, from ``other``, with numbers; empty if they are one.

    Args:
        tolerance: two grids are one if no corner of the volume lies further apart than this many voxels. The default
            is far above the rounding of single-precision headers (about 1e-4 mm at 200 mm), and far below anything an
            overlay would show.
    """
    offset = grid_offset(grid, other, tolerance)
    if offset is None:
        return f"{_times(grid.shape)} voxels instead of {_times(other.shape)}"
    if offset.voxels <= tolerance:
        return ""
    if offset.origin_only:
        return (
            f"origin {_numbers(grid.affine[:3, 3])} instead of {_numbers(other.affine[:3, 3])} mm (axes and shape "
            f"agree: only the header's origin is off, by {offset.mm:.3g} mm or {offset.voxels:.3g} voxels)"
        )
    if not np.allclose(grid.voxel_mm, other.voxel_mm, rtol=1e-3):
        return f"voxels of {_numbers(grid.voxel_mm)} instead of {_numbers(other.voxel_mm)} mm"
    return f"another orientation or position (corners up to {offset.mm:.3g} mm or {offset.voxels:.3g} voxels apart)"


def write_volume(path: Path, data: NDArray, grid: Grid) -> None:
    """Write a NIfTI file atomically; equal content gives equal bytes (no time stamp in the gzip header)."""
    image = nib.Nifti1Image(data, grid.affine)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


def without_nan(data: NDArray) -> tuple[NDArray, int]:
    """The values with 0 in place of NaN, and how many there were."""
    if data.dtype.kind != "f":
        return data, 0
    nan = np.isnan(data)
    count = int(np.count_nonzero(nan))
    return (np.where(nan, np.zeros((), data.dtype), data) if count else data), count


def whole_numbers(path: Path, data: NDArray) -> tuple[NDArray[np.integer], bool]:
    """Label values as integers, and whether any had to be rounded.

    Raises:
        InputError: if a value is not within INTEGER_TOLERANCE of a whole number.
    """
    if data.dtype.kind in "iu":
        return data, False
    rounded = np.rint(data)
    off = np.abs(data - rounded)
    if not np.isfinite(off).all() or off.max(initial=0.0) > INTEGER_TOLERANCE:
        worst = data.ravel()[int(np.argmax(np.where(np.isfinite(off), off, np.inf)))]
        raise InputError(path, found=f"the label value {worst}", expected="whole numbers")
    # nnU-Net reads in single precision and truncates: 0.99999997 would become 0
    return rounded.astype(np.int32), bool((data.astype(np.float32) != rounded).any())


def _grid(path: Path, header: NiftiHeader, volumes: Sequence[int] = ()) -> Grid:
    shape = header.shape
    if volumes:
        if len(shape) not in (3, 4) or max(volumes) >= (*shape, 1)[3]:
            raise InputError(path, found=f"the shape {_times(shape)}", expected=f"{max(volumes) + 1} or more volumes")
        shape = shape[:3]
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise InputError(path, found=f"{len(shape)} dimensions {shape}", expected="a 3-D volume")
    grid = Grid((shape[0], shape[1], shape[2]), header.affine)
    least, most = EDGE_MM
    if grid.voxel_mm.min() < least or grid.voxel_mm.max() > most:
        unit = f"in {header.unit}, as the header states" if header.unit else "in mm, as the header states no unit"
        raise InputError(
            path,
            found=f"voxels of {_numbers(grid.voxel_mm)} mm ({unit})",
            expected=f"edges of {least:g} to {most:g} mm",
            fix="Correct the unit (xyzt_units) or the affine of the file.",
        )
    return grid


def _two_orientations(header: NiftiHeader, grid: Grid) -> tuple[list[str], str]:
    """Flaws and doubts: NIfTI has room for two orientations; here the sform is believed, elsewhere the qform."""
    if header.codes == (0, 0):
        return [], "no orientation in the header (qform and sform codes 0), so left and right are a guess"
    if header.qform is None:
        return [], ""
    difference = grid_difference(Grid(grid.shape, header.qform), grid, CheckConfig.drift_tolerance)
    if not difference:
        return [], ""
    flaws = [f"the header's qform says otherwise than its sform, which is used: {difference}"]
    if np.linalg.det(header.qform[:3, :3]) * np.linalg.det(grid.affine[:3, :3]) < 0:
        return flaws, "the header's qform is the mirror image of its sform, which is used"
    return flaws, ""


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _numbers(values: NDArray) -> str:
    return "(" + ", ".join(f"{float(v):.4g}" for v in values) + ")"
