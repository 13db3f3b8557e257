"""NIfTI files: read to their last byte, compared by grid, written atomically.

Arrays here are in the file's own axis order; nothing in this room depends on the orientation.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import xxhash
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from mvp_bench.config.groups import CheckConfig
from mvp_bench.errors import InputError
from mvp_bench.io import atomic_path

INTEGER_TOLERANCE = 1e-3
"""Label values may differ from whole numbers by this much (files that went through floating point)."""
_GZIP = b"\x1f\x8b"
_NIFTI2 = (b"\x1c\x02\x00\x00", b"\x00\x00\x02\x1c")
"""First bytes of a NIfTI-2 file: its header's size, 540, in either byte order."""
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

    ``checksum``: XXH3 (128 bits, hex) of the file.
    ``squeezed``: the file has a fourth dimension of length 1, which is dropped here but which nnU-Net refuses.
    ``doubts``: what in the header makes the orientation uncertain, in words; empty if nothing does.
    """

    data: NDArray
    grid: Grid
    checksum: str
    bytes: int
    squeezed: bool = False
    doubts: str = ""


def read_volume(path: Path, volumes: Sequence[int] = ()) -> Volume:
    """Read a NIfTI file to its end, the check sum of a gzip stream included.

    Args:
        volumes: of a four-dimensional file, these volumes along the last axis: their mean is given.

    Raises:
        InputError: if the file is missing, truncated, corrupt, not NIfTI, not three-dimensional, or not numeric.
    """
    raw = _read_bytes(path)
    digest = xxhash.xxh3_128_hexdigest(raw)
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
        grid = _grid(path, image.shape, image.affine, volumes)
        data = _voxels(image, volumes)
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
    doubts = _orientation_doubts(image.header, grid)
    return Volume(data.reshape(grid.shape), grid, digest, len(raw), squeezed=data.ndim > 3, doubts=doubts)


def read_grid(path: Path, volumes: Sequence[int] = ()) -> Grid:
    """Shape and affine from the header alone: the first bytes of the file are read, not its voxels.

    Args:
        volumes: as for :func:`read_volume`.

    Raises:
        InputError: as :func:`read_volume`, for faults of the header.
    """
    shape, affine = _read_header(path)
    return _grid(path, shape, affine, volumes)


def read_shape(path: Path) -> tuple[int, ...]:
    """Lengths of all axes, more than three of them included, from the header alone.

    Raises:
        InputError: if there is no readable header.
    """
    return _read_header(path)[0]


def _read_header(path: Path) -> tuple[tuple[int, ...], NDArray]:
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == _GZIP
        with gzip.open(path) if packed else path.open("rb") as file:
            head = file.read(nib.Nifti2Header.sizeof_hdr)
        kind = nib.Nifti2Header if head[:4] in _NIFTI2 else nib.Nifti1Header
        header = kind(head[: kind.sizeof_hdr])
        return tuple(int(n) for n in header.get_data_shape()), header.get_best_affine()
    except _UNREADABLE as error:
        raise InputError(path, found=f"no readable NIfTI header ({error})", expected="a NIfTI file") from error


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
    """In words how ``grid`` differs from ``other``, with numbers; empty if they are one.

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
    if content[:4] in _NIFTI2:
        return nib.Nifti2Image.from_bytes(content)
    return nib.Nifti1Image.from_bytes(content)


def _voxels(image: nib.Nifti1Image, volumes: Sequence[int]) -> NDArray:
    if not volumes or len(image.shape) == 3:
        return np.asanyarray(image.dataobj)
    if len(volumes) == 1:
        return np.asanyarray(image.dataobj[..., volumes[0]])
    total = np.zeros(image.shape[:3])
    for volume in volumes:  # one at a time: a whole diffusion series in double precision may not fit into memory
        total += image.dataobj[..., volume]
    return (total / len(volumes)).astype(np.float32)


def _grid(path: Path, shape: tuple[int, ...], affine: NDArray, volumes: Sequence[int] = ()) -> Grid:
    if volumes:
        if len(shape) not in (3, 4) or max(volumes) >= (*shape, 1)[3]:
            raise InputError(path, found=f"the shape {_times(shape)}", expected=f"{max(volumes) + 1} or more volumes")
        shape = shape[:3]
    if len(shape) < 3 or any(length != 1 for length in shape[3:]):
        raise InputError(path, found=f"{len(shape)} dimensions {shape}", expected="a 3-D volume")
    affine = np.asarray(affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-9:
        raise InputError(path, found="a header without usable orientation and spacing", expected="a valid affine")
    return Grid(tuple(int(n) for n in shape[:3]), affine)  # type: ignore[arg-type]


def _orientation_doubts(header: nib.Nifti1Header, grid: Grid) -> str:
    """NIfTI has room for two orientations; nibabel takes the sform, others the qform."""
    if not header["sform_code"] and not header["qform_code"]:
        return "no orientation in the header (qform and sform codes 0), so left and right are a guess"
    if not header["sform_code"] or not header["qform_code"]:
        return ""
    try:
        qform = header.get_qform()
    except (HeaderDataError, ValueError) as error:
        return f"the header's qform cannot be used ({error}); its sform is"
    difference = grid_difference(Grid(grid.shape, qform), grid, CheckConfig.drift_tolerance)
    if not difference:
        return ""
    if np.linalg.det(qform[:3, :3]) * np.linalg.det(grid.affine[:3, :3]) < 0:
        return "the header's qform is the mirror image of its sform, which is used"
    return f"the header's qform says otherwise than its sform, which is used: {difference}"


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _numbers(values: NDArray) -> str:
    return "(" + ", ".join(f"{float(v):.4g}" for v in values) + ")"
