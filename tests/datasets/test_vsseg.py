"""Vestibular-Schwannoma-SEG: official NIfTI conversion, BIDS, and DICOM with structure sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import PreparationConfig
from mvp_bench.datasets.geometry.derive import TargetOutcome, write_derived
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .layouts.dicom import dicom_series
from .layouts.rtstruct import circle, rtstruct
from .layouts.scans import QUICK, head, itk_file, likeness, moved, movement, undone
from .layouts.vsseg import BIDS, GRIDS, NAMINGS, OFFICIAL, ball, download, nifti
from .releases import convert, reasons, shipped, truncate, with_options

CARD = shipped(506, modalities=["t1c", "t2"])
WITHOUT_MASK = "no mask (validation or test set, or not annotated)"
BOTH = "t1_refT1 t2_refT2 seg_refT1 seg_refT2"
THERE = movement((4, -5, 6), (5, -4, 6))
"""How the patient moved between T1 and T2."""


def only(*modalities: str) -> Card:
    return shipped(506, modalities=list(modalities))


def data(path: object) -> np.ndarray:
    return np.asanyarray(nib.load(str(path)).dataobj)


def test_official_split_is_the_releases() -> None:
    lists = CARD.split.official or {}
    assert CARD.split.scheme == "official" and CARD.split.ratio == (6, 1, 3)
    numbers = {part: [int(patient.removeprefix("vs_gk_")) for patient in lists[part]] for part in lists}
    assert {part: len(ids) for part, ids in numbers.items()} == {"train": 176, "val": 20, "test": 46}
    gone = {39, 97, 130, 160, 168, 208, 219, 227}
    assert sorted(n for ids in numbers.values() for n in ids) == sorted(set(range(1, 251)) - gone)
    assert CARD.expected_cases == 242
    assert max(numbers["train"]) == 181 and numbers["val"] == list(range(182, 202)) and min(numbers["test"]) == 202


# -------------------------------------------------------------------------------------------------------------- NIfTI


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_official_conversion(tmp_path: Path, ending: str) -> None:
    """Patients 1 to 3: T2 registered to T1, nothing registered, T1 registered to T2."""
    contents = {
        1: "t1_refT1 t2_refT1 seg_refT1",
        2: BOTH,
        3: "t1_refT2 t2_refT2 seg_refT2",
        10: "t1_refT1 t2_refT1",
        11: "t1_refT1 seg_refT1",
    }
    source = nifti(tmp_path, contents, ending=ending)
    conversion = convert(CARD, source, tmp_path / "output")
    assert list(conversion.cases) == ["vs_gk_1", "vs_gk_2", "vs_gk_3"]
    used = {
        "vs_gk_1": ("t1_refT1", "t2_refT1", "seg_refT1"),
        "vs_gk_2": ("t1_refT1", None, "seg_refT1"),
        "vs_gk_3": ("t1_refT2", "t2_refT2", "seg_refT2"),
    }
    for case_id, (t1c, t2, label) in used.items():
        case = conversion.cases[case_id]
        folder = source / case_id
        assert case.patient == case_id and case.modalities == ["t1c", "t2"]
        assert case.images["t1c"] == str(folder / f"vs_gk_{t1c}{ending}")
        assert case.label == str(folder / f"vs_gk_{label}{ending}")
        assert t2 is None or case.images["t2"] == str(folder / f"vs_gk_{t2}{ending}")
    (item,) = conversion.derived
    assert item.source == source / "vs_gk_2" / f"vs_gk_t2_refT2{ending}"
    assert item.grid == source / "vs_gk_2" / f"vs_gk_t1_refT1{ending}" and item.align == "rigid" and not item.transform
    assert (
        conversion.cases["vs_gk_2"].images["t2"]
        == str(item.target)
        == str(tmp_path / "output/images/vs_gk_2_t2.nii.gz")
    )
    assert reasons(conversion) == {
        "nifti/vs_gk_2/vs_gk_seg_refT2": "on the grid of T2, its case is on that of T1",
        "vs_gk_10": WITHOUT_MASK,
        "vs_gk_11": "lacks t2",
    }


def test_bids_copy_has_the_same_patients(tmp_path: Path) -> None:
    source = nifti(tmp_path, {1: " ".join(BIDS), 20: BOTH}, BIDS)
    conversion = convert(CARD, source, tmp_path / "output")
    assert {name: case.patient for name, case in conversion.cases.items()} == {
        "vs_gk_1": "vs_gk_1",
        "vs_gk_20": "vs_gk_20",
    }
    one = conversion.cases["vs_gk_1"]
    assert one.images == {
        m: str(source / f"{BIDS[n].format(1)}.nii.gz") for m, n in (("t1c", "t1_refT1"), ("t2", "t2_refT1"))
    }
    assert one.label == str(source / f"{BIDS['seg_refT1'].format(1)}.nii.gz")
    assert [item.source for item in conversion.derived] == [source / f"{BIDS['t2_refT2'].format(20)}.nii.gz"]
    grids = [e for e in conversion.excluded if e.reason == "on the grid of T2, its case is on that of T1"]
    assert [e.what.split(" files")[0] for e in grids] == ["3"]
    assert any("vs_gk_1 has another file for t2" in reason for reason in reasons(conversion).values())


@pytest.mark.parametrize(
    ("modalities", "contents", "used"),
    [
        (["t1c"], BOTH, ["t1_refT1", "seg_refT1"]),
        (["t1c"], "t1_refT2 t2_refT2 seg_refT2", ["t1_refT2", "seg_refT2"]),
        (["t2"], BOTH, ["t2_refT2", "seg_refT2"]),
        (["t2"], "t1_refT1 t2_refT1 seg_refT1", ["t2_refT1", "seg_refT1"]),
        (["t2", "t1c"], "t1_refT2 t2_refT2 seg_refT2", ["t2_refT2", "t1_refT2", "seg_refT2"]),
    ],
)
def test_the_cards_modalities_choose_image_and_mask(
    tmp_path: Path, modalities: list[str], contents: str, used: list[str]
) -> None:
    """An image and the mask that was drawn on it, on one grid."""
    source = nifti(tmp_path, {5: contents})
    case = convert(only(*modalities), source, tmp_path / "output").cases["vs_gk_5"]
    assert [*case.images.values(), case.label] == [str(source / "vs_gk_5" / f"vs_gk_{n}.nii.gz") for n in used]


def test_other_modalities_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"modalities.*found flair; expected only t1c and t2"):
        convert(only("t1c", "flair"), tmp_path)


@pytest.mark.parametrize(
    "name",
    ["registration_matrices/vs_gk_7_t2/inv_T2_LPS_to_T1_LPS.tfm", "sub-007/anat/sub-007_inv_T2_LPS_to_T1_LPS.tfm"],
)
def test_the_releases_own_transform_brings_t2_onto_t1(tmp_path: Path, name: str) -> None:
    """The file maps T1's points to T2's: applied the other way round T2 would end twice as far away."""
    still = head(506)
    folder = tmp_path / "in" / "vs_gk_7"
    folder.mkdir(parents=True)
    nib.save(still["t1c"], folder / "vs_gk_t1_refT1.nii.gz")
    nib.save(moved(still["t2"], THERE), folder / "vs_gk_t2_refT2.nii.gz")
    nib.save(still["label"], folder / "vs_gk_seg_refT1.nii.gz")
    path = itk_file(tmp_path / "in" / name, THERE)
    itk_file(path.with_name(path.name.replace("T2_LPS_to_T1", "T1_LPS_to_T2")), np.linalg.inv(THERE))
    conversion = convert(CARD, tmp_path / "in", tmp_path / "output")
    assert [item.transform for item in conversion.derived] == [path]
    (outcome,) = write_derived(conversion.derived[0])
    assert f"by the release's own transform {path.name}" in outcome.repair and not outcome.refused
    expected = undone(moved(still["t2"], THERE), THERE, still["t1c"])
    known = np.isfinite(expected)
    assert np.allclose(data(outcome.path)[known], expected[known], atol=0.01) and known.mean() > 0.8


def test_t2_is_registered_where_there_is_no_transform(tmp_path: Path) -> None:
    still = head(506)
    folder = tmp_path / "in" / "vs_gk_7"
    folder.mkdir(parents=True)
    nib.save(still["t1c"], folder / "vs_gk_t1_refT1.nii.gz")
    nib.save(moved(still["t2"], THERE, orientation="PSR"), folder / "vs_gk_t2_refT2.nii.gz")
    nib.save(still["label"], folder / "vs_gk_seg_refT1.nii.gz")
    (item,) = convert(CARD, tmp_path / "in", tmp_path / "output").derived
    (outcome,) = write_derived(item, registration=QUICK)
    assert "after rigid registration" in outcome.repair and not outcome.refused
    assert likeness(data(outcome.path), undone(moved(still["t2"], THERE), THERE, still["t1c"])) > 0.99


# -------------------------------------------------------------------------------------------------------------- DICOM


def small(grid: str, seed: int = 0) -> nib.Nifti1Image:
    affine, shape = GRIDS[grid]
    return nib.Nifti1Image(np.random.default_rng(seed).integers(1, 900, shape).astype(np.int16), affine)


TUMOUR = [circle((-1, -1.5, z), 0.9) for z in (-1.5, 0.0, 1.5)]
"""Contours in slices 3 to 5 of the small T1, LPS mm."""
COCHLEA = [circle((-0.2, -1.0, z), 0.5) for z in (0.0, 1.5)]
ON_T2 = [circle((-1, 0, z), 0.8) for z in (-2.0, -1.0)]
IMAGES = {"T1": small("T1"), "T2": small("T2", 1)}
STRUCTURES = {"T1": {"AN": TUMOUR, "cochlea": COCHLEA}, "T2": {"TV": ON_T2}}


def inside(contours: list[np.ndarray], radius: float, grid: str) -> np.ndarray:
    """Voxels whose centre is within ``radius`` of a contour's middle, one by one."""
    affine, shape = GRIDS[grid]
    mask = np.zeros(shape, np.uint8)
    for contour in contours:
        middle = contour.mean(0) * (-1, -1, 1)
        for index in np.ndindex(*shape):
            at = affine[:3, :3] @ index + affine[:3, 3]
            mask[index] |= abs(at[2] - middle[2]) < 0.01 and np.hypot(*(at - middle)[:2]) < radius
    return mask


