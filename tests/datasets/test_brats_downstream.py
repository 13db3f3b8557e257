"""The BraTS converter on every documented tree of the releases with masks and classes: PED, MET, UPENN-GBM, 2018."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from mvp_bench.errors import InputError

from .layouts import brats as trees
from .layouts.brats import NO_MASK, OLD, challenge, exam, files, images, labels, people, untouched
from .releases import convert, mask, reasons, shipped, truncate, with_options

# BraTS2023-PED ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
def test_ped(tmp_path: Path, nested: bool, caplog: pytest.LogCaptureFixture) -> None:
    root = trees.ped(tmp_path / "in", nested)
    trees.litter(root)
    conversion = convert(shipped(501), root)
    top = f"{challenge('PED')}/{challenge('PED')}" if nested else challenge("PED")
    names = [f"BraTS-PED-0000{number}-000" for number in (2, 3, 4)]
    assert images(conversion, root) == {name: files(top, name) for name in names}
    assert labels(conversion, root) == [f"{top}/{name}/{name}-seg.nii.gz" for name in names]
    assert people(conversion) == {name: (name[:-4], "000") for name in names}
    assert reasons(conversion) == {"BraTS-PED-00030-000": NO_MASK}
    assert not conversion.derived and not conversion.repairs and not caplog.records


@pytest.mark.parametrize(
    "folder",
    [
        "BraTS-PEDs2024_Training",
        "BraTS-PEDs2024_Training/BraTS-PEDs2024_Training",
        "BraTS-PEDs2025_Training",
        "MICCAI-BraTS2024-PED-Challenge-TrainingData",
    ],
)
def test_ped_of_another_year_is_refused_by_its_folder(tmp_path: Path, folder: str) -> None:
    exam(tmp_path / "in" / folder, "BraTS-PED-00002-000")
    for source in (tmp_path / "in", tmp_path / "in" / folder):
        with pytest.raises(InputError, match="1 ET, 2 NET, 3 CC, 4 ED") as caught:
            convert(shipped(501), source)
        assert "2024_Training" in caught.value.where or "202" in caught.value.where


def test_ped_of_another_year_is_refused_by_any_mask(tmp_path: Path) -> None:
    """As a whole: without the case that gives it away, the others would be read in the wrong convention."""
    root = trees.ped(tmp_path / "in")
    mask(root / challenge("PED") / "BraTS-PED-00003-000" / "BraTS-PED-00003-000-seg.nii.gz", (1, 2, 3, 4))
    card = with_options(shipped(501), exclude={"BraTS-PED-00003-000": "odd"})
    for tried in (shipped(501), card):
        with pytest.raises(InputError, match=r"00003-000-seg.*label 4.*1 ET, 2 NET, 3 CC, 4 ED"):
            convert(tried, root)


def test_ped_masks_without_a_core_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = trees.ped(tmp_path / "in")
    mask(root / challenge("PED") / "BraTS-PED-00003-000" / "BraTS-PED-00003-000-seg.nii.gz", (2, 3))
    truncate(root / challenge("PED") / "BraTS-PED-00004-000" / "BraTS-PED-00004-000-seg.nii.gz")  # left to the check
    with caplog.at_level(logging.WARNING):
        conversion = convert(shipped(501), root)
    assert len(conversion.cases) == 3
    (record,) = caplog.records
    assert "1 of 2 masks" in record.getMessage() and "BraTS-PED-00003-000-seg.nii.gz" in record.getMessage()


# BraTS2023-MET ----------------------------------------------------------------------------------------------------

MET = [f"BraTS-MET-000{number}-000" for number in ("02", "03", "86", "87")]


def test_met_has_two_training_folders(tmp_path: Path) -> None:
    root = trees.met(tmp_path / "in")
    trees.met_apart(root)
    conversion = convert(shipped(502), root)
    more = challenge("MET", "TrainingData_Additional")
    assert images(conversion, root) == {
        name: files(top, name) for name, top in zip(MET, [challenge("MET")] * 2 + [more] * 2, strict=True)
    }
    assert people(conversion) == {name: (name[:-4], "000") for name in MET}
    apart = "distributed apart, not among the cases of the challenge"
    assert reasons(conversion) == {
        "BraTS-MET-00013-000": NO_MASK,
        "in/UCSF_BrainMetastases_v1.3/100101A/100101A_T1post": f"UCSF set: {apart}",
        "5 files such as in/stanford_release_brainmask/BraTS-MET-00900-000/BraTS-MET-00900-000-seg": (
            f"Stanford set: {apart}"
        ),
        "5 files such as in/NYUMets/BraTS-MET-00901-000/BraTS-MET-00901-000-seg": f"NYU set: {apart}",
    }
    assert not conversion.derived and not conversion.repairs


@pytest.mark.parametrize(
    "folder", [f"{challenge('MET')}_combined", f"{challenge('MET')}/{challenge('MET')}", "downloads/twice/twice"]
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_met_merged_nested_and_unpacked(tmp_path: Path, folder: str, ending: str) -> None:
    for name in MET:
        exam(tmp_path / "in" / folder, name, ending=ending)
    conversion = convert(shipped(502), tmp_path / "in")
    assert images(conversion, tmp_path / "in") == {name: files(folder, name, ending=ending) for name in MET}
    assert untouched(conversion)


def test_met_merged_beside_its_parts(tmp_path: Path) -> None:
    root = trees.met(tmp_path / "in")
    shutil.copytree(root / challenge("MET"), root / f"{challenge('MET')}_combined")
    conversion = convert(shipped(502), root)
    assert list(conversion.cases) == MET
    copies = [reason for reason in reasons(conversion).values() if reason.startswith("identical copy")]
    assert len(copies) == 10


def test_met_replaced_file_wins(tmp_path: Path) -> None:
    root = trees.met(tmp_path / "in")
    trees.met_faults(root)
    fixed = trees.met_fixed(root).name
    conversion = convert(shipped(502), root)
    stem = f"{MET[0]}/{MET[0]}-t2w"
    used = next(item for item in conversion.derived if item.target.name == f"{MET[0]}_t2.nii.gz")
    assert used.source == root / fixed / f"{stem}.nii.gz" and used.header_if == "origin"
    assert reasons(conversion) == {
        f"in/{challenge('MET')}/{stem}": f"{MET[0]} has another file for t2: in/{fixed}/{stem}",
        "BraTS-MET-00013-000": NO_MASK,
    }


# UPENN-GBM --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "PKG - UPENN-GBM-NIfTI"])
def test_upenn_gbm_expert_masks(tmp_path: Path, prefix: str) -> None:
    root = trees.upenn(tmp_path / "in", prefix)
    trees.litter(root)
    output = tmp_path / "output"
    conversion = convert(shipped(505), root, output)
    top = Path(prefix, "UPENN-GBM", "NIfTI-files").as_posix()
    names = ["UPENN-GBM-00002_11", "UPENN-GBM-00003_11"]
    assert images(conversion, root) == {name: files(f"{top}/images_structural", name, trees.UPENN) for name in names}
    assert people(conversion) == {name: (name[:-3], "11") for name in names}
    assert [case.label for case in conversion.cases.values()] == [str(output / f"labels/{n}.nii.gz") for n in names]
    assert [item.label_map for item in conversion.derived] == [{4: 3}] * 2  # the release, not the mask, decides
    stem, first = f"in/{top}", "UPENN-GBM-00001_11"
    assert reasons(conversion) == {
        first: "its only mask is not used: automated mask, not corrected by experts",
        f"{stem}/automated_segm/{names[0]}_automated_approx_segm": "automated mask, not corrected by experts",
        "UPENN-GBM-00002_21": NO_MASK,
        "UPENN-GBM-00004_11": NO_MASK,
        f"{stem}/images_structural/{names[0]}/old/{names[0]}_T1": "in a folder old/",
        f"20 files such as {stem}/images_structural_unstripped/{first}/{first}_FLAIR_unstripped": (
            "not skull-stripped copy"
        ),
        f"10 files such as {stem}/images_DSC/{first}/{first}_DSC_ap-rCBV": ("diffusion tensor or perfusion map"),
    }
    assert not output.exists()


def test_upenn_gbm_automated_masks_on_demand(tmp_path: Path) -> None:
    root = trees.upenn(tmp_path / "in")
    card = with_options(shipped(505), mask_suffixes=["segm", "automated_approx_segm"])
    conversion = convert(card, root)
    assert [
        (name, item.source.parent.name) for name, item in zip(conversion.cases, conversion.derived, strict=True)
    ] == [
        ("UPENN-GBM-00001_11", "automated_segm"),
        ("UPENN-GBM-00002_11", "images_segm"),
        ("UPENN-GBM-00003_11", "images_segm"),
    ]


def test_upenn_gbm_in_the_new_convention_is_left_alone(tmp_path: Path) -> None:
    root = trees.upenn(tmp_path / "in")
    for path in root.rglob("*00002_11_segm.nii.gz"):
        mask(path, (1, 2, 3))
    assert not convert(shipped(505), root).derived


def test_mixed_label_conventions_are_an_error(tmp_path: Path) -> None:
    root = trees.upenn(tmp_path / "in")
    for path in root.rglob("*00003_11_segm.nii.gz"):
        mask(path, (1, 2, 3))
    with pytest.raises(InputError, match="one label convention"):
        convert(shipped(505), root)


# BraTS2018 --------------------------------------------------------------------------------------------------------

GRADES = {"Brats18_2013_2_1": "HGG", "Brats18_CBICA_AAB_1": "HGG", "Brats18_TCIA09_141_1": "LGG"}
NO_GRADE = "not in a folder HGG or LGG, and there is no name_mapping*.csv to look it up in: its class is unknown"


@pytest.mark.parametrize("top", ["", "MICCAI_BraTS_2018_Data_Training"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_2018_takes_the_grade_from_the_folder(tmp_path: Path, top: str, ending: str) -> None:
    root = trees.brats2018(tmp_path / "in", top, ending)
    conversion = convert(shipped(511), root)
    assert {name: case.class_name for name, case in conversion.cases.items()} == GRADES
    assert images(conversion, root) == {
        name: files(f"{top}/{grade}".lstrip("/"), name, OLD, ending) for name, grade in GRADES.items()
    }
    assert people(conversion) == {name: (name, None) for name in GRADES}
    assert reasons(conversion) == {"Brats18_CBICA_AAM_1": NO_GRADE}
    assert not labels(conversion, root) and not conversion.derived and not conversion.repairs


def test_2018_flattened_takes_the_grade_from_the_table(tmp_path: Path) -> None:
    conversion = convert(shipped(511), trees.brats2018_flat(tmp_path / "in"))
    assert {name: case.class_name for name, case in conversion.cases.items()} == {
        "Brats18_2013_2_1": "HGG",
        "Brats18_TCIA09_141_1": "LGG",
    }
    assert reasons(conversion) == {"Brats18_CBICA_ZZZ_1": "no row for Brats18_CBICA_ZZZ_1 in name_mapping.csv"}


def test_2018_flattened_without_the_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"3 cases, none of them usable.*no name_mapping"):
        convert(shipped(511), trees.brats2018_flat(tmp_path / "in", with_table=False))


def test_2018_a_flattened_copy_beside_the_release(tmp_path: Path) -> None:
    root = trees.brats2018(tmp_path / "in")
    shutil.copytree(root / "MICCAI_BraTS_2018_Data_Training" / "LGG", root / "AllCases")
    conversion = convert(shipped(511), root)
    assert {name: case.class_name for name, case in conversion.cases.items()} == GRADES


def test_2018_a_case_in_both_folders_is_left_out(tmp_path: Path) -> None:
    root = trees.brats2018(tmp_path / "in")
    top = root / "MICCAI_BraTS_2018_Data_Training"
    shutil.copytree(top / "HGG" / "Brats18_2013_2_1", top / "LGG" / "Brats18_2013_2_1")
    conversion = convert(shipped(511), root)
    assert list(conversion.cases) == list(GRADES)[1:]
    assert reasons(conversion)["Brats18_2013_2_1"] == "lies in folders of two classes: HGG, LGG"
