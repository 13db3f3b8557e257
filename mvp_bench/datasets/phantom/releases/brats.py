"""BraTS 2018, 2021, 2023 and the two TCIA releases that follow their conventions, UPENN-GBM and UCSF-PDGM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mvp_bench.datasets.phantom.releases.base import LABEL, Record, ReleaseLayout, Stored, table
from mvp_bench.datasets.phantom.subject import Person


@dataclass(frozen=True)
class Brats2023:
    """``BraTS-XXX-NNNNN-000/BraTS-XXX-NNNNN-000-t1c.nii.gz``.

    Attributes:
        top: see ReleaseLayout.
        code: PED, MET, MEN, SSA.
        folders: training folders below ``top`` ("" is top itself); the second one, if any, takes every third patient.
    """

    top: str
    code: str
    folders: tuple[str, ...] = ("",)

    def patient(self, index: int, count: int, person: Person) -> str:
        """``BraTS-XXX-NNNNN``."""
        return f"BraTS-{self.code}-{index + 1:05d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """Hyphens and the names of 2023."""
        case = f"{self.patient(index, count, person)}-000"
        folder = self.folders[1] if len(self.folders) > 1 and index % 3 == 2 else self.folders[0]
        stem = f"{folder}/{case}/{case}".lstrip("/")
        names = {"t1": "t1n", "t1c": "t1c", "t2": "t2w", "flair": "t2f", LABEL: "seg"}
        return {modality: Stored(f"{stem}-{name}.nii.gz") for modality, name in names.items()}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """None."""
        return {}


_UNDERSCORE = {"t1": "t1", "t1c": "t1ce", "t2": "t2", "flair": "flair", LABEL: "seg"}


@dataclass(frozen=True)
class Brats2021:
    """``BraTS2021_Training_Data/BraTS2021_NNNNN/BraTS2021_NNNNN_t1ce.nii.gz`` (the Kaggle tree)."""

    top: str = "BraTS2021"

    def patient(self, index: int, count: int, person: Person) -> str:
        """``BraTS2021_NNNNN``."""
        return f"BraTS2021_{index:05d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """Underscores and ``t1ce``."""
        case = self.patient(index, count, person)
        stem = f"BraTS2021_Training_Data/{case}/{case}"
        return {modality: Stored(f"{stem}_{name}.nii.gz") for modality, name in _UNDERSCORE.items()}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """None."""
        return {}


@dataclass(frozen=True)
class Brats2018:
    """``HGG/Brats18_TCIA01_001_1/Brats18_TCIA01_001_1_t1ce.nii.gz``; the class is the folder."""

    top: str = "MICCAI_BraTS_2018_Data_Training"

    def patient(self, index: int, count: int, person: Person) -> str:
        """The whole case name."""
        return f"Brats18_TCIA{person.site + 1:02d}_{index + 1:03d}_1"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """The files, in the grade's folder."""
        case = self.patient(index, count, person)
        stem = f"{person.class_name}/{case}/{case}"
        return {modality: Stored(f"{stem}_{name}.nii.gz") for modality, name in _UNDERSCORE.items()}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """Ages of the high-grade patients; survival is not simulated."""
        rows = [(r["patient"], r["age"], "NA", "NA") for r in records if r["class"] == "HGG"]
        return {"survival_data.csv": table(["Brats18ID", "Age", "Survival", "ResectionStatus"], rows)}


@dataclass(frozen=True)
class UpennGbm:
    """Folder per scan for the images, one flat folder for the masks."""

    top: str = "PKG - UPENN-GBM-NIfTI"

    def patient(self, index: int, count: int, person: Person) -> str:
        """``UPENN-GBM-NNNNN``."""
        return f"UPENN-GBM-{index + 1:05d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """Baseline scans (``_11``)."""
        scan, base = f"{self.patient(index, count, person)}_11", "UPENN-GBM/NIfTI-files"
        names = {"t1": "T1", "t1c": "T1GD", "t2": "T2", "flair": "FLAIR"}
        files = {m: Stored(f"{base}/images_structural/{scan}/{scan}_{name}.nii.gz") for m, name in names.items()}
        return {**files, LABEL: Stored(f"{base}/images_segm/{scan}_segm.nii.gz")}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """Clinical table, with the columns that a phantom can fill."""
        rows = [(f"{r['patient']}_11", r["sex"], r["age"], "Not Available") for r in records]
        header = ["ID", "Gender", "Age_at_scan_years", "Survival_from_surgery_days_UPDATED"]
        return {"UPENN-GBM_clinical_info_v2.1.csv": table(header, rows)}


@dataclass(frozen=True)
class UcsfPdgm:
    """``UCSF-PDGM-NNNN_nifti/UCSF-PDGM-NNNN_T1c.nii.gz``; ADC in 1e-6 mm2/s."""

    top: str = "UCSF-PDGM-v5"

    def patient(self, index: int, count: int, person: Person) -> str:
        """``UCSF-PDGM-NNNN``."""
        return f"UCSF-PDGM-{index + 4:04d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """Upper-case names, ``T1c`` after contrast agent."""
        case = self.patient(index, count, person)
        names = {"t1": "T1", "t1c": "T1c", "t2": "T2", "flair": "FLAIR", "dwi": "DWI", "adc": "ADC"}
        names[LABEL] = "tumor_segmentation"
        return {m: Stored(f"{case}_nifti/{case}_{name}.nii.gz") for m, name in names.items()}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """Metadata, whose ids have three digits in the real table too."""
        header = ["ID", "Sex", "Age at MRI", "WHO CNS Grade", "Final pathologic diagnosis (WHO 2021)"]
        rows = [
            (f"UCSF-PDGM-{int(r['patient'][-4:]):03d}", r["sex"], round(r["age"]), "unknown", "unknown")
            for r in records
        ]
        return {"UCSF-PDGM-metadata_v5.csv": table(header, rows)}


def _challenge(code: str, suffix: str = "") -> str:
    return f"ASNR-MICCAI-BraTS2023-{code}-Challenge-TrainingData{suffix}"


BRATS_LAYOUTS: dict[int, ReleaseLayout] = {
    501: Brats2023(_challenge("PED"), "PED"),
    502: Brats2023("BraTS2023-MET", "MET", (_challenge("MET"), _challenge("MET", "_Additional"))),
    505: UpennGbm(),
    511: Brats2018(),
    521: Brats2021(),
    522: Brats2023("BraTS2023-SSA", "SSA", (_challenge("SSA", "_V2"),)),
    523: Brats2023("BraTS2023-MEN", "MEN", (_challenge("MEN") + "/BraTS-MEN-Train",)),
    524: UcsfPdgm(),
}