def written(source: Path, card: Card, output: Path) -> dict[str, TargetOutcome]:
    derived = sorted(convert(card, source, output).derived, key=lambda item: item.step)
    return {outcome.target: outcome for item in derived for outcome in write_derived(item, registration=QUICK)}


@pytest.mark.parametrize("naming", NAMINGS)
def test_dicom_by_its_headers_whatever_the_folders(tmp_path: Path, naming: str) -> None:
    for number in (1, 12):
        source = download(tmp_path, number, IMAGES, STRUCTURES, naming)
    conversion = convert(CARD, source, tmp_path / "output")
    assert {name: case.patient for name, case in conversion.cases.items()} == {
        "vs_gk_1": "vs_gk_1",
        "vs_gk_12": "vs_gk_12",
    }
    for name, case in conversion.cases.items():
        assert case.images == {m: str(tmp_path / f"output/images/{name}_{m}.nii.gz") for m in ("t1c", "t2")}
        assert case.label == str(tmp_path / f"output/labels/{name}.nii.gz")
    assert [(e.what.split(" such as")[0], e.reason) for e in conversion.excluded] == [
        ("4 files", "RTPLAN, neither image nor structure set")
    ]
    items = {item.target.name: item for item in conversion.derived}
    assert len(items) == 6 and items["vs_gk_1_t1c.nii.gz"].step == 0
    t2, mask = items["vs_gk_1_t2.nii.gz"], items["vs_gk_1.nii.gz"]
    assert t2.step == mask.step == 1 and t2.grid == items["vs_gk_1_t1c.nii.gz"].target and t2.align == "rigid"
    assert mask.done == "mask drawn from the contours of structure AN (others: cochlea)"


