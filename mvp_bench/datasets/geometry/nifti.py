"""NIfTI files as bytes: the one place where a header is believed, corrected or refused.

Whoever needs voxels, spacing, place or units of a file gets them from here (through
:mod:`~mvp_bench.datasets.geometry.volumes`), so that no two readers can take them from different fields. Where fields
of a header contradict each other, one is believed and the contradiction is told (``flaws``): such files are written
anew, since other programs believe the other field.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import xxhash
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from mvp_bench.datasets.geometry.packed import RULES, SizeRules, Stream, is_packed, opened
from mvp_bench.edges import reading, require_regular
from mvp_bench.errors import InputError

Affine = NDArray[np.float64]
_LENGTHS = {
    n.to_bytes(4, order): (n, kind)
    for n, kind in ((348, nib.Nifti1Header), (540, nib.Nifti2Header))
    for order in ("little", "big")
}
"""First bytes of a header, which say its length -> the length and the kind."""
PAIR_ENDINGS = (".hdr", ".img", ".hdr.gz", ".img.gz")
"""Endings of volumes that are kept in two files; the packed ones are not supported."""
_PIECE = 1 << 20
_UNITS = {1: ("metre", 1000.0), 3: ("micrometre", 0.001)}
"""Code of the lengths' unit -> name, factor to mm; others mean mm, or say nothing."""
_BROKEN = (ValueError, TypeError, KeyError, ImageFileError, HeaderDataError, WrapStructError)
"""What numpy and nibabel raise for damaged headers."""
_SAME_EDGE = 1e-3
"""Part by which two lengths of a voxel's edge may differ and still be one."""
_AGAIN = (
    "Download or copy it again; to go on without this case name it in converter_options.exclude of a card of your own."
)


