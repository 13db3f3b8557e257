"""The documented trees of the BraTS family, with their traps: tiny volumes, numbers that mean nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mvp_bench.datasets.reading.conversion import Conversion

from ..releases import SHAPE, SRI24, image, mask, save, table, truncate

OLD = {"t1": "_t1", "t1c": "_t1ce", "t2": "_t2", "flair": "_flair"}
"""Modality -> end of the name until 2021."""
NEW = {"t1": "-t1n", "t1c": "-t1c", "t2": "-t2w", "flair": "-t2f"}
"""From 2023 on."""
MIXED = {"t1": "-t1", "t1c": "-t1ce", "t2": "-t2", "flair": "-flair"}
"""BrainMVP's renamed copies of 2023."""
UPENN = {"t1": "_T1", "t1c": "_T1GD", "t2": "_T2", "flair": "_FLAIR"}
UCSF = {"t1": "_T1", "t1c": "_T1c", "t2": "_T2", "flair": "_FLAIR", "dwi": "_DWI", "adc": "_ADC"}
UCSF_BIAS = [f"_{name}_bias" for name in ("T1", "T1c", "T2", "FLAIR", "DWI", "SWI")]
UCSF_DTI = [f"_DTI_eddy_{name}" for name in ("FA", "MD", "L1", "L2", "L3")]
UCSF_UNUSED = [*UCSF_BIAS, *UCSF_DTI, "_SWI", "_ASL", "_brain_segmentation", "_brain_parenchyma_segmentation"]
NO_MASK = "no mask (validation or test set, or not annotated)"
SHIFTED = SRI24.copy()
SHIFTED[:3, 3] = (-120, -129, -68)
"""The origin in the header of the replaced MET image."""
AFRICA = np.diag([1.0, 1.0, 1.0, 1.0])
AFRICA[:3, 3] = (0, 239, 0)


def challenge(cohort: str, part: str = "TrainingData") -> str:
    """Top folder of a BraTS 2023 archive."""
    return f"ASNR-MICCAI-BraTS2023-{cohort}-Challenge-{part}"


def exam(
    folder: Path,
    case: str,
    names: dict[str, str] = NEW,
    values: Iterable[float] | None = (1, 2, 3),
    ending: str = ".nii.gz",
    affine: np.ndarray = SRI24,
) -> Path:
    """One case folder; ``values`` None: without a mask."""
    for suffix in names.values():
        image(folder / case / f"{case}{suffix}{ending}", affine)
    if values is not None:
        separator = next(iter(names.values()))[0]
        mask(folder / case / f"{case}{separator}seg{ending}", values, affine)
    return folder / case


def files(folder: str, case: str, names: dict[str, str] = NEW, ending: str = ".nii.gz") -> dict[str, str]:
    """What a converter should find of such a case, relative to the root."""
    return {modality: f"{folder}/{case}/{case}{suffix}{ending}" for modality, suffix in names.items()}


def images(conversion: Conversion, root: Path) -> dict[str, dict[str, str]]:
    """What a converter found: case -> modality -> path below the root."""
    return {
        name: {m: Path(path).relative_to(root.resolve()).as_posix() for m, path in case.images.items() if path}
        for name, case in conversion.cases.items()
    }


def people(conversion: Conversion) -> dict[str, tuple[str, str | None]]:
    """Case -> patient and session."""
    return {name: (case.patient, case.session) for name, case in conversion.cases.items()}


def labels(conversion: Conversion, root: Path) -> list[str]:
    """The masks, case by case, below the root."""
    return [Path(case.label).relative_to(root.resolve()).as_posix() for case in conversion.cases.values() if case.label]


def untouched(conversion: Conversion) -> bool:
    """Nothing is written anew, renamed or left out."""
    return not conversion.derived and not conversion.repairs and not conversion.excluded


