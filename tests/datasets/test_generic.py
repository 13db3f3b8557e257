"""The generic converter: patterns, tables, masks, grids; and the shipped cards that rely on it."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.datasets.geometry.derive import write_derived
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError

from .releases import SHAPE, convert, image, mask, reasons, save, with_options

SMALL = np.diag([2.0, 2, 2, 1])


def card(kind: str = "segmentation", **options: object) -> Card:
    return Card.model_validate(
        {
            "id": 700,
            "name": "Mine",
            "title": "mine",
            "kind": kind,
            "modalities": ["t1", "flair"],
            "labels": {"background": 0, "lesion": 1} if kind == "segmentation" else {},
            "regions": {"lesion": [1]} if kind == "segmentation" else {},
            "classes": ["a", "b"] if kind == "classification" else [],
            **{name: "none" for name in ("patient_rule", "licence", "access", "url", "citation")},
            "converter": "generic",
            "converter_options": {
                "images": {"t1": "(?P<patient>p\\d+)/t1", "flair": "(?P<patient>p\\d+)/flair"},
                **({"label": "(?P<patient>p\\d+)/seg"} if kind == "segmentation" else {}),
                **options,
            },
        }
    )


def patients(root: Path, count: int = 2) -> Path:
    for number in range(count):
        folder = root / "in" / f"p{number}"
        image(folder / "t1.nii.gz")
        image(folder / "flair.nii.gz")
        mask(folder / "seg.nii.gz", (1,))
    return root / "in"


def test_patterns_match_whole_names_from_a_folder_border(tmp_path: Path) -> None:
    source = patients(tmp_path)
    image(source / "p0" / "t1_1mm.nii.gz")
    image(source / "xp0" / "t1.nii.gz")
    conversion = convert(card(), source)
    assert list(conversion.cases) == ["p0", "p1"]
    assert set(reasons(conversion)) == {"in/p0/t1_1mm", "in/xp0/t1"}


def test_pointing_one_folder_lower_still_works(tmp_path: Path) -> None:
    source = patients(tmp_path, 1)
    assert list(convert(card(), source / "p0").cases) == ["p0"]


def test_natural_order_and_alternatives(tmp_path: Path) -> None:
    for run in (10, 2):
        image(tmp_path / "in" / f"p0_run-{run}_t1.nii.gz")
    image(tmp_path / "in" / "p0_other_t1.nii.gz")
    image(tmp_path / "in" / "p1_other_t1.nii.gz")
    mine = card("pretraining", images={"t1": ["(?P<patient>p\\d)_run-\\d+_t1", "(?P<patient>p\\d)_other_t1"]})
    conversion = convert(mine, tmp_path / "in")
    assert str(conversion.cases["p0"].images["t1"]).endswith("run-2_t1.nii.gz")
    assert str(conversion.cases["p1"].images["t1"]).endswith("other_t1.nii.gz")
    assert set(reasons(conversion)) == {"in/p0_run-10_t1", "in/p0_other_t1"}


def test_one_name_for_two_modalities_is_an_error(tmp_path: Path) -> None:
    mine = card(images={"t1": "(?P<patient>p\\d+)/t1", "flair": "(?P<patient>p\\d+)/t."})
    with pytest.raises(InputError, match="t1 and flair"):
        convert(mine, patients(tmp_path))


def test_modality_that_the_card_does_not_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images\.dwi"):
        convert(card(images={"dwi": "(?P<patient>p)"}), patients(tmp_path))


@pytest.mark.parametrize(("option", "value"), [("case_id", "{nothing}"), ("case_id", "a b"), ("patient_id", "{x}")])
def test_wrong_id_formats(tmp_path: Path, option: str, value: str) -> None:
    with pytest.raises(InputError, match=option):
        convert(card(**{option: value}), patients(tmp_path))


def test_brain_mask_makes_the_background_zero(tmp_path: Path) -> None:
    source = patients(tmp_path)
    for number in range(2):
        data = np.zeros(SHAPE)
        data[2:6, 2:6, 2:6] = 0.99999997
        save(source / f"p{number}" / "mask.nii.gz", data)
    image(source / "p0" / "t1.nii.gz", fill=-3.0)
    conversion = convert(card(mask="(?P<patient>p\\d+)/mask"), source, tmp_path / "output")
    assert len(conversion.derived) == 4
    outcomes = [outcome for item in conversion.derived for outcome in write_derived(item)]
    assert all("outside the brain mask mask.nii.gz" in outcome.repair for outcome in outcomes)
    written = np.asanyarray(nib.load(str(conversion.cases["p0"].images["t1"])).dataobj)
    assert (written[2:6, 2:6, 2:6] == -3).all() and np.count_nonzero(written) == 64


def test_brain_mask_on_another_grid(tmp_path: Path) -> None:
    source = patients(tmp_path, 1)
    save(source / "p0" / "mask.nii.gz", np.ones(SHAPE, np.uint8), SMALL)
    conversion = convert(card(mask="(?P<patient>p\\d+)/mask"), source)
    with pytest.raises(InputError, match=r"mask\.nii\.gz.*voxels of \(2, 2, 2\)"):
        write_derived(conversion.derived[0])


def test_reference_grid(tmp_path: Path) -> None:
    """A ramp in world coordinates is the same ramp after resampling; outside the field of view it is 0."""
    source = patients(tmp_path, 1)
    affine = np.array([[0, 0, 2.0, -3], [2, 0, 0, -3], [0, -2, 0, 9], [0, 0, 0, 1]])
    index = np.stack(np.meshgrid(*map(np.arange, (8, 8, 8)), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    save(source / "p0" / "flair.nii.gz", (50 + world.sum(-1)).astype(np.float32), affine)
    image(source / "p0" / "t1.nii.gz", np.eye(4))
    conversion = convert(card(reference_grid="t1"), source, tmp_path / "output")
    (item,) = (item for item in conversion.derived if item.kind == "image")
    (outcome,) = write_derived(item)
    assert item.source.name == "flair.nii.gz" and "by the headers, not registered" in outcome.repair
    written = nib.load(str(conversion.cases["p0"].images["flair"]))
    data = np.asanyarray(written.dataobj)
    assert written.shape == SHAPE and np.array_equal(written.affine, np.eye(4))
    assert data[1, 2, 3] == pytest.approx(56, abs=1e-4) and data[4, 5, 6] == pytest.approx(65, abs=1e-4)
    assert data[7, 8, 9] == pytest.approx(74, abs=1e-4)
    wrong = card(reference_grid="adc")
    with pytest.raises(InputError, match="reference_grid"):
        convert(wrong, source)


def test_class_from_the_path(tmp_path: Path) -> None:
    for number, group in enumerate(("Ill", "Well", "Unknown")):
        image(tmp_path / "in" / group / f"p{number}.nii.gz")
    image(tmp_path / "in" / "p9.nii.gz")
    pattern = "(?:(?P<class>Ill|Well|Unknown)/)?(?P<patient>p\\d)"
    mine = card("classification", images={"t1": pattern}, class_map={"Ill": "a", "Well": "b"}, allow_missing=True)
    conversion = convert(mine, tmp_path / "in")
    assert {name: case.class_name for name, case in conversion.cases.items()} == {"p0": "a", "p1": "b"}
    assert "class_map" in reasons(conversion)["p2"] and "names no class" in reasons(conversion)["p9"]


def test_one_case_per_patient(tmp_path: Path) -> None:
    for patient, day in (("p0", 9), ("p0", 10), ("p1", 3)):
        image(tmp_path / "in" / patient / f"day{day}" / "t1.nii.gz")
    pattern = "(?P<patient>p\\d)/day(?P<session>\\d+)/t1"
    options = {"images": {"t1": pattern}, "case_id": "{patient}_{session}", "one_case_per_patient": True}
    conversion = convert(card("pretraining", **options), tmp_path / "in")
    assert list(conversion.cases) == ["p0_9", "p1_3"]
    assert reasons(conversion) == {"p0_10": "another session or processing of patient p0; p0_9 is kept"}


def test_allowed_missing_in_own_card(tmp_path: Path) -> None:
    source = patients(tmp_path)
    (source / "p0" / "flair.nii.gz").unlink()
    assert reasons(convert(card(), source)) == {"p0": "lacks flair"}
    assert len(convert(with_options(card(), allow_missing=True), source).cases) == 2
