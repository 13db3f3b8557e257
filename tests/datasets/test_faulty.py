"""Faulty cases and files that cannot be made: all in one message, or left out and listed; and settings that stick."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mvp_bench.config.groups import PhantomConfig, PreparationConfig
from mvp_bench.datasets.geometry.derive import Derived, TargetOutcome
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.journal import STAGING, Journal
from mvp_bench.datasets.preparation import making
from mvp_bench.datasets.preparation.making import make_cases
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import is_prepared, load_splits
from mvp_bench.datasets.reading.conversion import Conversion
from mvp_bench.datasets.schema import Card, Case
from mvp_bench.errors import InputError
from mvp_bench.parallel import worker_pool
from mvp_bench.workspace import Workspace

from .releases import SHAPE, brats_case, brats_release, mask, save, shipped, truncate, with_options

EXCLUDE = PreparationConfig(exclude_faulty=True)


def file_of(source: Path, number: int, suffix: str) -> Path:
    case = f"{source.name.split('2023-')[1][:3]}-{number:05d}-000"
    return source / f"BraTS-{case}" / f"BraTS-{case}-{suffix}.nii.gz"


def test_one_message_shows_ten_faults_and_counts_all(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path)
    for number in (1, 2, 4):
        for suffix in ("t1n", "t1c", "t2w", "t2f"):
            truncate(file_of(source, number, suffix))
    with pytest.raises(InputError) as caught:
        prepare_dataset(workspace, shipped(501), source=source)
    assert caught.value.found == "12 faults in 3 of 6 cases"
    ways, *shown = caught.value.fix.splitlines()
    assert "--exclude-faulty" in ways and "converter_options.exclude" in ways
    assert len(shown) == 11 and "and 2 more" in shown[-1]
    assert all("truncated" in line and ".nii.gz: found" in line for line in shown[:-1])
    assert not list(workspace.datasets.iterdir()), "nothing is left behind"


def test_faulty_cases_are_left_out_if_asked(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path, cases=8)
    truncate(file_of(source, 1, "t2w"))
    save(file_of(source, 3, "t1n"), np.full(SHAPE, np.nan, np.float32))
    block = prepare_dataset(workspace, shipped(501), source=source, preparation=EXCLUDE)
    assert len(block.cases) == 6 and len(load_splits(workspace, shipped(501)).patients) == 6
    reasons = {item.what: item.reason for item in block.excluded}
    assert list(reasons) == ["BraTS-PED-00001-000", "BraTS-PED-00003-000"]
    assert "truncated" in reasons["BraTS-PED-00001-000"] and "NaN" in reasons["BraTS-PED-00003-000"]
    report = load_integrity(workspace, shipped(501))
    assert report.excluded == block.excluded and list(report.cases) == list(block.cases)


def test_regions_are_sought_in_what_is_left(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path)
    for number in range(6):
        mask(file_of(source, number, "seg"), (1, 2) if number else (1, 2, 3))
    prepare_dataset(workspace, shipped(501), source=source)
    truncate(file_of(source, 0, "t1n"))
    with pytest.raises(InputError, match=r"1 region that none of 5 cases has(?s:.*)region ET"):
        prepare_dataset(workspace, shipped(501), source=source, preparation=EXCLUDE)


def test_no_case_left(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path, cases=3)
    for number in range(3):
        truncate(file_of(source, number, "t1n"))
    with pytest.raises(InputError, match=r"no usable case .*truncated"):
        prepare_dataset(workspace, shipped(501), source=source, preparation=EXCLUDE)


# ---------------------------------------------------------------------------------------------------- files to be made


@pytest.fixture
def masks_to_make(tmp_path: Path) -> Path:
    """Four scans of UPENN-GBM, each with a mask that is written anew."""
    top = tmp_path / "UPENN-GBM" / "NIfTI-files"
    for number in (2, 3, 4, 5):
        scan = f"UPENN-GBM-0000{number}_11"
        brats_case(top / "images_structural", scan, "_T1 _T1GD _T2 _FLAIR", None)
        mask(top / "images_segm" / f"{scan}_segm.nii.gz", (1, 2, 4))
    return top


def test_a_file_that_cannot_be_made_is_a_fault_of_its_case(workspace: Workspace, masks_to_make: Path) -> None:
    mask(masks_to_make / "images_segm" / "UPENN-GBM-00003_11_segm.nii.gz", (1, 2.5, 4), dtype=np.float32)
    with pytest.raises(InputError, match=r"1 fault in 1 of 4 cases(?s:.*)UPENN-GBM-00003_11_segm.*2\.5"):
        prepare_dataset(workspace, shipped(505), source=masks_to_make)
    block = prepare_dataset(workspace, shipped(505), source=masks_to_make, preparation=EXCLUDE)
    assert len(block.cases) == 3 and [item.what for item in block.excluded] == ["UPENN-GBM-00003_11"]


def fake(outcome: Callable[[Derived], TargetOutcome]) -> Callable[..., list[TargetOutcome]]:
    return lambda item, *_: [outcome(item)]


@pytest.mark.parametrize("allowed", [True, False])
def test_an_image_that_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool) -> None:
    """The case goes on without the image where the card allows it, and is left out elsewhere."""
    target = tmp_path / "output" / "images" / "a_t2.nii.gz"
    case = Case(patient="a", images={"t1": str(tmp_path / "t1.nii.gz"), "t2": str(target)})
    derived = Derived(tmp_path / "t2.nii.gz", target, "image", grid=tmp_path / "t1.nii.gz")
    monkeypatch.setattr(
        making,
        "write_derived",
        fake(lambda d: TargetOutcome(str(d.source), str(d.target), None, "", "worse than before")),
    )
    card = with_options(shipped(521), allow_missing=allowed)
    made = make(Conversion({"a": case}, derived=[derived]), card, tmp_path)
    (left_out,) = made.excluded
    if allowed:
        assert made.cases["a"].images == {"t1": case.images["t1"], "t2": None}
        assert (left_out.what, left_out.reason) == ("t2.nii.gz", "worse than before")
    else:
        assert not made.cases and (left_out.what, left_out.reason) == ("a", "lacks t2: worse than before")


def test_outcomes_become_paths_repairs_and_warnings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(item: Derived) -> TargetOutcome:
        kept = item.source.name == "t1.nii.gz"
        source, target = str(item.source), str(item.target)
        return TargetOutcome(
            source, target, source if kept else target, "" if kept else "moved", "" if kept else "refused"
        )

    targets = {m: tmp_path / "output" / f"{m}.nii.gz" for m in ("t1", "t2")}
    case = Case(patient="a", images={m: str(path) for m, path in targets.items()})
    derived = [Derived(tmp_path / f"{m}.nii.gz", path, "image") for m, path in targets.items()]
    monkeypatch.setattr(making, "write_derived", fake(outcome))
    made = make(Conversion({"a": case}, derived=derived), shipped(521), tmp_path)
    assert made.cases["a"].images == {"t1": str(tmp_path / "t1.nii.gz"), "t2": str(targets["t2"])}
    assert [(item.what, item.repair) for item in made.repairs] == [("t2.nii.gz", "moved")]
    assert made.warnings == {"a": ["t2.nii.gz: refused"]} and not made.excluded


def test_lower_steps_come_first_and_their_faults_are_handed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def write(item: Derived, *_: object) -> list[TargetOutcome]:
        if item.target.name == "broken":
            raise InputError(item.source, found="rubbish", expected="a scan")
        done.append(item.target.name)
        return [TargetOutcome(str(item.source), str(item.target), str(item.target))]

    derived = [
        Derived(tmp_path / "broken", tmp_path / "needs_broken", "image", step=2),
        Derived(tmp_path / "a", tmp_path / "b", "image", step=1),
        Derived(tmp_path / "source", tmp_path / "a", "image"),
        Derived(tmp_path / "other", tmp_path / "broken", "image"),
    ]
    case = Case(patient="p", images={"t1": str(tmp_path / "needs_broken")})
    monkeypatch.setattr(making, "write_derived", write)
    made = make(Conversion({"p": case}, derived=derived), shipped(521), tmp_path)
    assert done == ["a", "b"]
    assert made.failed[str(tmp_path / "needs_broken")] == f"{tmp_path / 'other'}: found rubbish; expected a scan"


def make(conversion: Conversion, card: Card, source: Path) -> making.MadeCases:
    with worker_pool(1) as pool:
        return make_cases(conversion, card, source, PreparationConfig(), pool, Journal())


def test_files_that_were_made_are_not_made_again(
    workspace: Workspace, masks_to_make: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    write = making.write_derived

    def interrupted(item: Derived, *arguments: object) -> list[TargetOutcome]:
        calls.append(item.target.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return write(item, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(making, "write_derived", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_dataset(workspace, shipped(505), source=masks_to_make)
    staging = workspace.dataset("Dataset505_UPENN-GBM") / STAGING
    assert staging.is_dir() and not is_prepared(workspace, shipped(505))
    block = prepare_dataset(workspace, shipped(505), source=masks_to_make)
    assert len(calls) == 3 + 2 and len(set(calls)) == 4, "two were finished"
    assert len(block.repairs) == 4 and not staging.exists()


def test_another_request_starts_anew(
    workspace: Workspace, masks_to_make: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mvp_bench.datasets.preparation.acceptance.find_duplicates", die)
        with pytest.raises(KeyboardInterrupt):
            prepare_dataset(workspace, shipped(505), source=masks_to_make)
    calls: list[str] = []
    write = making.write_derived
    monkeypatch.setattr(making, "write_derived", lambda item, *a: calls.append(item.target.name) or write(item, *a))
    prepare_dataset(workspace, shipped(505), source=masks_to_make, seed=7)
    assert len(calls) == 4


# ------------------------------------------------------------------------------------------------------------- settings


def test_settings_stay_until_others_are_named(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = brats_release(tmp_path, cases=8)
    folds = PreparationConfig(split="k_fold", k=4)
    block = prepare_dataset(workspace, shipped(501), source=source, seed=3, preparation=folds)
    assert len(load_splits(workspace, shipped(501)).folds) == 4
    with monkeypatch.context() as patch:
        patch.setattr("mvp_bench.datasets.prepare._prepare", None)  # would fail if called
        assert prepare_dataset(workspace, shipped(501), source=source, seed=3) == block
        assert prepare_dataset(workspace, shipped(501), preparation=folds) == block
    prepare_dataset(workspace, shipped(501), preparation=PreparationConfig(split="leave_one_out"))
    splits = load_splits(workspace, shipped(501))
    assert len(splits.folds) == 8 and splits.seed == 3, "from the same release, with the same seed"


def test_a_phantom_is_not_prepared_again_by_who_does_not_care(workspace: Workspace) -> None:
    size = PhantomConfig(spacing_mm=6, segmentation_patients=5)
    folds = PreparationConfig(split="k_fold", k=5)
    block = prepare_dataset(workspace, shipped(501), phantom=size, preparation=folds)
    assert prepare_dataset(workspace, shipped(501), phantom=size) == block
    assert len(load_splits(workspace, shipped(501)).folds) == 5


@pytest.mark.parametrize(
    "split", [{"scheme": "official", "official": {"test": ["x"]}}, {"scheme": "file", "file": "s"}]
)
def test_a_phantom_is_in_no_official_list(workspace: Workspace, split: dict) -> None:
    card = shipped(501, split=split)
    prepare_dataset(workspace, card, phantom=PhantomConfig(spacing_mm=6, segmentation_patients=5))
    assert load_splits(workspace, card).scheme == "ratio"


def test_a_changed_split_file_is_another_request(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path)
    card = shipped(501, split={"scheme": "file", "file": "mine.json"})
    names = sorted(path.name for path in source.iterdir())
    tests = []
    for test in (names[:2], names[4:]):
        parts = {"training": [n for n in names if n not in test], "validation": [], "test": test}
        write_split(workspace.datasets / "splits" / "mine.json", parts)
        prepare_dataset(workspace, card, source=source)
        tests.append(load_splits(workspace, card).folds[0].test)
    assert tests == [names[:2], names[4:]]


def write_split(path: Path, parts: dict[str, list[str]]) -> None:
    entries = {part: [{"image": [f"{n}/{n}-t1n.nii.gz"], "label": ""} for n in names] for part, names in parts.items()}
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(entries))
