"""ADNI as the image archive hands it out, with its traps. Every subject, image and date is made up."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..releases import SHAPE, image, table
from .dicom import dicom_series

HEADER = (
    "Image Data ID", "Subject", "Group", "Sex", "Age", "Visit", "Modality", "Description", "Type", "Acq Date",
    "Format", "Downloaded",
)  # fmt: skip
SCALED = "MPR__GradWarp__B1_Correction__N3__Scaled"


@dataclass(frozen=True)
class Scan:
    """One image of the archive; ``day`` as in folder names, ``last`` the last folder, if not I<image>."""

    image: int
    subject: str
    day: str = "2006-04-18"
    description: str = SCALED
    last: str = ""
    ending: str = ".nii"

    def folder(self, root: Path) -> Path:
        last = self.last or f"I{self.image}"
        return root / "ADNI" / self.subject / self.description / f"{self.day}_08_20_30.0" / last

    def name(self, *, part: str = "") -> str:
        stamp = "20081001114556321"
        return f"ADNI_{self.subject}_MR_{self.description}_Br_{stamp}_{part}S13408_I{self.image}"

    def row(self, group: str, visit: str = "sc", *, bare: bool = False, **changes: str) -> str:
        """Line of the collection's table; ``bare``: image id without the leading I."""
        year, month, day = self.day.split("-")
        values = {
            "Image Data ID": f"{'' if bare else 'I'}{self.image}",
            "Subject": self.subject,
            "Group": group,
            "Sex": "F",
            "Age": "71",
            "Visit": visit,
            "Modality": "MRI",
            "Description": self.description.replace("__", "; ").replace("_", " "),
            "Type": "Processed",
            "Acq Date": f"{int(month)}/{int(day)}/{year}",
            "Format": "NiFTI",
            "Downloaded": "1/01/2020",
            **changes,
        }
        return ",".join(f'"{values[name]}"' for name in HEADER)


def collection(path: Path, rows: Iterable[str]) -> Path:
    return table(path, ",".join(f'"{name}"' for name in HEADER), *rows)


def nifti(root: Path, scan: Scan) -> Path:
    """Tree A."""
    return image(scan.folder(root) / f"{scan.name()}{scan.ending}")


def dicom(root: Path, scan: Scan, *, skip: tuple[int, ...] = ()) -> np.ndarray:
    """Tree B; gives the voxels (column, row, slice)."""
    data = np.random.default_rng(scan.image).integers(0, 1000, SHAPE)
    dicom_series(
        scan.folder(root),
        data,
        series=str(scan.image),
        patient=scan.subject,
        description=scan.description,
        date=scan.day.replace("-", ""),
        spacing=(1, 1, 1.2),
        name=lambda index: f"{scan.name(part=f'{index + 1}_')}.dcm",
        skip=skip,
    )
    return data


def sidecar(root: Path, scan: Scan, group: str, visit: str) -> Path:
    """Tree C: beside ``ADNI/``. A processed image names the one that it was made from, too."""
    return table(
        root / f"ADNI_{scan.subject}_{scan.description}_S13408_I{scan.image}.xml",
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<idaxs xmlns="http://ida.example/xml"><project><projectIdentifier>ADNI</projectIdentifier><subject>',
        f"<subjectIdentifier>{scan.subject}</subjectIdentifier><researchGroup>{group}</researchGroup>",
        f"<visit><visitIdentifier>{visit}</visitIdentifier></visit>",
        "<study><subjectAge>71.2</subjectAge><series><seriesIdentifier>13408</seriesIdentifier><seriesLevelMeta>",
        f"<relatedImage><imageUID>{scan.image + 500}</imageUID></relatedImage>",
        f"<derivedProduct><imageUID>{scan.image}</imageUID></derivedProduct>",
        "</seriesLevelMeta></series></study></subject></project></idaxs>",
    )


def release(root: Path) -> Path:
    """Tree A with every trap; the folder to point at."""
    processed = "MPR__GradWarp__B1_Correction__N3__Scaled_2"
    repeat = "MPR-R__GradWarp__B1_Correction__N3__Scaled"
    scaled, scaled_2 = Scan(902, "901_S_9001"), Scan(901, "901_S_9001", description=processed)
    repeated, later = Scan(903, "901_S_9001", description=repeat), Scan(904, "901_S_9001", "2007-04-19")
    old_folder = Scan(911, "901_S_9002", "2006-05-02", last="S13408")
    smc, unlisted, torn = Scan(921, "902_S_9003"), Scan(941, "902_S_9005"), Scan(951, "902_S_9006")
    foreign, redated = Scan(961, "902_S_9007"), Scan(962, "902_S_9008")
    raw = Scan(973, "903_S_90081", description="MP-RAGE", ending=".nii.gz")
    t2, brain = Scan(971, "903_S_90081", description="Axial_T2_Star"), Scan(972, "903_S_90081", description="MPR_Mask")
    images = (scaled, scaled_2, repeated, later, old_folder, smc, unlisted, torn, foreign, redated, raw, t2, brain)
    for scan in images:
        nifti(root, scan)
    for litter in (root / "__MACOSX" / scaled.name(), scaled.folder(root) / f"._{scaled.name()}.nii"):
        table(litter, "litter")
    image(root / "ADNI" / "901_S_9001" / "notes.nii")
    collection(
        root / "ADNI1_Complete_1Yr_1.5T_1_01_2020.csv",
        [
            scaled.row("CN"),
            scaled_2.row("CN"),
            repeated.row("CN"),
            later.row("CN", "m12"),
            old_folder.row("LMCI", bare=True),
            smc.row("SMC"),
            torn.row("CN"),
            torn.row("MCI"),
            foreign.row("MCI", Subject="902_S_9999"),
            redated.row("MCI", **{"Acq Date": "5/18/2006"}),
            raw.row("MCI"),
            Scan(981, "904_S_9101").row("CN"),
            Scan(982, "904_S_9102").row("AD"),
        ],
    )
    collection(root / "tables" / "ADNI2_1_01_2020.csv", [scaled.row("CN"), Scan(991, "904_S_9103").row("EMCI", "v03")])
    table(root / "tables" / "VISITS.csv", "Phase,VISCODE", "ADNI1,sc")
    return root


def merge_table(path: Path, *rows: str) -> Path:
    """ADNIMERGE.csv: ``rows`` are PTID,VISCODE,EXAMDATE,DX."""
    lines = []
    for number, row in enumerate(rows):
        subject, visit, day, diagnosis = row.split(",")
        lines.append(f'"{number}","{subject}","{visit}","{day}","CN","{diagnosis}"')
    return table(path, '"RID","PTID","VISCODE","EXAMDATE","DX_bl","DX"', *lines)


def cohort(root: Path, count: int) -> list[Scan]:
    """Further subjects without any trap, by turns control and MCI, with a table of their own; the first in DICOM."""
    scans = [Scan(9100 + number, f"905_S_{9200 + number}") for number in range(count)]
    for number, scan in enumerate(scans):
        (nifti if number else dicom)(root, scan)
    collection(root / "ADNI3_1_01_2020.csv", [scan.row(("CN", "MCI")[n % 2]) for n, scan in enumerate(scans)])
    return scans
