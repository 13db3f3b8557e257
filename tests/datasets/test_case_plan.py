"""Which files of a case are planned to be made anew, and that a plan carried out gives one grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mvp_bench.datasets.geometry.derive import TargetOutcome, write_derived
from mvp_bench.datasets.geometry.volumes import grid_difference, read_grid, read_volume
from mvp_bench.datasets.reading.case_plan import CasePlan, plan_case
from mvp_bench.datasets.reading.conversion import ConverterOptions, Found, ImageFile
from mvp_bench.datasets.schema import Case

from .releases import SRI24, image, mask, shipped, truncate

SMALL = np.diag([2.0, 2, 2, 1])


def shifted(*mm: float) -> np.ndarray:
    affine = SRI24.copy()
    affine[:3, 3] += mm
    return affine


def plan(folder: Path, files: dict[str, Path], card_id: int = 524, **options: Any) -> CasePlan:
    """Of a case whose files lie anywhere."""
    found = {role: Found(ImageFile(path, path.name), role, {}) for role, path in files.items()}
    images = {role: str(path) for role, path in files.items() if role not in ("label", "mask")}
    label = str(files["label"]) if "label" in files else None
    case = Case(patient="p", images=images, label=label)  # type: ignore[arg-type]
    return plan_case("p", case, found, {}, ConverterOptions(**options), shipped(card_id), folder / "output")


def carried_out(planned: CasePlan) -> dict[str, TargetOutcome]:
    outcomes = [o for item in sorted(planned.derived, key=lambda item: item.step) for o in write_derived(item)]
    return {Path(outcome.target).name: outcome for outcome in outcomes}


def test_a_case_on_one_grid_needs_nothing(tmp_path: Path) -> None:
    files = {role: image(tmp_path / f"{role}.nii.gz") for role in ("t1", "t2", "adc")}
    files["label"] = mask(tmp_path / "seg.nii.gz")
    assert plan(tmp_path, files).derived == []
    assert plan(tmp_path, files, reference_grid="t1", align="rigid").derived == []


def test_drift_is_repaired_towards_the_mask(tmp_path: Path) -> None:
    files = {
        "t1": image(tmp_path / "t1.nii.gz"),
        "t2": image(tmp_path / "t2.nii.gz", shifted(0.3, 0, 0)),
        "flair": image(tmp_path / "flair.nii.gz", shifted(3, 0, 0)),
        "label": mask(tmp_path / "seg.nii.gz"),
    }
    planned = plan(tmp_path, files)
    assert {item.source.name: item.header for item in planned.derived} == {
        "t2.nii.gz": files["label"],
        "flair.nii.gz": files["label"],
    }
    outcomes = carried_out(planned)
    assert outcomes["p_t2.nii.gz"].path == str(tmp_path / "output" / "images" / "p_t2.nii.gz")
    assert "origin" in outcomes["p_t2.nii.gz"].repair
    assert outcomes["p_flair.nii.gz"] == TargetOutcome(  # too far: left to the check
        str(files["flair"]), str(tmp_path / "output" / "images" / "p_flair.nii.gz"), str(files["flair"])
    )
    repaired = carried_out(plan(tmp_path, files, repair_origin=True))["p_flair.nii.gz"]
    assert "off by 3 mm, 3 voxels" in repaired.repair
    assert grid_difference(read_grid(Path(str(repaired.path))), read_grid(files["label"])) == ""


def test_images_come_to_the_reference_and_its_mask_is_not_touched(tmp_path: Path) -> None:
    files = {
        "dwi": image(tmp_path / "dwi.nii.gz"),
        "flair": image(tmp_path / "flair.nii.gz", SMALL, (12, 9, 7)),
        "label": mask(tmp_path / "msk.nii.gz", (1,)),
    }
    planned = plan(tmp_path, files, reference_grid="dwi")
    (derived,) = planned.derived
    assert (derived.grid, derived.align, derived.header) == (files["dwi"], "header", None)
    assert planned.case.label == str(files["label"])
    assert planned.case.images["flair"] == str(derived.target) and planned.case.images["dwi"] == str(files["dwi"])
    assert plan(tmp_path, files).derived == []  # another grid, and the card names none: left to the check


def test_a_mask_on_another_grid_is_left_to_the_check(tmp_path: Path) -> None:
    files = {"t1": image(tmp_path / "t1.nii.gz", SMALL, (12, 9, 7)), "label": mask(tmp_path / "seg.nii.gz")}
    assert plan(tmp_path, files, reference_grid="t1").derived == []


def test_one_registration_moves_what_was_taken_together(tmp_path: Path) -> None:
    files = {"t1": image(tmp_path / "t1.nii.gz")}
    files |= {role: image(tmp_path / f"{role}.nii.gz", SMALL, (12, 9, 7)) for role in ("t2", "pd", "mra")}
    options = {"reference_grid": "t1", "align": "rigid"}
    planned = plan(tmp_path, files, 525, **options, align_together=[["t2", "pd"]])
    by_source = {item.source.name: item for item in planned.derived}
    assert set(by_source) == {"t2.nii.gz", "mra.nii.gz"} and {i.align for i in by_source.values()} == {"rigid"}
    assert by_source["t2.nii.gz"].companions == ((files["pd"], tmp_path / "output" / "images" / "p_pd.nii.gz"),)
    assert planned.case.images["pd"] == str(tmp_path / "output" / "images" / "p_pd.nii.gz")
    alone = plan(tmp_path, files, 525, **options)
    assert len(alone.derived) == 3 and not any(item.companions for item in alone.derived)
    with_reference = plan(tmp_path, files, 525, **options, align_together=[["t1", "mra"]])
    assert {item.source.name: item.align for item in with_reference.derived} == {
        "t2.nii.gz": "rigid",
        "pd.nii.gz": "rigid",
        "mra.nii.gz": "header",
    }


def test_a_companion_of_another_unit_is_made_first(tmp_path: Path) -> None:
    files = {"flair": image(tmp_path / "flair.nii.gz")}
    files |= {role: image(tmp_path / f"{role}.nii.gz", SMALL, (12, 9, 7), fill=0.9) for role in ("dwi", "adc")}
    planned = plan(
        tmp_path, files, reference_grid="flair", align="rigid", align_together=[["dwi", "adc"]], adc_unit=True
    )
    first, second = sorted(planned.derived, key=lambda item: item.step)
    assert (first.step, second.step) == (0, 1) and first.unit == "adc"
    assert first.target == tmp_path / "output" / "work" / "p_adc.nii.gz" and second.companions[0][0] == first.target
    write_derived(first)
    assert np.allclose(read_volume(first.target).data, 900)


def test_unreadable_headers_are_left_to_the_check(tmp_path: Path) -> None:
    files = {
        "t1": image(tmp_path / "t1.nii.gz"),
        "t2": truncate(image(tmp_path / "t2.nii.gz"), 0.01),
        "adc": image(tmp_path / "adc.nii.gz", SMALL),
    }
    planned = plan(tmp_path, files, reference_grid="t1", adc_unit=True)
    assert [item.source.name for item in planned.derived] == ["adc.nii.gz"]
    assert planned.case.images["t2"] == str(files["t2"])
    files["t1"] = truncate(files["t1"], 0.01)
    assert plan(tmp_path, files, reference_grid="t1").derived == []
