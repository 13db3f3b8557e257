"""The BraTS converter on every tree of the four pre-training releases it reads, and what holds for all eight.

The other four are in test_brats_downstream.py; what shows only once the files are read (faults, repairs of headers,
values of the labels) is in test_brats_prepared.py.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from mvp_bench.errors import InputError

from .layouts import brats as trees
from .layouts.brats import MIXED, NEW, OLD, UCSF, challenge, exam, files, images, labels, people, untouched
from .releases import brats_release, convert, image, mask, reasons, shipped, truncate, with_options

# BraTS2021 --------------------------------------------------------------------------------------------------------


def test_2021_tree_a_with_the_sample_archives_beside(tmp_path: Path) -> None:
    root = trees.brats2021_a(tmp_path / "archive", 495, 621, 700)
    trees.brats2021_samples(root, in_folder=495, flat=621)
    trees.litter(root)
    conversion = convert(shipped(521), root)
    names = ["BraTS2021_00495", "BraTS2021_00621", "BraTS2021_00700"]
    assert people(conversion) == {name: (name, None) for name in names}
    top = "BraTS2021_Training_Data"
    # the copies sort before the folder of all cases; which of two identical files is used makes no difference
    assert images(conversion, tmp_path) == {
        "BraTS2021_00495": files("archive", names[0], OLD),
        "BraTS2021_00621": {m: f"archive/{names[1]}{s}.nii.gz" for m, s in OLD.items()},
        "BraTS2021_00700": files(f"archive/{top}", names[2], OLD),
    }
    used = {names[0]: f"archive/{names[0]}/{names[0]}", names[1]: f"archive/{names[1]}"}
    assert reasons(conversion) == {
        f"archive/{top}/{name}/{name}{end}": f"identical copy of {stem}{end}"
        for name, stem in used.items()
        for end in (*OLD.values(), "_seg")
    }
    assert not conversion.derived and not conversion.repairs
    assert all(case.label is None and case.site is None for case in conversion.cases.values())


@pytest.mark.parametrize("date", ["", "_16July2021"])
def test_2021_tree_b(tmp_path: Path, date: str) -> None:
    root = trees.brats2021_b(tmp_path / "in", date)
    conversion = convert(shipped(521), root)
    assert images(conversion, root) == {
        "BraTS2021_00001": files("RSNA_ASNR_MICCAI_BraTS2021_ValidationData", "BraTS2021_00001", OLD),
        "BraTS2021_00002": files(f"RSNA_ASNR_MICCAI_BraTS2021_TrainingData{date}", "BraTS2021_00002", OLD),
    }
    assert people(conversion) == {name: (name, None) for name in ("BraTS2021_00001", "BraTS2021_00002")}
    assert untouched(conversion)


def test_2021_tree_c_keeps_the_source_collection_as_site(tmp_path: Path) -> None:
    root = trees.brats2021_c(tmp_path / "in")
    conversion = convert(shipped(521), root)
    assert images(conversion, root) == {
        "BraTS2021_00005": files("BraTS2021_TrainingSet/UPENN-GBM", "BraTS2021_00005", OLD),
        "BraTS2021_00006": files("BraTS2021_TrainingSet/new-not-previously-in-TCIA", "BraTS2021_00006", OLD),
        "BraTS2021_00011": files("BraTS2021_ValidationSet/UCSF-PDGM", "BraTS2021_00011", OLD),
    }
    sites = {name: case.site for name, case in conversion.cases.items()}
    assert list(sites.values()) == ["UPENN-GBM", "new-not-previously-in-TCIA", "UCSF-PDGM"]
    assert untouched(conversion)


def test_2021_trees_a_and_c_together(tmp_path: Path) -> None:
    """The site is kept whichever copy is used; a gunzipped copy is a copy."""
    root = trees.brats2021_c(tmp_path / "in")
    copied = root / "BraTS2021_Training_Data" / "BraTS2021_00005"
    copied.mkdir(parents=True)
    for path in (root / "BraTS2021_TrainingSet" / "UPENN-GBM" / "BraTS2021_00005").iterdir():
        (copied / path.name[: -len(".gz")]).write_bytes(gzip.decompress(path.read_bytes()))
    conversion = convert(shipped(521), root)
    assert list(conversion.cases) == ["BraTS2021_00005", "BraTS2021_00006", "BraTS2021_00011"]
    assert [case.site for case in conversion.cases.values()] == [
        "UPENN-GBM",
        "new-not-previously-in-TCIA",
        "UCSF-PDGM",
    ]
    assert len(conversion.excluded) == 5
    assert all(reason.startswith("identical copy of in/") for reason in reasons(conversion).values())


def test_2021_tree_d_tells_the_visits_of_a_patient(tmp_path: Path) -> None:
    root = trees.brats2021_d(tmp_path / "in")
    conversion = convert(shipped(521), root)
    training, validation = challenge("GLI"), challenge("GLI", "ValidationData")
    assert images(conversion, root) == {
        "BraTS-GLI-00045-001": files(training, "BraTS-GLI-00045-001"),
        "BraTS-GLI-00046-001": files(validation, "BraTS-GLI-00046-001"),
        "BraTS2021_00045": files(training, "BraTS-GLI-00045-000"),
        "BraTS2021_00046": files(validation, "BraTS-GLI-00046-000"),
    }
    assert people(conversion) == {
        "BraTS-GLI-00045-001": ("BraTS2021_00045", "001"),
        "BraTS-GLI-00046-001": ("BraTS2021_00046", "001"),
        "BraTS2021_00045": ("BraTS2021_00045", None),
        "BraTS2021_00046": ("BraTS2021_00046", None),
    }
    assert not conversion.excluded and not conversion.derived
    assert [(r.what, r.repair) for r in conversion.repairs] == [
        (
            "2 cases such as BraTS-GLI-00045-000",
            "called BraTS2021_00045, its name in another version of the release",
        )
    ]


def test_2021_as_the_paper_mixed_it(tmp_path: Path) -> None:
    """Training cases in the names of 2021, validation cases of 2023 under BrainMVP's own suffixes."""
    root = trees.brats2021_a(tmp_path / "in", 0)
    exam(root / challenge("GLI", "ValidationData"), "BraTS-GLI-00001-000", MIXED, None)
    conversion = convert(shipped(521), root)
    assert images(conversion, root) == {
        "BraTS2021_00000": files("BraTS2021_Training_Data", "BraTS2021_00000", OLD),
        "BraTS2021_00001": files(challenge("GLI", "ValidationData"), "BraTS-GLI-00001-000", MIXED),
    }
    assert not conversion.excluded


