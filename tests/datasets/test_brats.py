"""The BraTS converter on every layout of the family."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.datasets.derive import write_derived
from mvp_bench.errors import InputError

from .releases import brats_case, brats_release, convert, image, mask, reasons, shipped, with_options

OLD = "_t1 _t1ce _t2 _flair"


def test_2023_release(tmp_path: Path) -> None:
    conversion = convert(shipped(501), brats_release(tmp_path, cases=3))
    assert list(conversion.cases) == [f"BraTS-PED-0000{i}-000" for i in range(3)]
    case = conversion.cases["BraTS-PED-00001-000"]
    assert case.patient == "BraTS-PED-00001" and case.session == "000"
    endings = {modality: Path(path).name[-len("t1n.nii.gz") :] for modality, path in case.images.items() if path}
    assert endings == {"t1": "t1n.nii.gz", "t1c": "t1c.nii.gz", "t2": "t2w.nii.gz", "flair": "t2f.nii.gz"}
    assert case.label and case.label.endswith("-seg.nii.gz")
    assert not conversion.derived and not conversion.excluded and not conversion.repairs


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_nested_top_folders_litter_and_both_endings(tmp_path: Path, ending: str) -> None:
    top = brats_release(tmp_path / "downloads" / "twice" / "twice", cases=2, ending=ending)
    case = top / "BraTS-PED-00000-000"
    for litter in (case / f"._BraTS-PED-00000-000-t1n{ending}", top / "__MACOSX" / f"BraTS-PED-00009-000-t1n{ending}"):
        image(litter)
    image(case / "old" / f"BraTS-PED-00000-000-t1n{ending}")
    (case / "LICENSE").touch()
    conversion = convert(shipped(501), tmp_path / "downloads")
    assert len(conversion.cases) == 2
    assert list(reasons(conversion).values()) == ["in a folder old/"]


def test_links_in_a_circle(tmp_path: Path) -> None:
    top = brats_release(tmp_path, cases=2)
    (top / "BraTS-PED-00000-000" / "up").symlink_to(top)
    conversion = convert(shipped(501), top)
    assert len(conversion.cases) == 2 and not conversion.excluded


def test_validation_cases_without_mask_are_listed(tmp_path: Path) -> None:
    top = brats_release(tmp_path, "MET", cases=2).parent
    brats_case(top / "ASNR-MICCAI-BraTS2023-MET-Challenge-TrainingData_Additional", "BraTS-MET-00086-000")
    brats_case(top / "ASNR-MICCAI-BraTS2023-MET-Challenge-ValidationData", "BraTS-MET-00099-000", seg=None)
    conversion = convert(shipped(502), top)
    assert list(conversion.cases) == ["BraTS-MET-00000-000", "BraTS-MET-00001-000", "BraTS-MET-00086-000"]
    assert "no mask" in reasons(conversion)["BraTS-MET-00099-000"]


def test_validation_cases_serve_pretraining(tmp_path: Path) -> None:
    top = brats_release(tmp_path, "SSA", cases=2).parent
    brats_case(top / "ASNR-MICCAI-BraTS2023-SSA-Challenge-ValidationData", "BraTS-SSA-00126-000", seg=None)
    conversion = convert(shipped(522), top)
    assert len(conversion.cases) == 3 and not conversion.excluded
    assert all(case.label is None for case in conversion.cases.values())


def test_incomplete_case(tmp_path: Path) -> None:
    top = brats_release(tmp_path, cases=2)
    (top / "BraTS-PED-00000-000" / "BraTS-PED-00000-000-t2w.nii.gz").unlink()
    assert reasons(convert(shipped(501), top)) == {"BraTS-PED-00000-000": "lacks t2"}
    kept = convert(with_options(shipped(501), allow_missing=True), top)
    assert kept.cases["BraTS-PED-00000-000"].images["t2"] is None


def test_visits_share_a_patient(tmp_path: Path) -> None:
    for visit in ("000", "013"):
        brats_case(tmp_path / "in" / "BraTS-MEN-Train", f"BraTS-MEN-00004-{visit}")
    conversion = convert(shipped(523), tmp_path / "in")
    assert {case.patient for case in conversion.cases.values()} == {"BraTS-MEN-00004"} and len(conversion.cases) == 2


def test_corrected_copies_win(tmp_path: Path) -> None:
    brats_case(tmp_path / "in" / "BraTS-MEN-Train", "BraTS-MEN-00004-000")
    brats_case(tmp_path / "in" / "BraTS-MEN-Train-fix-v4", "BraTS-MEN-00004-000", contrasts="-t1n", seg=None)
    case = convert(shipped(523), tmp_path / "in").cases["BraTS-MEN-00004-000"]
    assert "fix-v4" in str(case.images["t1"]) and "fix-v4" not in str(case.images["t2"])


def test_identical_copies_are_dropped_and_listed(tmp_path: Path) -> None:
    top = tmp_path / "in"
    brats_case(top / "BraTS2021_Training_Data", "BraTS2021_00495", OLD, "_seg", (1, 2, 4))
    shutil.copytree(top / "BraTS2021_Training_Data" / "BraTS2021_00495", top / "BraTS2021_00495")
    conversion = convert(shipped(521), top)
    assert list(conversion.cases) == ["BraTS2021_00495"] and len(conversion.excluded) == 5
    assert all("identical copy" in reason for reason in reasons(conversion).values())


def test_different_copies_are_an_error(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        brats_case(tmp_path / "in" / folder, "BraTS2021_00495", OLD, "_seg")
    with pytest.raises(InputError, match="different content") as caught:
        convert(shipped(521), tmp_path / "in")
    assert "prefer" in caught.value.fix


def test_2021_in_three_layouts(tmp_path: Path) -> None:
    top = tmp_path / "in"
    brats_case(top / "RSNA_ASNR_MICCAI_BraTS2021_TrainingData_16July2021", "BraTS2021_00002", OLD, "_seg")
    brats_case(top / "BraTS2021_ValidationSet" / "UCSF-PDGM", "BraTS2021_00011", OLD, None)
    for visit in ("000", "001"):
        brats_case(top / "ASNR-MICCAI-BraTS2023-GLI-Challenge-ValidationData", f"BraTS-GLI-00045-{visit}", seg=None)
    conversion = convert(shipped(521), top)
    assert {name: case.patient for name, case in conversion.cases.items()} == {
        "BraTS2021_00002": "BraTS2021_00002",
        "BraTS2021_00011": "BraTS2021_00011",
        "BraTS-GLI-00045-000": "BraTS2021_00045",
        "BraTS-GLI-00045-001": "BraTS2021_00045",
    }


def test_2018_takes_the_grade_from_the_folder(tmp_path: Path) -> None:
    top = tmp_path / "MICCAI_BraTS_2018_Data_Training"
    brats_case(top / "HGG", "Brats18_2013_2_1", OLD, "_seg", (1, 2, 4))
    brats_case(top / "HGG", "Brats18_CBICA_AAB_1", OLD, "_seg", (1, 2, 4))
    brats_case(top / "LGG", "Brats18_TCIA09_141_1", OLD, "_seg", (1, 2))
    brats_case(tmp_path / "MICCAI_BraTS_2018_Data_Validation", "Brats18_CBICA_AAM_1", OLD, None)
    conversion = convert(shipped(511), tmp_path)
    assert {name: case.class_name for name, case in conversion.cases.items()} == {
        "Brats18_2013_2_1": "HGG",
        "Brats18_CBICA_AAB_1": "HGG",
        "Brats18_TCIA09_141_1": "LGG",
    }
    assert conversion.cases["Brats18_2013_2_1"].patient == "Brats18_2013_2_1"
    assert reasons(conversion) == {"Brats18_CBICA_AAM_1": "not in a folder HGG or LGG: its class is unknown"}


def upenn(root: Path) -> Path:
    top = root / "PKG - UPENN-GBM-NIfTI" / "UPENN-GBM" / "NIfTI-files"
    for scan in ("UPENN-GBM-00001_11", "UPENN-GBM-00002_11", "UPENN-GBM-00002_21"):
        brats_case(top / "images_structural", scan, "_T1 _T1GD _T2 _FLAIR", None)
        image(top / "images_structural_unstripped" / scan / f"{scan}_T1_unstripped.nii.gz")
        image(top / "images_DTI" / scan / f"{scan}_DTI_FA.nii.gz")
    image(top / "images_structural" / "UPENN-GBM-00002_11" / "old" / "UPENN-GBM-00002_11_T1.nii.gz")
    mask(top / "automated_segm" / "UPENN-GBM-00001_11_automated_approx_segm.nii.gz", (1, 2, 4))
    mask(top / "images_segm" / "UPENN-GBM-00002_11_segm.nii.gz", (1, 2, 4))
    return top


def test_upenn_gbm_flat_masks_and_label_4(tmp_path: Path) -> None:
    top = upenn(tmp_path)
    output = tmp_path / "output"
    conversion = convert(shipped(505), top, output)
    assert list(conversion.cases) == ["UPENN-GBM-00002_11"]
    case = conversion.cases["UPENN-GBM-00002_11"]
    assert case.patient == "UPENN-GBM-00002" and case.session == "11"
    assert case.label == str(output / "labels" / "UPENN-GBM-00002_11.nii.gz") and not output.exists()
    assert "4 to 3" in conversion.repairs[0].repair
    without_mask = {name for name, reason in reasons(conversion).items() if "no mask" in reason}
    assert without_mask == {"UPENN-GBM-00001_11", "UPENN-GBM-00002_21"}
    write_derived(conversion.derived[0])
    before = np.asanyarray(nib.load(top / "images_segm" / "UPENN-GBM-00002_11_segm.nii.gz").dataobj)
    written = nib.load(case.label)
    after = np.asanyarray(written.dataobj)
    assert after.dtype == np.uint8 and np.array_equal(after, np.where(before == 4, 3, before))
    assert np.array_equal(written.affine, nib.load(str(case.images["t1"])).affine)


def test_upenn_gbm_in_the_new_convention_is_left_alone(tmp_path: Path) -> None:
    top = upenn(tmp_path)
    mask(top / "images_segm" / "UPENN-GBM-00002_11_segm.nii.gz", (1, 2, 3))
    assert not convert(shipped(505), top).derived


def test_mixed_label_conventions_are_an_error(tmp_path: Path) -> None:
    top = upenn(tmp_path)
    mask(top / "images_segm" / "UPENN-GBM-00001_11_segm.nii.gz", (1, 2, 3))
    with pytest.raises(InputError, match="one label convention"):
        convert(shipped(505), top)


def test_ucsf_pdgm(tmp_path: Path) -> None:
    top = tmp_path / "UCSF-PDGM-v5"
    contrasts = "_T1 _T1c _T2 _FLAIR _DWI _ADC _T1_bias _T1c_bias _SWI _DTI_eddy_FA _brain_segmentation"
    for scan, name in (("0004", "0004"), ("0429_FU003d", "0429_FU003d"), ("0429", "429")):
        for contrast in contrasts.split():
            image(top / f"UCSF-PDGM-{scan}_nifti" / f"UCSF-PDGM-{name}{contrast}.nii.gz")
    image(top / "UCSF-PDGM-0005_nifti" / "UCSF-PDGM-0005_ADC.nii" / "UCSF-PDGM-0005_ADC.nii")  # one extractor's habit
    conversion = convert(shipped(524), top)
    assert {name: (case.patient, case.session) for name, case in conversion.cases.items()} == {
        "UCSF-PDGM-0004": ("UCSF-PDGM-0004", None),
        "UCSF-PDGM-0005": ("UCSF-PDGM-0005", None),
        "UCSF-PDGM-0429": ("UCSF-PDGM-0429", None),
        "UCSF-PDGM-0429_FU003d": ("UCSF-PDGM-0429", "FU003d"),
    }
    images = conversion.cases["UCSF-PDGM-0004"].images
    assert Path(str(images["t1"])).name == "UCSF-PDGM-0004_T1.nii.gz"
    assert Path(str(images["t1c"])).name == "UCSF-PDGM-0004_T1c.nii.gz"
    assert conversion.cases["UCSF-PDGM-0005"].modalities == ["adc"]
    assert [item.what.split(" such")[0] for item in conversion.excluded] == ["15 files"]


def test_the_2024_paediatric_release_is_refused(tmp_path: Path) -> None:
    brats_case(tmp_path / "BraTS-PEDs2024_Training" / "BraTS-PEDs2024_Training", "BraTS-PED-00002-000")
    with pytest.raises(InputError, match="1 ET, 2 NET"):
        convert(shipped(501), tmp_path)


def test_images_that_are_not_understood_are_listed(tmp_path: Path) -> None:
    top = brats_release(tmp_path, cases=1)
    image(top / "BraTS-PED-00000-000" / "BraTS-PED-00000-000-t1n-copy.nii.gz")
    image(top / "BraTS-MET-00001-000" / "BraTS-MET-00001-000-t1n.nii.gz")
    found = reasons(convert(shipped(501), top))
    assert len(found) == 2
    assert "contrasts" in found[f"{top.name}/BraTS-PED-00000-000/BraTS-PED-00000-000-t1n-copy"]
    assert "its name" in found[f"{top.name}/BraTS-MET-00001-000/BraTS-MET-00001-000-t1n"]


def test_excluded_by_the_card(tmp_path: Path) -> None:
    top = brats_release(tmp_path, cases=2)
    card = with_options(shipped(501), exclude={"BraTS-PED-00001-000": "corrupt t2w"})
    conversion = convert(card, top)
    assert list(conversion.cases) == ["BraTS-PED-00000-000"]
    assert reasons(conversion) == {"BraTS-PED-00001-000": "excluded by the card: corrupt t2w"}


@pytest.mark.parametrize("content", ["nothing", "other", "unlabelled"])
def test_a_folder_without_the_release(tmp_path: Path, content: str) -> None:
    (tmp_path / "in").mkdir()
    if content == "other":
        brats_release(tmp_path / "in", "MET", cases=1)
    if content == "unlabelled":
        brats_release(tmp_path / "in", "PED", cases=1, seg=None)
    with pytest.raises(InputError) as caught:
        convert(shipped(501), tmp_path / "in")
    assert "BraTS 2023 paediatric" in str(caught.value) and "syn51514108" in caught.value.fix


def test_a_source_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        convert(shipped(501), tmp_path / "nowhere")
