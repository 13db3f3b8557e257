"""Small RT structure sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage
from pydicom.valuerep import format_number_as_ds

from .dicom import uid


def rtstruct(
    path: Path,
    structures: Mapping[str, Sequence[np.ndarray]],
    *,
    series: str = "series",
    patient: str = "phantom",
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Write contours, (points, 3) in LPS mm each, drawn on the series called ``series`` in :func:`dicom_series`."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = RTStructureSetStorage
    meta.MediaStorageSOPInstanceUID = uid(series, "structures")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = RTStructureSetStorage, uid(series, "structures")
    file.SeriesInstanceUID, file.PatientID, file.Modality = uid(series, "rtss"), patient, "RTSTRUCT"
    file.SeriesDescription = "structures"
    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = uid(series)
    study.RTReferencedSeriesSequence = [referenced]
    frame.RTReferencedStudySequence = [study]
    file.ReferencedFrameOfReferenceSequence = [frame]
    names, drawn = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi, item = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        names.append(roi)
        item.ReferencedROINumber = number
        if len(contours):
            item.ContourSequence = [_contour(points, kind) for points in contours]
        drawn.append(item)
    file.StructureSetROISequence = names
    file.ROIContourSequence = drawn[::-1]  # the order of this sequence means nothing
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def circle(centre: Sequence[float], radius: float, points: int = 64) -> np.ndarray:
    """A contour in the axial plane of ``centre`` (LPS mm)."""
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return np.asarray(centre) + radius * np.stack([np.cos(angle), np.sin(angle), np.zeros(points)], 1)


def _contour(points: np.ndarray, kind: str) -> Dataset:
    contour = Dataset()
    contour.ContourGeometricType = kind
    contour.NumberOfContourPoints = len(points)
    contour.ContourData = [format_number_as_ds(float(value)) for value in np.asarray(points).ravel()]
    return contour