def test_2021_one_scan_under_both_names_is_one_case(tmp_path: Path) -> None:
    root = trees.brats2021_a(tmp_path / "in", 45)
    trees.brats2021_d(root)
    conversion = convert(shipped(521), root)
    assert set(conversion.cases) == {"BraTS2021_00045", "BraTS2021_00046", "BraTS-GLI-00045-001", "BraTS-GLI-00046-001"}
    assert images(conversion, root)["BraTS2021_00045"] == files("BraTS2021_Training_Data", "BraTS2021_00045", OLD)
    kept = "in/BraTS2021_Training_Data/BraTS2021_00045/BraTS2021_00045"
    roles = {**OLD, "label": "_seg"}
    assert reasons(conversion) == {
        f"in/{challenge('GLI')}/BraTS-GLI-00045-000/BraTS-GLI-00045-000{end}": (
            f"BraTS2021_00045 has another file for {role}: {kept}{roles[role]}"
        )
        for role, end in {**NEW, "label": "-seg"}.items()
    }


def test_2024_glioma_follow_ups_are_another_release(tmp_path: Path) -> None:
    root = trees.brats2021_d(tmp_path / "in")
    image(root / "BraTS-GLI-00005-100" / "BraTS-GLI-00005-100-t1n.nii.gz")
    assert list(reasons(convert(shipped(521), root)).values()) == ["its name is not that of a case of this release"]