def test_dicom_images_and_masks_are_written_where_they_are(tmp_path: Path) -> None:
    """T1 as it is, the mask that was drawn on T1 (AN first, cochlea second), T2 registered to T1."""
    still = head(506)
    images = {"T1": still["t1c"], "T2": moved(still["t2"], THERE)}
    affine = still["t1c"].affine
    heights = [float((affine @ [0, 0, k, 1])[2]) for k in range(still["t1c"].shape[2])]
    where = np.argwhere(still["label"].dataobj).mean(0)
    centre = (affine[:3, :3] @ where + affine[:3, 3]) * (-1, -1, 1)
    drawn = {"T1": {"AN": ball(centre, 13.0, heights), "cochlea": ball(centre + 20, 9.0, heights)}}
    source = download(tmp_path, 3, images, {**drawn, "T2": {"TV": ball(centre, 5, heights)}})
    outcomes = written(source, CARD, tmp_path / "output")
    t1c = nib.load(tmp_path / "output/images/vs_gk_3_t1c.nii.gz")
    canonical = nib.as_closest_canonical
    assert np.allclose(canonical(t1c).affine, canonical(still["t1c"]).affine, atol=1e-3)
    assert np.array_equal(canonical(t1c).dataobj, np.rint(canonical(still["t1c"]).dataobj))
    mask = nib.load(tmp_path / "output/labels/vs_gk_3.nii.gz")
    assert np.array_equal(mask.affine, t1c.affine)
    at = np.indices(mask.shape).reshape(3, -1).T @ mask.affine[:3, :3].T + mask.affine[:3, 3]
    expected = np.linalg.norm(at - centre * (-1, -1, 1), axis=1).reshape(mask.shape) < 13
    assert expected.sum() > 20 and (np.asarray(mask.dataobj) != expected).sum() <= 1  # a voxel on the edge
    t2 = nib.load(tmp_path / "output/images/vs_gk_3_t2.nii.gz")
    assert likeness(t2.dataobj, undone(images["T2"], THERE, t1c)) > 0.99
    repairs = {Path(target).name: outcome.repair for target, outcome in outcomes.items()}
    assert repairs["vs_gk_3.nii.gz"] == "mask drawn from the contours of structure AN (others: cochlea)"
    assert repairs["vs_gk_3_t1c.nii.gz"] == "DICOM series t1_mpr_tra_gk_v4 written as NIfTI"
    assert repairs["vs_gk_3_t2.nii.gz"].startswith("DICOM series t2_ci3d_tra_1.5mm_v1 written as NIfTI; resampled")


