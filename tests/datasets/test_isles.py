"""ISLES 2022: four trees, FLAIR on another grid, three units of ADC, empty masks."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import PreparationConfig
from mvp_bench.datasets.geometry.derive import write_derived
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.schema import Exclusion
from mvp_bench.workspace import Workspace

from .layouts.isles import DWI_GRID, TREES, UNITS, isles, small_case
from .layouts.scans import QUICK, head, likeness, moved, movement, undone
from .releases import convert, reasons, shipped

CARD = shipped(503)


def data(path: str | Path | None) -> np.ndarray:
    return np.asanyarray(nib.load(str(path)).dataobj)


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("tree", TREES)
def test_every_tree_gives_the_same_cases(tmp_path: Path, tree: str, ending: str) -> None:
    source = isles(tmp_path / "in", tree, {1: small_case(1), 150: small_case(150, empty=True)}, ending)
    conversion = convert(CARD, source, tmp_path / "output")
    assert list(conversion.cases) == ["sub-strokecase0001_ses-0001", "sub-strokecase0150_ses-0001"]
    for number, (case_id, case) in zip((1, 150), conversion.cases.items(), strict=True):
        assert (case.patient, case.session, case.site) == (f"sub-strokecase{number:04d}", "0001", None)
        paths = {role: tmp_path / "in" / name for role, name in TREES[tree].items()}
        sources = {role: str(path).format(sub=case.patient, ses="ses-0001") + ending for role, path in paths.items()}
        assert list(case.images) == ["flair", "dwi", "adc"]
        assert case.label == sources["label"] and case.images["dwi"] == sources["dwi"]
        planned = {item.source: item for item in conversion.derived if item.target.name.startswith(case_id)}
        assert {str(path) for path in planned} == {sources["flair"], sources["adc"]}
        flair, adc = planned[Path(sources["flair"])], planned[Path(sources["adc"])]
        assert str(flair.grid) == sources["dwi"] and flair.align == "rigid" and not flair.companions
        assert adc.unit == "adc" and adc.grid is None
        assert case.images["flair"] == str(flair.target) and case.images["adc"] == str(adc.target)
    assert conversion.excluded == [] and conversion.repairs == []


def test_trees_side_by_side_are_one_copy(tmp_path: Path) -> None:
    """Identical copies are listed; the other spelling of FLAIR too."""
    for tree in ("zenodo", "grand-challenge"):
        isles(tmp_path / "in", tree, {1: small_case(1)})
    conversion = convert(CARD, tmp_path / "in", tmp_path / "output")
    assert list(conversion.cases) == ["sub-strokecase0001_ses-0001"]
    assert len(conversion.excluded) == 4
    assert sum("identical copy" in reason for reason in reasons(conversion).values()) == 3


def test_incomplete_cases(tmp_path: Path) -> None:
    cases = {number: small_case(number) for number in (1, 2, 3)}
    del cases[1]["adc"], cases[2]["label"]
    conversion = convert(CARD, isles(tmp_path / "in", "zenodo", cases), tmp_path / "output")
    assert list(conversion.cases) == ["sub-strokecase0003_ses-0001"]
    assert reasons(conversion) == {
        "sub-strokecase0001_ses-0001": "lacks adc",
        "sub-strokecase0002_ses-0001": "no mask (validation or test set, or not annotated)",
    }


def test_three_units_of_adc_become_one(tmp_path: Path) -> None:
    plain = small_case(1)["adc"]
    source = isles(tmp_path / "in", "zenodo", {n: small_case(1, unit) for n, unit in enumerate(UNITS, start=1)})
    conversion = convert(CARD, source, tmp_path / "output")
    adc = [write_derived(item)[0] for item in conversion.derived if item.unit]
    for outcome in adc:
        assert np.allclose(data(outcome.path), plain.get_fdata(), rtol=1e-5)
    assert [outcome.repair.split(" (")[0] for outcome in adc] == [
        "ADC brought from mm2/s to 1e-6 mm2/s",
        "ADC brought from 1e-3 mm2/s to 1e-6 mm2/s",
        "",
    ]
    assert adc[2].path == adc[2].source


def test_an_empty_mask_is_kept(tmp_path: Path) -> None:
    source = isles(tmp_path / "in", "zenodo", {1: small_case(1), 150: small_case(150, empty=True)})
    conversion = convert(CARD, source, tmp_path / "output")
    assert not data(conversion.cases["sub-strokecase0150_ses-0001"].label).any()


def test_flair_is_registered_to_dwi_and_the_mask_stays(tmp_path: Path) -> None:
    images = dict(head(503))
    there = movement((6, -5, 8), (7, -6, 5))
    flair = moved(images["flair"], there, orientation="PIR")
    source = isles(tmp_path / "in", "zenodo", {1: {**images, "flair": flair}})
    conversion = convert(CARD, source, tmp_path / "output")
    (item,) = [item for item in conversion.derived if item.grid]
    (outcome,) = write_derived(item, registration=QUICK)
    assert not outcome.refused and "after rigid registration (moved" in outcome.repair
    written = nib.load(str(outcome.path))
    assert written.shape == images["dwi"].shape and np.allclose(written.affine, images["dwi"].affine)
    assert likeness(data(outcome.path), undone(flair, there, images["dwi"])) > 0.99
    case = conversion.cases["sub-strokecase0001_ses-0001"]
    assert np.array_equal(data(case.label), images["label"].dataobj)


def test_the_papers_cases_follow_one_rule() -> None:
    """The 238 cases are those whose digits do not add up to 4, and its test list is part of them."""
    note = str(CARD.paper.note)
    lacks = [int(word) for word in note.split("Lacks ")[1].split(" (")[0].split()]
    test = [int(word) for word in note.split("Test: ")[1].split(";")[0].split()]
    assert lacks == [n for n in range(1, 251) if sum(map(int, str(n))) == 4]
    assert len(test) == 36 and len(set(test)) == 36 and not set(test) & set(lacks)
    assert CARD.paper.cases == 250 - len(lacks) == 202 + len(test)


def test_fixture_is_as_the_release() -> None:
    """DWI, ADC and mask on one grid, FLAIR on none of theirs."""
    case = small_case(1)
    assert all(np.array_equal(case[role].affine, DWI_GRID) for role in ("dwi", "adc", "label"))
    assert case["flair"].shape != case["dwi"].shape


def test_a_release_from_end_to_end(workspace: Workspace, tmp_path: Path) -> None:
    """Three units of ADC, FLAIR on another grid, an empty mask, and a case without ADC."""
    cases = {}
    for number, unit in ((1, "mm2/s"), (2, "1e-3 mm2/s"), (150, "1e-6 mm2/s"), (151, "1e-6 mm2/s")):
        images = dict(head(503, number % 3))
        adc = images["adc"]
        images["adc"] = nib.Nifti1Image((adc.get_fdata() * UNITS[unit]).astype(np.float32), adc.affine)
        images["flair"] = moved(images["flair"], movement((3, 4, -5), (4, 5, -3)))
        if number == 150:
            images["label"] = nib.Nifti1Image(np.zeros(adc.shape, np.uint8), adc.affine)
        cases[number] = images
    del cases[151]["adc"]
    source = isles(tmp_path / "in", "zenodo", cases)
    block = prepare_dataset(workspace, CARD, source=source, preparation=PreparationConfig(registration=QUICK))
    assert {name: (case.patient, case.modalities) for name, case in block.cases.items()} == {
        f"sub-strokecase{n:04d}_ses-0001": (f"sub-strokecase{n:04d}", ["flair", "dwi", "adc"]) for n in (1, 2, 150)
    }
    assert block.excluded == [Exclusion(what="sub-strokecase0151_ses-0001", reason="lacks adc")]
    folder, file = "sub-strokecase{0:04d}/ses-0001/", "sub-strokecase{0:04d}_ses-0001_"
    flair = {
        (folder + "anat/" + file + "FLAIR.nii.gz").format(n): (
            f"resampled linearly onto the grid of {file.format(n)}dwi.nii.gz after rigid registration"
        )
        for n in (1, 2, 150)
    }
    adc = {
        (folder + "dwi/" + file + "adc.nii.gz").format(n): f"ADC brought from {unit} to 1e-6 mm2/s"
        for n, unit in ((1, "mm2/s"), (2, "1e-3 mm2/s"))
    }
    assert {one.what: one.repair.split(" (")[0] for one in block.repairs} == flair | adc
    facts = load_integrity(workspace, CARD).cases
    assert {name: bool(one.label_voxels) for name, one in facts.items()} == {
        f"sub-strokecase{n:04d}_ses-0001": n != 150 for n in (1, 2, 150)
    }
    assert all(200 < one.files["adc"].maximum < 20_000 for one in facts.values())
    assert all(one.files["flair"].shape == one.files["dwi"].shape for one in facts.values())