def test_different_copies_are_an_error(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        exam(tmp_path / "in" / folder, "BraTS2021_00495", OLD)
    with pytest.raises(InputError, match="different content") as caught:
        convert(shipped(521), tmp_path / "in")
    assert "prefer" in caught.value.fix
    truncate(tmp_path / "in" / "a" / "BraTS2021_00495" / "BraTS2021_00495_t1.nii.gz")
    with pytest.raises(InputError, match="different content"):
        convert(shipped(521), tmp_path / "in")


# BraTS2023-SSA, -MEN ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["", "_V2"])
def test_ssa_of_the_challenge(tmp_path: Path, version: str) -> None:
    root = trees.ssa(tmp_path / "in", version)
    conversion = convert(shipped(522), root)
    assert images(conversion, root) == {
        "BraTS-SSA-00002-000": files(challenge("SSA", f"TrainingData{version}"), "BraTS-SSA-00002-000"),
        "BraTS-SSA-00126-000": files(challenge("SSA", "ValidationData"), "BraTS-SSA-00126-000"),
    }
    assert people(conversion) == {
        "BraTS-SSA-00002-000": ("BraTS-SSA-00002", "000"),
        "BraTS-SSA-00126-000": ("BraTS-SSA-00126", "000"),
    }
    assert untouched(conversion) and not labels(conversion, root)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("below", ["", "PKG - BraTS-Africa/BraTS-Africa"])
def test_ssa_of_tcia_leaves_other_neoplasms_out(tmp_path: Path, ending: str, below: str) -> None:
    root = trees.brats_africa(tmp_path / "in", ending) / below
    conversion = convert(shipped(522), root)
    path = files("95_Glioma", "BraTS-SSA-00002-000", ending=ending)
    found = images(conversion, tmp_path / "in" / "PKG - BraTS-Africa" / "BraTS-Africa")
    assert found == {"BraTS-SSA-00002-000": path}
    other = f"{root.name}/{'' if below else 'PKG - BraTS-Africa/BraTS-Africa/'}51_OtherNeoplasms"
    assert reasons(conversion) == {
        f"5 files such as {other}/BraTS-SSA-00009-000/BraTS-SSA-00009-000-seg": "TCIA BraTS-Africa: not a glioma"
    }


@pytest.mark.parametrize("level", ["", "BraTS-MEN-Train"])
def test_men_visits_share_a_patient(tmp_path: Path, level: str) -> None:
    root = trees.men(tmp_path / "in", level)
    conversion = convert(shipped(523), root)
    training = f"{challenge('MEN')}/{level}".rstrip("/")
    assert images(conversion, root) == {
        "BraTS-MEN-00000-000": files(challenge("MEN", "ValidationData"), "BraTS-MEN-00000-000"),
        "BraTS-MEN-00004-000": files(training, "BraTS-MEN-00004-000"),
        "BraTS-MEN-00004-013": files(training, "BraTS-MEN-00004-013"),
    }
    assert people(conversion) == {
        "BraTS-MEN-00000-000": ("BraTS-MEN-00000", "000"),
        "BraTS-MEN-00004-000": ("BraTS-MEN-00004", "000"),
        "BraTS-MEN-00004-013": ("BraTS-MEN-00004", "013"),
    }
    assert untouched(conversion)


@pytest.mark.parametrize("patch", ["BraTS-MEN-Train-fix-v4", "BraTS-MEN-TRAIN-FIX-V4", "fix/BraTS-MEN-TRAIN-FIX-V4"])
def test_men_patched_images_win(tmp_path: Path, patch: str) -> None:
    root = trees.men(tmp_path / "in", "BraTS-MEN-Train")
    case = "BraTS-MEN-00004-000"
    image(root / patch / case / f"{case}-t1n.nii.gz")
    conversion = convert(shipped(523), root)
    training = f"{challenge('MEN')}/BraTS-MEN-Train"
    assert images(conversion, root)[case] == {
        **files(training, case),
        "t1": f"{patch}/{case}/{case}-t1n.nii.gz",
    }
    assert len(conversion.cases) == 3
    assert reasons(conversion) == {
        f"in/{training}/{case}/{case}-t1n": f"{case} has another file for t1: in/{patch}/{case}/{case}-t1n"
    }


# UCSF-PDGM --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "top", ["UCSF-PDGM-v5", "PKG - UCSF-PDGM Version 5/UCSF-PDGM-v5", "PKG-UCSF-PDGM-v3-20230111/UCSF-PDGM-v3"]
)
def test_ucsf_pdgm(tmp_path: Path, top: str) -> None:
    root = tmp_path / "in"
    trees.ucsf(root / top)
    trees.litter(root)
    conversion = convert(shipped(524), root)
    ids = ("0004", "0396", "0396_FU175d", "0429_FU003d")
    assert images(conversion, root) == {
        f"UCSF-PDGM-{i}": {m: f"{top}/UCSF-PDGM-{i}_nifti/UCSF-PDGM-{i}{s}.nii.gz" for m, s in UCSF.items()}
        for i in ids
    }
    assert people(conversion) == {
        "UCSF-PDGM-0004": ("UCSF-PDGM-0004", None),
        "UCSF-PDGM-0396": ("UCSF-PDGM-0396", None),
        "UCSF-PDGM-0396_FU175d": ("UCSF-PDGM-0396", "FU175d"),
        "UCSF-PDGM-0429_FU003d": ("UCSF-PDGM-0429", "FU003d"),
    }
    unused = 4 * (len(trees.UCSF_UNUSED) + 1) + 2  # the 4-D file of every exam, ASL_M0 of the follow-ups
    assert [item.what.split(" such")[0] for item in conversion.excluded] == [f"{unused} files"]
    assert not conversion.repairs and not conversion.derived


