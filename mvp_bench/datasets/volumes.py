"""NIfTI files: read to their last byte, compared by grid, written atomically.

Arrays here are in the file's own axis order; nothing in this room depends on the orientation.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from mvp_bench.errors import InputError
from mvp_bench.workspace import atomic_path

GRID_TOLERANCE = 0.05
"""Two grids are one if no corner of the volume lies further apart than this many voxels: far above the rounding of
single-precision headers (about 1e-4 mm at 200 mm), far below anything an overlay would show."""
INTEGER_TOLERANCE = 1e-3
"""Label values may differ from whole numbers by this much (files that went through floating point)."""
_GZIP = b"\x1f\x8b"
_UNREADABLE = (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError, WrapStructError)
"""What gzip and nibabel raise for damaged files."""


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

    ``squeezed``: the file has a fourth dimension of length 1, which is dropped here but which nnU-Net refuses.
    """

    data: NDArray
    grid: Grid
    sha256: str
    bytes: int
    squeezed: bool = False


def read_volume(path: Path) -> Volume:
    """Read a NIfTI file to its end, the check sum of a gzip stream included.

    Raises:
        InputError: if the file is missing, truncated, corrupt, not NIfTI, not three-dimensional, or not numeric.
    """
    raw = _read_bytes(path)
    digest = hashlib.sha256(raw).hexdigest()
    packed = raw[:2] == _GZIP
    if packed != path.name.lower().endswith(".gz"):
        raise InputError(
            path,
            found="gzip data" if packed else "data that are not gzip",
            expected="a file ending that says so (.nii.gz for gzip, .nii without)",
            fix="Rename the file, or download it again.",
        )
    try:
        content = gzip.decompress(raw) if packed else raw
        image = _from_bytes(content)
        data = np.asanyarray(image.dataobj)
    except _UNREADABLE as error:
        raise InputError(
            path,
            found=f"a truncated or corrupt file ({str(error) or type(error).__name__})",
            expected="a NIfTI file that can be read to its end",
            fix="Download or copy it again; to go on without this case name it in converter_options.exclude of a card "
            "of your own.",
        ) from error
    if data.dtype.kind not in "iuf":
        raise InputError(path, found=f"voxels of type {data.dtype}", expected="whole or real numbers")
    grid = _grid(path, image)
    return Volume(data.reshape(grid.shape), grid, digest, len(raw), squeezed=data.ndim > 3)


def read_grid(path: Path) -> Grid:
    """Shape and affine from the header alone.

    Raises:
        InputError: as :func:`read_volume`, for faults of the header.
    """
    try:
        return _grid(path, nib.load(path))
    except _UNREADABLE as error:
        raise InputError(path, found=f"no readable NIfTI header ({error})", expected="a NIfTI file") from error


def grid_difference(grid: Grid, other: Grid) -> str:
    """In words how ``grid`` differs from ``other``, with numbers; empty if they are one within GRID_TOLERANCE."""
    if grid.shape != other.shape:
        return f"{_times(grid.shape)} voxels instead of {_times(other.shape)}"
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    corners[:, :3] *= np.array(grid.shape) - 1
    distance = np.linalg.norm((corners @ grid.affine.T - corners @ other.affine.T)[:, :3], axis=1).max()
    if distance <= GRID_TOLERANCE * other.voxel_mm.min():
        return ""
    if np.allclose(grid.affine[:3, :3], other.affine[:3, :3], atol=1e-4):
        return (
            f"origin {_numbers(grid.affine[:3, 3])} instead of {_numbers(other.affine[:3, 3])} mm "
            f"(axes and shape agree: only the header's origin is off by {distance:.3g} mm)"
        )
    if not np.allclose(grid.voxel_mm, other.voxel_mm, rtol=1e-3):
        return f"voxels of {_numbers(grid.voxel_mm)} instead of {_numbers(other.voxel_mm)} mm"
    return f"another orientation or position (corners up to {distance:.3g} mm apart)"


def write_volume(path: Path, data: NDArray, grid: Grid) -> None:
    """Write a NIfTI file atomically; equal content gives equal bytes (no time stamp in the gzip header)."""
    image = nib.Nifti1Image(data, grid.affine)
    image.header.set_xyzt_units("mm")
    with atomic_path(path) as temporary:
        nib.save(image, temporary)


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


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(path, found=error.strerror or str(error), expected="a readable file") from error


def _from_bytes(content: bytes) -> nib.Nifti1Image:
    if content[:4] in (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c"):  # header size 540: NIfTI-2
        return nib.Nifti2Image.from_bytes(content)
    return nib.Nifti1Image.from_bytes(content)


def _grid(path: Path, image: nib.Nifti1Image) -> Grid:
    if len(image.shape) < 3 or any(length != 1 for length in image.shape[3:]):
        raise InputError(path, found=f"{len(image.shape)} dimensions {image.shape}", expected="a 3-D volume")
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(path, found="a header without usable orientation and spacing", expected="a valid affine")
    return Grid(tuple(int(n) for n in image.shape[:3]), affine)  # type: ignore[arg-type]


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _numbers(values: NDArray) -> str:
    return "(" + ", ".join(f"{float(v):.4g}" for v in values) + ")"
