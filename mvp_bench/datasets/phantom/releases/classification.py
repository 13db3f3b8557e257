"""ADNI, ADHD-200 and ABIDE-I. Every id is made up and lies outside the ranges of the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from mvp_bench.datasets.phantom.releases.base import Record, ReleaseLayout, Stored, table
from mvp_bench.datasets.phantom.subject import Person

_DESCRIPTION = "MPR__GradWarp__B1_Correction__N3__Scaled"
_FIRST_IMAGE = 9_000_001


@dataclass(frozen=True)
class Adni:
    """NIfTI download of the image archive, with the collection's table beside ``ADNI/``."""

    top: str = "ADNI-collection"

    def patient(self, index: int, count: int, person: Person) -> str:
        """``SSS_S_NNNN`` with site numbers from 900 on, which no real site has."""
        return f"{900 + person.site:03d}_S_{9000 + index:04d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """``ADNI/<subject>/<description>/<date_time>/I<image>/ADNI_..._I<image>.nii``."""
        subject, image = self.patient(index, count, person), f"I{_FIRST_IMAGE + index}"
        day = _visit(index)
        stamp = day.strftime("%Y%m%d") + "101500000"
        name = f"ADNI_{subject}_MR_{_DESCRIPTION}_Br_{stamp}_S{10_000 + index}_{image}.nii"
        return {"t1": Stored(f"ADNI/{subject}/{_DESCRIPTION}/{day.isoformat()}_08_20_30.0/{image}/{name}")}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """The collection's table with its exact header."""
        header = [
            "Image Data ID", "Subject", "Group", "Sex", "Age", "Visit",
            "Modality", "Description", "Type", "Acq Date", "Format", "Downloaded",
        ]  # fmt: skip
        rows = []
        for r in records:
            group = "CN" if r["class"] == "CN" else ("MCI", "LMCI", "EMCI")[r["index"] // 2 % 3]
            day = _visit(r["index"])
            rows.append(
                (
                    f"I{_FIRST_IMAGE + r['index']}", r["patient"], group, r["sex"], round(r["age"]), "sc", "MRI",
                    _DESCRIPTION.replace("__", "; "), "Processed", f"{day.month}/{day.day}/{day.year}", "NiFTI",
                    "1/01/2020",
                )
            )  # fmt: skip
        return {"ADNI1_Complete_1Yr_1.5T_1_01_2020.csv": table(header, rows, quote_all=True)}


def _visit(index: int) -> date:
    return date(2006, 1, 9) + timedelta(days=11 * index % 1400)


_ADHD_SITES = ("NYU", "Peking_1", "OHSU", "KKI", "NeuroIMAGE")
_ADHD_HEADER = [
    "ScanDir ID", "Site", "Gender", "Age", "Handedness", "DX", "Secondary Dx ", "ADHD Measure", "ADHD Index",
    "Inattentive", "Hyper/Impulsive", "IQ Measure", "Verbal IQ", "Performance IQ", "Full2 IQ", "Full4 IQ", "Med Status",
    "QC_Rest_1", "QC_Rest_2", "QC_Rest_3", "QC_Rest_4", "QC_Anatomical_1", "QC_Anatomical_2",
]  # fmt: skip


@dataclass(frozen=True)
class Adhd200:
    """BIDS by site, with the sites' own phenotype tables."""

    top: str = "RawDataBIDS"

    def patient(self, index: int, count: int, person: Person) -> str:
        """Seven digits from 9900001 on."""
        return f"{9_900_001 + index:07d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """``<Site>/sub-NNNNNNN/ses-1/anat/sub-NNNNNNN_ses-1_run-1_T1w.nii.gz``."""
        subject = f"sub-{self.patient(index, count, person)}"
        return {"t1": Stored(f"{_ADHD_SITES[person.site]}/{subject}/ses-1/anat/{subject}_ses-1_run-1_T1w.nii.gz")}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """``<Site>/<Site>_phenotypic.csv``; DX 0 control, 1 combined, 2 hyperactive, 3 inattentive."""
        tables = {}
        for number, site in enumerate(_ADHD_SITES):
            rows = []
            for r in records:
                if r["site"] != number:
                    continue
                diagnosis = 0 if r["class"] == "NC" else (1, 3, 1, 2)[r["index"] // 2 % 4]
                row = [int(r["patient"]), number + 1, int(r["sex"] == "M"), r["age"], 1, diagnosis, ""]
                rows.append([*row, *[-999] * 10, "N/A", "N/A", "N/A", "N/A", 1, "N/A"])
            if rows:
                tables[f"{site}/{site}_phenotypic.csv"] = table(_ADHD_HEADER, rows)
        return tables


_ABIDE_SITES = (("NYU", "NYU"), ("UM_1", "UM_1"), ("CMU_a", "CMU"), ("Leuven_1", "LEUVEN_1"), ("UCLA_1", "UCLA_1"))


@dataclass(frozen=True)
class Abide:
    """INDI archives by site, with one phenotype table."""

    top: str = "RawData"

    def patient(self, index: int, count: int, person: Person) -> str:
        """Seven digits from 0990001 on."""
        return f"{990_001 + index:07d}"

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """``<Site>/NNNNNNN/session_1/anat_1/mprage.nii.gz``."""
        site = _ABIDE_SITES[person.site][0]
        return {"t1": Stored(f"{site}/{self.patient(index, count, person)}/session_1/anat_1/mprage.nii.gz")}

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """``Phenotypic_V1_0b.csv``; DX_GROUP 1 autism, 2 control; ids without leading zeros."""
        header = ["SITE_ID", "SUB_ID", "DX_GROUP", "DSM_IV_TR", "AGE_AT_SCAN", "SEX", "HANDEDNESS_CATEGORY"]
        rows = [
            (
                _ABIDE_SITES[r["site"]][1], int(r["patient"]), 1 if r["class"] == "ASD" else 2,
                int(r["class"] == "ASD"), r["age"], 1 if r["sex"] == "M" else 2, -9999,
            )
            for r in records
        ]  # fmt: skip
        return {"Phenotypic_V1_0b.csv": table(header, rows)}


CLASSIFICATION_LAYOUTS: dict[int, ReleaseLayout] = {512: Adni(), 513: Adhd200(), 514: Abide()}
