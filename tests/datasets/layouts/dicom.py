"""Small DICOM series, one file per slice, as scanners write them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from pydicom.valuerep import format_number_as_ds

AXIAL = np.array([[1.0, 0, 0], [0, 1, 0]])
"""Row and column cosines (LPS)."""


def uid(*parts: object) -> str:
    """A UID that follows from its parts."""
    return generate_uid(entropy_srcs=[str(part) for part in parts])


def dicom_series(
    folder: Path,
    data: np.ndarray,
    *,
    series: str = "series",
    patient: str = "phantom",
    description: str = "t1",
    date: str = "20060418",
    cosines: np.ndarray = AXIAL,
    origin: Sequence[float] = (0, 0, 0),
    spacing: Sequence[float] = (1, 1, 1),
    slope: float = 1.0,
    intercept: float = 0.0,
    name: Callable[[int], str] = "1-{0:03d}.dcm".format,
    skip: Sequence[int] = (),
) -> list[Path]:
    """Write stored values ``data`` (column, row, slice) with ``spacing`` in mm along the same axes.

    ``name``: file name by slice number; ``skip``: slices that are not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(*cosines)
    paths = []
    for index in range(data.shape[2]):
        if index in skip:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = MRImageStorage
        meta.MediaStorageSOPInstanceUID = uid(series, index)
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset(folder / name(index), {}, file_meta=meta, preamble=b"\0" * 128)
        image.SOPClassUID, image.SOPInstanceUID = MRImageStorage, uid(series, index)
        image.SeriesInstanceUID, image.StudyInstanceUID = uid(series), uid(patient, date)
        image.PatientID, image.Modality, image.SeriesDescription = patient, "MR", description
        image.StudyDate = image.SeriesDate = date
        image.InstanceNumber = index + 1
        image.ImageOrientationPatient = [format_number_as_ds(float(value)) for value in cosines.ravel()]
        position = np.asarray(origin) + normal * spacing[2] * index
        image.ImagePositionPatient = [format_number_as_ds(float(value)) for value in position]
        image.PixelSpacing = [spacing[1], spacing[0]]
        image.SliceThickness = spacing[2]
        image.Columns, image.Rows = data.shape[:2]
        image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
        image.RescaleSlope, image.RescaleIntercept = slope, intercept
        image.PixelData = data[:, :, index].T.astype("<i2").tobytes()
        image.save_as(folder / name(index), enforce_file_format=True)
        paths.append(folder / name(index))
    return paths