@pytest.mark.parametrize(("structure", "contours", "radius"), [("", TUMOUR, 0.9), ("COCH.*", COCHLEA, 0.5)])
def test_the_tumour_is_the_first_structure_unless_named(
    tmp_path: Path, structure: str, contours: list[np.ndarray], radius: float
) -> None:
    source = download(tmp_path, 1, IMAGES, STRUCTURES)
    written(source, with_options(only("t1c"), structure=structure), tmp_path / "output")
    assert np.array_equal(data(tmp_path / "output/labels/vs_gk_1.nii.gz"), inside(contours, radius, "T1"))


def test_t2_alone_has_the_mask_drawn_on_t2(tmp_path: Path) -> None:
    source = download(tmp_path, 1, IMAGES, STRUCTURES)
    outcomes = written(source, only("t2"), tmp_path / "output")
    assert sorted(Path(target).name for target in outcomes) == ["vs_gk_1.nii.gz", "vs_gk_1_t2.nii.gz"]
    assert "structure TV" in outcomes[str(tmp_path / "output/labels/vs_gk_1.nii.gz")].repair
    assert np.array_equal(data(tmp_path / "output/labels/vs_gk_1.nii.gz"), inside(ON_T2, 0.8, "T2"))
    assert np.array_equal(data(tmp_path / "output/images/vs_gk_1_t2.nii.gz"), IMAGES["T2"].dataobj)


