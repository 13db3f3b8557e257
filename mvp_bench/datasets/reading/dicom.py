"""DICOM series: found by their headers, never by folder names, and read as volumes.

Only single-frame images are read (one file per slice). Positions and directions in DICOM are LPS millimetres;
everything that leaves this module is RAS.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from mvp_bench.datasets.geometry.volumes import Grid, Volume
from mvp_bench.datasets.reading.conversion import files_below
from mvp_bench.errors import InputError
from mvp_bench.identity import checksum_file, checksum_of

SLICE_TOLERANCE = 0.05
"""Slices count as evenly spaced if no distance between neighbours differs from the median one by more than this part of
it: scanners round positions to about 0.001 mm, a missing slice doubles the distance."""
DIRECTION_TOLERANCE = 1e-3
"""Slices are parallel if no component of their row and column cosines differs by more than this."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_HEADER = [
    "SeriesInstanceUID", "StudyInstanceUID", "PatientID", "Modality", "SeriesDescription", "SeriesDate",
    "AcquisitionDate", "StudyDate", "InstanceNumber", "Rows", "Columns", "PixelSpacing", "NumberOfFrames",
    "ImagePositionPatient", "ImageOrientationPatient",
]  # fmt: skip


@dataclass(frozen=True)
class Series:
    """One series, from its headers.

    Attributes:
        folder: the deepest folder that holds all files; what :func:`read_series` wants.
        files: image slices by position along their normal; other objects (structure sets) by name.
        modality: DICOM's: MR, RTSTRUCT ...
        date: of the series (else the acquisition, else the study), YYYY-MM-DD; empty if there is none.
        fault: why the series is no volume (``slices missing`` with the numbers ...); empty if it is one.
    """

    folder: Path
    files: tuple[Path, ...]
    uid: str
    study_uid: str
    patient_id: str
    modality: str
    description: str
    date: str
    fault: str = ""


def find_series(folder: Path) -> list[Series]:
    """All series below ``folder``, in the order of the paths of their first files.

    Reads headers only. Files that are not DICOM (``LICENSE``, tables) and indices (DICOMDIR) are passed over; a header
    that breaks off makes its series faulty.
    """
    headers: dict[str, list[tuple[Path, Dataset]]] = defaultdict(list)
    for path in files_below(folder):
        if not path.is_file():  # a pipe or a device: reading it may never end
            continue
        try:
            header = dcmread(path, stop_before_pixels=True, specific_tags=_HEADER)
        except (InvalidDicomError, EOFError):  # EOFError: an empty file
            continue
        if "SeriesInstanceUID" in header:
            headers[str(header.SeriesInstanceUID)].append((path, header))
    return [_series(uid, files) for uid, files in headers.items()]


def read_series(path: Path, series_uid: str | None = None) -> Volume:
    """Read the volume of one series; with ``functools.partial`` a reader for
    :class:`~mvp_bench.datasets.geometry.derive.Derived`.

    Values are rescaled (slope and intercept of each slice) to single precision.

    Args:
        path: :attr:`Series.folder`, or one file of the series.
        series_uid: :attr:`Series.uid`; None: the only series of the folder, or the file's.

    Returns:
        The volume in the axis order (column, row, slice) with its affine in RAS mm; ``checksum`` is over
        those of the slices in their order in space, so that names do not matter.

    Raises:
        InputError: if the series is not there, is no volume (see :attr:`Series.fault`), or a file is damaged.
    """
    folder = path if path.is_dir() else path.parent
    there = [s for s in find_series(folder) if series_uid in (s.uid, None) and (path == folder or path in s.files)]
    if len(there) != 1:
        which = f"series {series_uid}" if series_uid else "DICOM series"
        raise InputError(path, found=f"{len(there)} {which}", expected=f"one {which}", fix="Download it again.")
    (series,) = there
    where = f"{folder} (series {series.description or series.uid})"
    if series.fault:
        raise InputError(where, found=series.fault, expected="one evenly spaced volume", fix="Download it again.")
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileNames([str(file) for file in series.files])
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise InputError(
            next((file for file in series.files if not _readable(file)), where),
            found="a truncated or corrupt slice",
            expected="a DICOM file that can be read to its end",
            fix="Download it again.",
        ) from error
    data = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return Volume(
        data,
        Grid(data.shape, _LPS_TO_RAS @ affine),
        checksum_of([checksum_file(file) for file in series.files]),
        sum(file.stat().st_size for file in series.files),
    )