def litter(root: Path) -> None:
    """What macOS and TCIA's downloaders leave among case folders."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (folder / ".DS_Store").write_bytes(b"Bud1")
        (folder / "LICENSE").touch()
        (folder / "LICENSE.txt").touch()
    for path in [*root.rglob("*.nii.gz"), *root.rglob("*.nii")]:
        if path.is_file():
            (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7")
            twin = root / "__MACOSX" / path.relative_to(root).parent / path.name
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_bytes(b"\0\5\26\7")


def brats2021_a(root: Path, *numbers: int) -> Path:
    """Kaggle: the big archive unpacked."""
    for number in numbers:
        exam(root / "BraTS2021_Training_Data", f"BraTS2021_{number:05d}", OLD, (1, 2, 4))
    return root


def brats2021_samples(root: Path, in_folder: int, flat: int) -> None:
    """The two sample archives beside it, one unpacked with its folder, one without."""
    top = root / "BraTS2021_Training_Data"
    shutil.copytree(top / f"BraTS2021_{in_folder:05d}", root / f"BraTS2021_{in_folder:05d}")
    for path in (top / f"BraTS2021_{flat:05d}").iterdir():
        shutil.copy(path, root)


def brats2021_b(root: Path, date: str = "_16July2021") -> Path:
    """Synapse, with or without the date."""
    exam(root / f"RSNA_ASNR_MICCAI_BraTS2021_TrainingData{date}", "BraTS2021_00002", OLD, (1, 2, 4))
    exam(root / "RSNA_ASNR_MICCAI_BraTS2021_ValidationData", "BraTS2021_00001", OLD, None)
    return root


def brats2021_c(root: Path) -> Path:
    """TCIA: below the source collection; the mapping table beside."""
    exam(root / "BraTS2021_TrainingSet" / "UPENN-GBM", "BraTS2021_00005", OLD, (1, 2, 4))
    exam(root / "BraTS2021_TrainingSet" / "new-not-previously-in-TCIA", "BraTS2021_00006", OLD, (1, 2))
    exam(root / "BraTS2021_ValidationSet" / "UCSF-PDGM", "BraTS2021_00011", OLD, None)
    table(root / "BraTS2021_MappingToTCIA.xlsx", "no image")
    return root


def brats2021_d(root: Path) -> Path:
    """As BraTS2023-GLI, two visits of one patient in each part; both mapping tables."""
    for visit in ("000", "001"):
        exam(root / challenge("GLI"), f"BraTS-GLI-00045-{visit}")
        exam(root / challenge("GLI", "ValidationData"), f"BraTS-GLI-00046-{visit}", values=None)
    table(root / challenge("GLI") / "BraTS2023_2017_GLI_Mapping.csv", "BraTS2023;BraTS2021")
    table(root / "BraTS21-17_Mapping.csv", "BraTS2021,BraTS2020")
    return root


def ssa(root: Path, version: str = "_V2") -> Path:
    """Synapse, with or without the version."""
    exam(root / challenge("SSA", f"TrainingData{version}"), "BraTS-SSA-00002-000")
    exam(root / challenge("SSA", "ValidationData"), "BraTS-SSA-00126-000", values=None)
    return root


def brats_africa(root: Path, ending: str = ".nii.gz") -> Path:
    """TCIA: other neoplasms among the gliomas, another affine, negative values."""
    top = root / "PKG - BraTS-Africa" / "BraTS-Africa"
    exam(top / "95_Glioma", "BraTS-SSA-00002-000", ending=ending, affine=AFRICA)
    exam(top / "51_OtherNeoplasms", "BraTS-SSA-00009-000", ending=ending, affine=AFRICA)
    data = np.random.default_rng(0).uniform(-290, 100, SHAPE).astype(np.float32)
    data[0] = 0
    save(top / "95_Glioma" / "BraTS-SSA-00002-000" / f"BraTS-SSA-00002-000-t1n{ending}", data, AFRICA)
    return root


def men(root: Path, level: str = "") -> Path:
    """Two visits of one patient and a validation case; ``level``: one more folder in the training archive."""
    top = root / challenge("MEN") / level
    for visit in ("000", "013"):
        exam(top, f"BraTS-MEN-00004-{visit}")
    exam(root / challenge("MEN", "ValidationData"), "BraTS-MEN-00000-000", values=None)
    table(root / "BraTS2023-MEN-clinical.xlsx", "no image")
    return root


def ucsf(top: Path) -> Path:
    """Version 5: a patient without and two with a follow-up, everything that ships with an exam, and the table."""
    for exam_id in ("0004", "0396", "0396_FU175d", "0429_FU003d"):
        folder, stem = top / f"UCSF-PDGM-{exam_id}_nifti", f"UCSF-PDGM-{exam_id}"
        for suffix in (*UCSF.values(), *UCSF_UNUSED):
            image(folder / f"{stem}{suffix}.nii.gz")
        save(folder / f"{stem}_DTI_eddy_noreg.nii.gz", np.ones((*SHAPE, 3), np.float32))
        mask(folder / f"{stem}_tumor_segmentation.nii.gz", (1, 2, 4))
        table(folder / f"{stem}_DTI_eddy.eddy_rotated_bvecs", "0 0 1")
        if "_FU" in exam_id:
            image(folder / f"{stem}_ASL_M0.nii.gz")
    table(
        top.parent / "UCSF-PDGM-metadata_v5.csv",
        "ID,Sex,Age at MRI,MGMT status,BraTS21 ID",
        "UCSF-PDGM-004,F,66,unknown,",
        "UCSF-PDGM-0429_FU003d,M,40,unknown,BraTS2021_00097",
    )
    return top.parent


def ucsf_exam(folder: Path, stem: str) -> None:
    """The six images of an exam under one name."""
    for suffix in UCSF.values():
        image(folder / f"{stem}{suffix}.nii.gz")


def met(root: Path) -> Path:
    """Both training folders and the validation cases."""
    exam(root / challenge("MET"), "BraTS-MET-00002-000")
    exam(root / challenge("MET"), "BraTS-MET-00003-000", values=(2, 3))
    exam(root / challenge("MET", "TrainingData_Additional"), "BraTS-MET-00086-000")
    exam(root / challenge("MET", "TrainingData_Additional"), "BraTS-MET-00087-000")
    exam(root / challenge("MET", "ValidationData"), "BraTS-MET-00013-000", values=None)
    return root


def met_faults(root: Path) -> None:
    """One truncated t2w, and one whose header has another origin."""
    truncate(root / challenge("MET") / "BraTS-MET-00002-000" / "BraTS-MET-00002-000-t2w.nii.gz", 0.59)
    image(root / challenge("MET") / "BraTS-MET-00003-000" / "BraTS-MET-00003-000-t2w.nii.gz", SHIFTED)


def met_fixed(root: Path) -> Path:
    """The official replacement, unpacked beside."""
    top = root / "MICCAI-BraTS2024-MET-Challenge-TrainingData_2-fixed-cases"
    image(top / "BraTS-MET-00002-000" / "BraTS-MET-00002-000-t2w.nii.gz", SHIFTED)
    return top


def met_apart(root: Path) -> None:
    """The three sets that are not among the 238."""
    image(root / "UCSF_BrainMetastases_v1.3" / "100101A" / "100101A_T1post.nii.gz")
    exam(root / "stanford_release_brainmask", "BraTS-MET-00900-000")
    exam(root / "NYUMets", "BraTS-MET-00901-000")


def ped(root: Path, nested: bool = False) -> Path:
    """Three cases, one without enhancing tumour, and one of the validation set."""
    top = root / challenge("PED") / (challenge("PED") if nested else "")
    exam(top, "BraTS-PED-00002-000")
    exam(top, "BraTS-PED-00003-000", values=(1, 2))
    exam(top, "BraTS-PED-00004-000", values=(1, 3))
    exam(root / challenge("PED", "ValidationData"), "BraTS-PED-00030-000", values=None)
    return root


def upenn(root: Path, prefix: str = "PKG - UPENN-GBM-NIfTI") -> Path:
    """Expert masks of two scans; one scan with an automated mask only, one follow-up, one baseline without any."""
    top = root / prefix / "UPENN-GBM" / "NIfTI-files"
    for scan in ("00001_11", "00002_11", "00002_21", "00003_11", "00004_11"):
        stem = f"UPENN-GBM-{scan}"
        for suffix in UPENN.values():
            image(top / "images_structural" / stem / f"{stem}{suffix}.nii.gz")
            image(top / "images_structural_unstripped" / stem / f"{stem}{suffix}_unstripped.nii.gz")
        image(top / "images_DTI" / stem / f"{stem}_DTI_FA.nii.gz")
        image(top / "images_DSC" / stem / f"{stem}_DSC_ap-rCBV.nii.gz")
    image(top / "images_structural" / "UPENN-GBM-00002_11" / "old" / "UPENN-GBM-00002_11_T1.nii.gz")
    for scan in ("00001_11", "00002_11"):
        mask(top / "automated_segm" / f"UPENN-GBM-{scan}_automated_approx_segm.nii.gz", (1, 2, 4))
    mask(top / "images_segm" / "UPENN-GBM-00002_11_segm.nii.gz", (1, 2, 4))
    mask(top / "images_segm" / "UPENN-GBM-00003_11_segm.nii.gz", (1, 2))
    for name in ("clinical_info_v2.1", "data_availability"):
        table(root / prefix / f"UPENN-GBM_{name}.csv", "ID", "UPENN-GBM-00001_11")
    return root


def brats2018(root: Path, top: str = "MICCAI_BraTS_2018_Data_Training", ending: str = ".nii.gz") -> Path:
    """Two high grades, a low one without label 4, and one of the validation set."""
    exam(root / top / "HGG", "Brats18_2013_2_1", OLD, (1, 2, 4), ending)
    exam(root / top / "HGG", "Brats18_CBICA_AAB_1", OLD, (1, 2, 4), ending)
    exam(root / top / "LGG", "Brats18_TCIA09_141_1", OLD, (1, 2), ending)
    exam(root / "MICCAI_BraTS_2018_Data_Validation", "Brats18_CBICA_AAM_1", OLD, None, ending)
    table(root / top / "survival_data.csv", "Brats18ID,Age,Survival", "Brats18_CBICA_AAB_1,60,289")
    return root


def brats2018_flat(root: Path, with_table: bool = True) -> Path:
    """All cases in one folder; BraTS 2020's table restores the grade of two of them."""
    for case in ("Brats18_2013_2_1", "Brats18_TCIA09_141_1", "Brats18_CBICA_ZZZ_1"):
        exam(root / "BraTS2018", case, OLD, (1, 2))
    if with_table:
        table(
            root / "BraTS2018" / "name_mapping.csv",
            "Grade,BraTS_2017_subject_ID,BraTS_2018_subject_ID,TCGA_TCIA_subject_ID,BraTS_2019_subject_ID,"
            "BraTS_2020_subject_ID",
            "HGG,Brats17_2013_2_1,Brats18_2013_2_1,NA,BraTS19_2013_2_1,BraTS20_Training_001",
            "LGG,Brats17_TCIA_141_1,Brats18_TCIA09_141_1,NA,BraTS19_TCIA09_141_1,BraTS20_Training_002",
            "HGG,NA,NA,NA,BraTS19_CBICA_AAA_1,BraTS20_Training_003",
        )
    return root