def test_transforms_beside_dicom(tmp_path: Path) -> None:
    source = download(tmp_path, 1, IMAGES, STRUCTURES)
    path = itk_file(source / "registration_matrices/vs_gk_1_t2/inv_T2_LPS_to_T1_LPS.tfm", THERE)
    itk_file(source / "registration_matrices/vs_gk_2_t2/inv_T2_LPS_to_T1_LPS.tfm", np.eye(4))
    conversion = convert(CARD, source, tmp_path / "output")
    assert {item.target.name: item.transform for item in conversion.derived}["vs_gk_1_t2.nii.gz"] == path


def test_patients_without_image_or_contours(tmp_path: Path) -> None:
    download(tmp_path, 1, IMAGES, STRUCTURES)
    download(tmp_path, 2, IMAGES, {"T2": STRUCTURES["T2"]})
    source = download(tmp_path, 3, {"T1": IMAGES["T1"]}, STRUCTURES)
    dicom_series(source / "other", np.ones((3, 3, 3)), series="other", patient="SOMEONE")
    dicom_series(source / "scout", np.ones((3, 3, 3)), series="scout", patient="VS-SEG-001", description="localizer")
    conversion = convert(with_options(CARD, exclude={"vs_gk_9": "not there"}), source, tmp_path / "output")
    assert list(conversion.cases) == ["vs_gk_1"] and len(conversion.derived) == 3
    found = reasons(conversion)
    assert found["vs_gk_2"] == WITHOUT_MASK and found["vs_gk_3"] == "lacks t2"
    assert found["other/1-000.dcm"] == "its PatientID is not VS-SEG-<number>"
    assert found["scout/1-000.dcm"] == "neither t1_ nor t2_ in its SeriesDescription"


def test_of_two_t1_series_the_one_with_contours_is_used(tmp_path: Path) -> None:
    source = download(tmp_path, 1, IMAGES, STRUCTURES)
    dicom_series(
        source / "0-first", np.ones((8, 9, 10)), series="again", patient="VS-SEG-001", description="T1_mpr_tra again"
    )
    conversion = convert(CARD, source, tmp_path / "output")
    t1c = next(item for item in conversion.derived if item.target.name == "vs_gk_1_t1c.nii.gz")
    assert t1c.done == "DICOM series t1_mpr_tra_gk_v4 written as NIfTI"
    assert reasons(conversion)["VS-SEG-001 T1_mpr_tra again"] == "another T1 series of the patient is used"


@pytest.mark.parametrize("fault", ["unreadable", "no tumour", "slice missing", "contour elsewhere"])
def test_faults_are_left_to_the_writing(tmp_path: Path, fault: str) -> None:
    """The conversion goes on; the case fails when its files are made, and is listed with all other faults."""
    source = download(tmp_path, 1, IMAGES, STRUCTURES)
    path = next(path for path in source.rglob("1-1.dcm") if b"cochlea" in path.read_bytes())
    if fault == "unreadable":
        truncate(path, 0.6)
    elif fault == "no tumour":
        rtstruct(path, {"AN": []}, series="VS-SEG-001 T1", patient="VS-SEG-001")
    elif fault == "contour elsewhere":
        rtstruct(path, {"AN": [circle((0, 0, 40), 3)]}, series="VS-SEG-001 T1", patient="VS-SEG-001")
    else:
        next(source.rglob("*/1-004.dcm")).unlink()
    assert list(convert(CARD, source, tmp_path / "output").cases) == ["vs_gk_1"]
    found = {"unreadable": "structure set", "no tumour": "closed contours", "slice missing": "missing"}
    with pytest.raises(InputError, match=found.get(fault, "at slice")):
        written(source, CARD, tmp_path / "output")