@dataclass(frozen=True)
class NiftiHeader:
    """What a header says, corrected where it contradicts itself.

    Attributes:
        shape: lengths of all axes, each at least 1.
        affine: 4x4, voxel index to world mm.
        dtype: of the stored numbers, real or whole.
        offset: bytes before them.
        scaling: slope and intercept; None where there are none.
        flaws: contradictions, with what is believed.
        qform: the header's other orientation, if it has two, in mm; None where it has one, or the other is useless.
        codes: of qform and sform; 0 means that there is none.
        unit: name of the unit of lengths; empty where the header does not say.
    """

    shape: tuple[int, ...]
    affine: Affine
    dtype: np.dtype
    offset: int
    scaling: tuple[float, float] | None
    flaws: tuple[str, ...]
    qform: Affine | None
    codes: tuple[int, int]
    unit: str

    @property
    def voxels(self) -> int:
        """Number of stored numbers."""
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the whole file, unpacked."""
        return self.offset + self.voxels * self.dtype.itemsize


@dataclass(frozen=True)
class NiftiContent:
    """A file read to its end.

    Attributes:
        stored: the numbers in the file's axis order, before scaling; read only.
        checksum: XXH3 (128 bits, hex) of the file as it lies on the disk.
        bytes: its size.
    """

    header: NiftiHeader
    stored: NDArray
    checksum: str
    bytes: int

    def scaled(self, stored: NDArray) -> NDArray:
        """Stored numbers as the values they stand for."""
        return apply_read_scaling(stored, *map(np.float64, self.header.scaling or (1.0, 0.0)))


def read_nifti(path: Path, rules: SizeRules = RULES) -> NiftiContent:
    """Read a .nii or .nii.gz file to its end, the check sum of a gzip stream included; or a pair of .hdr and .img,
    given either file.

    No more memory is used than the file and what its header speaks of, and that is limited by the file's own size.

    Raises:
        InputError: if it is missing, no ordinary file, truncated, damaged, no NIfTI file, or speaks of more than it
            can hold. Analyze files are not supported, since they do not say which side is left.
    """
    if path.name.lower().endswith(PAIR_ENDINGS):
        return _read_pair(path)
    raw = _read_bytes(path)
    packed = is_packed(raw)
    if packed != path.name.lower().endswith(".gz"):
        raise InputError(
            path,
            found="gzip data" if packed else "data that are not gzip",
            expected="a file ending that says so (.nii.gz for gzip, .nii without)",
            fix="Rename the file, or download it again.",
        )
    with _damage(path):
        stream = opened(raw)
        block = _block(stream)
        header = _header(path, block)
    _require_believable(path, header, len(raw), packed, rules)
    with _damage(path):
        stream.read(header.offset - len(block))  # whatever other programs keep there
        content = stream.read(header.size - header.offset)
        stored = np.frombuffer(content, header.dtype).reshape(header.shape, order="F")
        held = header.size
        while piece := stream.read(_PIECE):  # the check sum stands at the very end
            held += len(piece)
            if held > rules.believed(len(raw), packed):
                raise ValueError(f"more than {held} bytes unpacked, {header.size} by its header")
    return NiftiContent(header, stored, xxhash.xxh3_128_hexdigest(raw), len(raw))


def read_nifti_header(path: Path, rules: SizeRules = RULES) -> NiftiHeader:
    """Read the header alone: the first bytes of the file, not its voxels.

    Raises:
        InputError: as :func:`read_nifti`, for faults of the header.
    """
    if path.name.lower().endswith(PAIR_ENDINGS):
        return _read_pair_header(*_pair_of(path))
    size = require_regular(path)
    with reading(path, "a NIfTI file", also=_BROKEN, found="no readable NIfTI header"):
        with path.open("rb") as file:
            raw = file.read(_PIECE)
        header = _header(path, _block(opened(raw)))
    _require_believable(path, header, size, is_packed(raw), rules)
    return header


def _pair_of(path: Path) -> tuple[Path, Path]:
    """The header's and the voxels' file of a pair, given either.

    Raises:
        InputError: if one of them is missing, or packed.
    """
    wanted = "a pair of two files, .hdr with the header and .img with the voxels"
    if path.suffix.lower() == ".gz":
        raise InputError(path, found="half of a packed pair", expected=wanted, fix="Unpack both files (gunzip).")
    upper = path.suffix.isupper()
    header, voxels = (path.with_suffix(ending.upper() if upper else ending) for ending in (".hdr", ".img"))
    for one, other in ((header, voxels), (voxels, header)):
        if not one.exists():
            raise InputError(other, found=f"no {one.name} beside it", expected=wanted)
    return header, voxels


def _read_pair_header(first: Path, second: Path) -> NiftiHeader:
    size = require_regular(second)
    require_regular(first)
    with reading(first, "a NIfTI header", also=_BROKEN, found="no readable NIfTI header"):
        with first.open("rb") as file:
            raw = file.read(_PIECE)
        header = _header(first, _block(opened(raw)), pair=True)
    _require_believable(second, header, size, False, RULES)
    return header


def _read_pair(path: Path) -> NiftiContent:
    first, second = _pair_of(path)
    header = _read_pair_header(first, second)
    raw = _read_bytes(second)
    with _damage(second):
        stored = np.frombuffer(raw[header.offset : header.size], header.dtype).reshape(header.shape, order="F")
    both = xxhash.xxh3_128_hexdigest(_read_bytes(first) + raw)
    return NiftiContent(header, stored, both, len(raw) + first.stat().st_size)


def _damage(path: Path) -> AbstractContextManager[None]:
    return reading(
        path, "a NIfTI file that can be read to its end", _AGAIN, also=_BROKEN, found="a truncated or corrupt file"
    )


def _read_bytes(path: Path) -> bytes:
    require_regular(path)
    with reading(path):
        return path.read_bytes()


def _block(stream: Stream) -> bytes:
    """The header's bytes.

    Raises:
        ValueError: if there is none.
    """
    start = stream.read(4)
    if start not in _LENGTHS:
        raise ValueError("no NIfTI header at its beginning")
    length = _LENGTHS[start][0]
    block = start + stream.read(length - 4)
    if len(block) < length:
        raise ValueError(f"{len(block)} bytes of a header that has {length}")
    return block


def _header(path: Path, block: bytes, pair: bool = False) -> NiftiHeader:
    """Read a header's fields, and decide where they contradict each other.

    Raises:
        InputError: for what nothing in the header can mend, naming the file.
        Exception: one of _BROKEN for what is no header at all.
    """
    header = _LENGTHS[block[:4]][1](block, check=False)
    _require_kind(path, header, pair)
    shape = tuple(int(n) for n in header["dim"][1 : 1 + int(header["dim"][0])])
    if not shape or min(shape) < 1:
        raise InputError(path, found=f"a header with the dimensions {shape}", expected="lengths of 1 or more")
    dtype = header.get_data_dtype()
    if dtype.kind not in "iuf":
        raise InputError(path, found=f"voxels of type {dtype}", expected="whole or real numbers")
    first = 0 if pair else len(block) + 4
    slope, inter = header.get_slope_inter()
    affine, qform, flaws = _place(path, header, shape)
    flaws += ["a pair of files (.hdr and .img) written as one"] if pair else []
    unit, factor = _UNITS.get(int(header["xyzt_units"]) & 7, ("", 1.0))
    if factor != 1:
        to_mm = np.diag([factor, factor, factor, 1.0])
        affine, qform = to_mm @ affine, None if qform is None else to_mm @ qform
        flaws.append(f"lengths brought from {unit} to mm, as the header states its unit")
    return NiftiHeader(
        shape,
        affine,
        dtype,
        max(header.get_data_offset(), first),
        None if slope is None else (slope, inter),
        tuple(flaws),
        qform,
        (int(header["qform_code"]), int(header["sform_code"])),
        unit or ("mm" if int(header["xyzt_units"]) & 7 == 2 else ""),
    )


def _require_kind(path: Path, header: nib.Nifti1Header, pair: bool) -> None:
    """Refuse pairs where one file is expected, the other way round, and headers without NIfTI's mark."""
    magic = bytes(header["magic"].item())[:2]
    if magic == (b"ni" if pair else b"n+"):
        return
    if magic == b"ni" or (pair and magic == b"n+"):
        raise InputError(
            path,
            found="the header of a pair (.hdr and .img)" if magic == b"ni" else "the header of a single file",
            expected="a single .nii or .nii.gz file" if magic == b"ni" else "a NIfTI pair",
            fix="Give it the ending that it belongs to.",
        )
    raise InputError(
        path,
        found="an Analyze header",
        expected="a NIfTI header",
        fix="Analyze files are not supported, since they do not say which side is left. Convert them to NIfTI with a "
        "program that knows how they were written.",
    )