def test_ucsf_pdgm_before_version_3(tmp_path: Path) -> None:
    """The follow-ups had numbers of their own, and some ids had three digits."""
    root = tmp_path / "in" / "UCSF-PDGM-v2"
    for old in ("0138", "0175", "0181", "0278", "0289", "0315", "0391"):
        trees.ucsf_exam(root / f"UCSF-PDGM-{old}_nifti", f"UCSF-PDGM-{old}")
    trees.ucsf_exam(root / "UCSF-PDGM-0429_nifti", "UCSF-PDGM-429")  # the folder has four digits
    trees.ucsf_exam(root / "UCSF-PDGM-012_nifti", "UCSF-PDGM-0012")
    conversion = convert(shipped(524), root)
    assert people(conversion) == {
        "UCSF-PDGM-0012": ("UCSF-PDGM-0012", None),
        "UCSF-PDGM-0391": ("UCSF-PDGM-0391", None),
        "UCSF-PDGM-0391_FU016d": ("UCSF-PDGM-0391", "FU016d"),
        "UCSF-PDGM-0396_FU175d": ("UCSF-PDGM-0396", "FU175d"),
        "UCSF-PDGM-0409_FU001d": ("UCSF-PDGM-0409", "FU001d"),
        "UCSF-PDGM-0429": ("UCSF-PDGM-0429", None),
        "UCSF-PDGM-0429_FU003d": ("UCSF-PDGM-0429", "FU003d"),
        "UCSF-PDGM-0431_FU001d": ("UCSF-PDGM-0431", "FU001d"),
        "UCSF-PDGM-0433_FU007d": ("UCSF-PDGM-0433", "FU007d"),
    }
    assert {item.what: item.repair.split(",")[0] for item in conversion.repairs} == {
        "UCSF-PDGM-0138": "called UCSF-PDGM-0429_FU003d",
        "UCSF-PDGM-0175": "called UCSF-PDGM-0396_FU175d",
        "UCSF-PDGM-0181": "called UCSF-PDGM-0409_FU001d",
        "UCSF-PDGM-0278": "called UCSF-PDGM-0431_FU001d",
        "UCSF-PDGM-0289": "called UCSF-PDGM-0391_FU016d",
        "UCSF-PDGM-0315": "called UCSF-PDGM-0433_FU007d",
        "UCSF-PDGM-429": "called UCSF-PDGM-0429",
    }
    assert not conversion.excluded and all(len(case.modalities) == 6 for case in conversion.cases.values())