def _readable(file: Path) -> bool:
    try:
        sitk.ReadImage(str(file), imageIO="GDCMImageIO")
    except RuntimeError:
        return False
    return True


def _series(uid: str, files: Sequence[tuple[Path, Dataset]]) -> Series:
    paths, headers = [path for path, _ in files], [header for _, header in files]
    first, fault = headers[0], ""
    if "Rows" in first:  # an image; structure sets, plans and spectra have no rows
        order, fault = _stacked(headers)
        paths = [paths[index] for index in order]
    return Series(
        folder=Path(os.path.commonpath([path.parent for path in paths])),
        files=tuple(paths),
        uid=uid,
        study_uid=_text(first, "StudyInstanceUID"),
        patient_id=_text(first, "PatientID"),
        modality=_text(first, "Modality"),
        description=_text(first, "SeriesDescription"),
        date=_date(first),
        fault=fault,
    )


def _stacked(headers: Sequence[Dataset]) -> tuple[list[int], str]:
    """Order of the slices along their normal, and what keeps them from being a volume."""
    as_found = list(range(len(headers)))
    if any(int(header.get("NumberOfFrames") or 1) > 1 for header in headers):
        return as_found, "a multi-frame (enhanced) file, which is not supported"
    if len(headers) == 1:
        return as_found, "a single slice"
    if incomplete := [h for h in headers if not (h.get("ImagePositionPatient") and h.get("ImageOrientationPatient"))]:
        return as_found, f"{len(incomplete)} of {len(headers)} slices without position"
    positions = np.array([header.ImagePositionPatient for header in headers], dtype=float)
    cosines = np.array([header.ImageOrientationPatient for header in headers], dtype=float)
    normal = np.cross(cosines[0, :3], cosines[0, 3:])
    heights = positions @ normal
    order = [int(index) for index in np.argsort(heights, kind="stable")]
    sizes = {(header.get("Rows"), header.get("Columns"), str(header.get("PixelSpacing"))) for header in headers}
    if np.abs(cosines - cosines[0]).max() > DIRECTION_TOLERANCE:
        return order, "slices of several directions (a localiser?)"
    if len(sizes) > 1:
        return order, f"slices of {len(sizes)} sizes"
    return order, _uneven(positions[order], normal)


def _uneven(positions: NDArray[np.float64], normal: NDArray[np.float64]) -> str:
    """What is wrong with the distances of sorted slices, with the number; empty if nothing."""
    steps = np.diff(positions, axis=0)
    gaps = steps @ normal
    usual = float(np.median(gaps))
    if (repeated := int(np.count_nonzero(gaps < SLICE_TOLERANCE * gaps.max()))) or usual <= 0:
        return f"{repeated} slices at a place that another one has (several volumes, or copies)"
    worst = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[worst] - usual) > SLICE_TOLERANCE * usual:
        missing = round(gaps[worst] / usual) - 1
        guess = f": {missing} missing" if missing > 0 else ""
        return (
            f"slices {worst + 1} and {worst + 2} of {len(positions)} {gaps[worst]:.4g} mm apart instead of "
            f"{usual:.4g} mm{guess}"
        )
    shear = float(np.linalg.norm(steps - np.outer(gaps, normal), axis=1).max())
    if shear > SLICE_TOLERANCE * usual:
        return f"slices that are shifted sideways against each other by up to {shear:.4g} mm (tilted gantry)"
    return ""


def _text(header: Dataset, name: str) -> str:
    return str(header.get(name) or "").strip()


def _date(header: Dataset) -> str:
    text = next(filter(None, (_text(header, name) for name in ("SeriesDate", "AcquisitionDate", "StudyDate"))), "")
    return f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) >= 8 else ""
