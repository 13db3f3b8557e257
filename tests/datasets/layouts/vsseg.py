"""Vestibular-Schwannoma-SEG as downloaded (DICOM), as its official scripts convert it, and as BIDS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, RTPlanStorage

from .dicom import dicom_series, uid
from .rtstruct import circle, rtstruct

GRIDS = {
    "T1": (np.array([[-0.4, 0, 0, 2], [0, -0.4, 0, 3], [0, 0, 1.5, -6], [0, 0, 0, 1]]), (8, 9, 10)),
    "T2": (np.array([[-0.5, 0, 0, 3], [0, -0.5, 0, 2], [0, 0, 1.0, -4], [0, 0, 0, 1]]), (9, 9, 7)),
}
"""Grid -> affine and shape of small images."""
BIDS = {
    "t1_refT1": "sub-{0:03d}/anat/sub-{0:03d}_T1w",
    "t2_refT2": "sub-{0:03d}/anat/sub-{0:03d}_T2w",
    "t1_refT2": "derivatives/T1w_registered_to_T2w/sub-{0:03d}/anat/sub-{0:03d}_space-individual_T1w",
    "t2_refT1": "derivatives/T2w_registered_to_T1w/sub-{0:03d}/anat/sub-{0:03d}_space-individual_T2w",
    "seg_refT1": "derivatives/manual_segmentation_masks_of_T1w/sub-{0:03d}/anat/"
    "sub-{0:03d}_space-individual_desc-tumor_mask",
    "seg_refT2": "derivatives/manual_segmentation_masks_of_T2w/sub-{0:03d}/anat/"
    "sub-{0:03d}_space-individual_desc-tumor_mask",
}
OFFICIAL = {name: "vs_gk_{0}/vs_gk_" + name for name in BIDS}
"""What a file holds, in the official conversion's words -> path without ending."""
DESCRIPTIONS = {"T1": "t1_mpr_tra_gk_v4", "T2": "t2_ci3d_tra_1.5mm_v1"}
NAMINGS = {
    "descriptive": "Vestibular-Schwannoma-SEG/{patient}/10-12-1998-NA-MR HEAD-{n:05d}/{n}.000000-{lie}-{n:05d}",
    "classic": "Vestibular-Schwannoma-SEG/{patient}/{study}/{series}",
    "idc": "{patient}/{study}/{modality}_{series}",
    "official": "vs_gk_{number}_{grid}",
}
"""Naming of a download -> folder of a series. The descriptive names lie, since nobody should read them."""


def nifti(root: Path, cases: Mapping[int, str], names: Mapping[str, str] = OFFICIAL, ending: str = ".nii.gz") -> Path:
    """Write small images: number of the patient -> what is there, such as ``t1_refT1 t2_refT2 seg_refT1``."""
    for number, contents in cases.items():
        for content in contents.split():
            affine, shape = GRIDS[content[-2:]]
            rng = np.random.default_rng(list(f"{number}{content}".encode()))
            data = rng.uniform(1, 100, shape).astype(np.float32)
            if content.startswith("seg"):
                data = np.zeros(shape, np.uint8)
                data[3:5, 3:5, 3:5] = 1
            path = root / "nifti" / (names[content].format(number) + ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(Nifti1Image(data, affine), path)
    return root / "nifti"


def download(
    root: Path,
    number: int,
    images: Mapping[str, Nifti1Image],
    structures: Mapping[str, Mapping[str, Sequence[np.ndarray]]],
    naming: str = "descriptive",
) -> Path:
    """Write one patient's two MR series, two structure sets, plan and licence; returns the folder to point at.

    Args:
        images: T1 and T2.
        structures: T1 and T2 -> name -> contours drawn on that series.
    """
    patient = f"VS-SEG-{number:03d}"

    def folder(grid: str, modality: str, n: int) -> Path:
        lie = {"T1": "t2_tra", "T2": "t1_tra"}[grid]
        return root / "dicom" / NAMINGS[naming].format(
            patient=patient, number=number, grid=grid.lower(), modality=modality, n=n, lie=lie,
            study=uid(patient), series=uid(patient, grid, modality),
        )  # fmt: skip

    for n, (grid, image) in enumerate(images.items(), start=1):
        series = f"{patient} {grid}"
        axial = image.as_reoriented(ornt_transform(io_orientation(image.affine), axcodes2ornt("LPS")))
        dicom_series(
            folder(grid, "MR", 10 * n),
            np.rint(np.asarray(axial.dataobj)),
            series=series,
            patient=patient,
            description=DESCRIPTIONS[grid],
            origin=axial.affine[:3, 3] * (-1, -1, 1),
            spacing=[float(edge) for edge in axial.header.get_zooms()],
            name="IMG{0:04d}.dcm".format if naming == "official" else "1-{0:03d}.dcm".format,
        )
        name = "RTSS.dcm" if naming == "official" else "1-1.dcm"
        if grid in structures:
            path = folder(grid, "RTSTRUCT", 10 * n + 1) / name
            rtstruct(path, structures[grid], series=series, patient=patient)
        _plan(
            folder(grid, "RTPLAN", 10 * n + 2) / name.replace("RTSS", "RTPLAN").replace("1-1", "2-1"), series, patient
        )
        (folder(grid, "MR", 10 * n) / "LICENSE").write_text("CC BY 4.0")
    return root / "dicom"


def ball(centre: Sequence[float], radius: float, heights: Sequence[float]) -> list[np.ndarray]:
    """Contours of a ball (LPS mm) in slices at these heights."""
    return [
        circle((centre[0], centre[1], z), np.sqrt(radius**2 - (z - centre[2]) ** 2), points=200)
        for z in heights
        if abs(z - centre[2]) < radius
    ]


def _plan(path: Path, series: str, patient: str) -> None:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = RTPlanStorage, uid(series, "plan object")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    plan = FileDataset(path, {}, file_meta=meta, preamble=b"\0" * 128)
    plan.SOPClassUID, plan.SOPInstanceUID = RTPlanStorage, uid(series, "plan object")
    plan.SeriesInstanceUID, plan.PatientID, plan.Modality = uid(series, "plan"), patient, "RTPLAN"
    path.parent.mkdir(parents=True, exist_ok=True)
    plan.save_as(path, enforce_file_format=True)