def test_ucsf_pdgm_images_in_folders_of_their_own_name(tmp_path: Path) -> None:
    top = tmp_path / "UCSF-PDGM-v5" / "UCSF-PDGM-0005_nifti"
    for suffix in ("_T1", "_ADC"):
        image(top / f"UCSF-PDGM-0005{suffix}.nii" / f"UCSF-PDGM-0005{suffix}.nii")
    mask(top / "UCSF-PDGM-0006_tumor_segmentation.nii" / "UCSF-PDGM-0006_tumor_segmentation.nii", (1, 2, 4))
    conversion = convert(shipped(524), tmp_path / "UCSF-PDGM-v5")
    assert {name: case.modalities for name, case in conversion.cases.items()} == {"UCSF-PDGM-0005": ["t1", "adc"]}
    assert reasons(conversion) == {"UCSF-PDGM-0006": "no image, only label"}


# All of them ------------------------------------------------------------------------------------------------------


def test_old_folders_litter_and_links_in_a_circle(tmp_path: Path) -> None:
    top = brats_release(tmp_path, cases=2)
    image(top / "BraTS-PED-00000-000" / "old" / "BraTS-PED-00000-000-t1n.nii.gz")
    (top / "BraTS-PED-00000-000" / "up").symlink_to(top)
    trees.litter(top / "BraTS-PED-00001-000")
    conversion = convert(shipped(501), top)
    assert len(conversion.cases) == 2
    assert list(reasons(conversion).values()) == ["in a folder old/"]


def test_incomplete_case(tmp_path: Path) -> None:
    top = brats_release(tmp_path, cases=2)
    (top / "BraTS-PED-00000-000" / "BraTS-PED-00000-000-t2w.nii.gz").unlink()
    assert reasons(convert(shipped(501), top)) == {"BraTS-PED-00000-000": "lacks t2"}
    kept = convert(with_options(shipped(501), allow_missing=True), top)
    assert kept.cases["BraTS-PED-00000-000"].images["t2"] is None


@pytest.mark.parametrize("name", ["-t1n-copy", "-t1n_bias", "-t1nx", "-T1c_unstripped", "-seg2", "-t1n.old"])
def test_only_whole_tokens_are_understood(tmp_path: Path, name: str) -> None:
    top = brats_release(tmp_path, cases=1)
    case = "BraTS-PED-00000-000"
    image(top / case / f"{case}{name}.nii.gz")
    conversion = convert(shipped(501), top)
    assert images(conversion, tmp_path)[case] == files(top.name, case)
    assert list(reasons(conversion)) == [f"{top.name}/{case}/{case}{name}"]


def test_images_of_other_releases_are_listed(tmp_path: Path) -> None:
    top = brats_release(tmp_path, cases=1)
    image(top / "BraTS-MET-00001-000" / "BraTS-MET-00001-000-t1n.nii.gz")
    assert reasons(convert(shipped(501), top)) == {
        f"{top.name}/BraTS-MET-00001-000/BraTS-MET-00001-000-t1n": "its name is not that of a case of this release"
    }


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


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"rename": {"(": "a"}}, "rename"),
        ({"rename": {"BraTS-(.)": "{1}"}}, "rename"),
        ({"rename": {"BraTS-(.)": "{name}"}}, "rename"),
        ({"case": "["}, "case"),
        ({"refuse_labels": {"four": "no"}}, "refuse_labels"),
    ],
)
def test_wrong_options_name_the_field(tmp_path: Path, options: dict, field: str) -> None:
    with pytest.raises(InputError, match=f"converter_options.*{field}"):
        convert(with_options(shipped(501), **options), brats_release(tmp_path, cases=1))