def test_nifti_files_are_used_where_both_are_there(tmp_path: Path) -> None:
    download(tmp_path, 1, IMAGES, STRUCTURES)
    nifti(tmp_path, {2: "t1_refT1 t2_refT1 seg_refT1"}, OFFICIAL)
    assert list(convert(CARD, tmp_path, tmp_path / "output").cases) == ["vs_gk_2"]


def test_another_release(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="Vestibular-Schwannoma-SEG"):
        convert(CARD, tmp_path / "in", tmp_path / "output")


# ---------------------------------------------------------------------------------------------------------- end to end


def phantom_download(root: Path, number: int) -> Path:
    """A patient whose tumour is contoured on T1 around the phantom's own; no two have equal images."""
    still = head(506)
    affine = still["t1c"].affine
    heights = [float((affine @ [0, 0, k, 1])[2]) for k in range(still["t1c"].shape[2])]
    centre = (affine @ [*np.argwhere(still["label"].dataobj).mean(0), 1])[:3] * (-1, -1, 1)
    contours = ball(centre, 10, heights)
    images = {"T1": still["t1c"], "T2": moved(still["t2"], THERE)}
    brighter = {g: nib.Nifti1Image(i.get_fdata() * (1 + number / 1000), i.affine) for g, i in images.items()}
    return download(root, number, brighter, {"T1": {"TvT1": contours}, "T2": {"TV": contours}})


def test_a_download_from_end_to_end(workspace: Workspace, tmp_path: Path) -> None:
    """Patients of all three official parts, one with a damaged structure set; and one without any."""
    for number in (2, 190, 250):
        source = phantom_download(tmp_path, number)
    download(tmp_path, 4, IMAGES, {})
    itk_file(source / "registration_matrices/vs_gk_2_t2/inv_T2_LPS_to_T1_LPS.tfm", THERE)
    (drawn_on_t1,) = (
        path for path in source.rglob("1-1.dcm") if b"TvT1" in path.read_bytes() and "VS-SEG-190" in str(path)
    )
    truncate(drawn_on_t1, 0.6)
    quick = PreparationConfig(registration=QUICK)
    with pytest.raises(InputError, match=r"1 fault in 1 of 3 cases.*--exclude-faulty") as caught:
        prepare_dataset(workspace, CARD, source=source, preparation=quick)
    assert f"{drawn_on_t1}: found no readable structure set" in str(caught.value)
    block = prepare_dataset(workspace, CARD, source=source, preparation=replace(quick, exclude_faulty=True))
    assert list(block.cases) == ["vs_gk_2", "vs_gk_250"]
    assert all(case.modalities == ["t1c", "t2"] for case in block.cases.values())
    left_out = {one.what: one.reason for one in block.excluded}
    assert left_out.pop("vs_gk_190").startswith("faulty: ") and left_out.pop("vs_gk_4") == WITHOUT_MASK
    assert list(left_out.values()) == ["RTPLAN, neither image nor structure set"]
    assert len([one for one in block.repairs if one.repair == "mask drawn from the contours of structure TvT1"]) == 2
    moves = {one.repair.split("vs_gk_")[-1].split(" (")[0] for one in block.repairs if "resampled" in one.repair}
    assert moves >= {
        "2_t1c.nii.gz by the release's own transform inv_T2_LPS_to_T1_LPS.tfm",
        "250_t1c.nii.gz after rigid registration",
    }
    fold = load_splits(workspace, CARD).folds[0]
    assert (fold.train, fold.val, fold.test) == (["vs_gk_2"], [], ["vs_gk_250"])
    facts = load_integrity(workspace, CARD).cases
    assert all(3 <= one.label_voxels[1] <= 60 for one in facts.values())