def _place(path: Path, header: nib.Nifti1Header, shape: tuple[int, ...]) -> tuple[Affine, Affine | None, list[str]]:
    """The affine, in the header's own unit, the other orientation where there are two, and the contradictions.

    The sform is believed first, then the qform, then the edges of voxels alone.
    """
    flaws: list[str] = []
    stated = np.array(header["pixdim"][1:4], dtype=float)
    header["pixdim"][1:4] = np.abs(header["pixdim"][1:4])
    if header["pixdim"][0] not in (-1, 1):
        header["pixdim"][0] = 1  # as the format's description says
    sform = _usable(header.get_sform) if header["sform_code"] else None
    qform = _usable(header.get_qform) if header["qform_code"] else None
    if sform is not None:
        affine, name, other = sform, "sform", qform
    elif qform is not None:
        affine, name, other = qform, "qform", None
    elif not (header["sform_code"] or header["qform_code"]):
        base = _usable(header.get_base_affine)
        affine, name, other = np.zeros((4, 4)) if base is None else base, "", None
    else:
        affine, name, other = np.zeros((4, 4)), "", None
    if not affine.any():
        raise InputError(
            path,
            found=f"a header without usable orientation and spacing (voxels of {_edges(stated)})",
            expected="a valid affine",
        )
    if sform is None and header["sform_code"] and qform is not None:
        flaws.append("the header's sform cannot be used; its qform is")
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(stated, edges, rtol=_SAME_EDGE, atol=0):
        flaws.append(f"voxels of {_edges(edges)}, as the header's {name} says; its pixdim said {_edges(stated)}")
    return affine, other, flaws


def _usable(read: Callable[[], NDArray]) -> Affine | None:
    """An affine, or None if it is none."""
    try:
        affine = np.asarray(read(), dtype=float)
    except (HeaderDataError, ValueError):
        return None
    usable = np.isfinite(affine).all() and abs(np.linalg.det(affine[:3, :3])) > 0
    return affine if usable else None


def _require_believable(path: Path, header: NiftiHeader, size: int, packed: bool, rules: SizeRules) -> None:
    if header.size > rules.believed(size, packed):
        shape = " x ".join(map(str, header.shape))
        spoken = f"its header speaks of {shape} voxels, {header.size} bytes; the file has {size}"
        raise InputError(
            path,
            found=f"a truncated or corrupt file ({spoken}{' packed' if packed else ''})",
            expected="a NIfTI file that can be read to its end",
            fix=_AGAIN,
        )


def _edges(values: Affine) -> str:
    return " x ".join(f"{float(value):.4g}" for value in values)
