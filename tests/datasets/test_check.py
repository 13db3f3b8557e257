"""mvp_prepare --check: what changed, broke or turned up twice since the preparation."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.integrity.check import check_prepared
from mvp_bench.datasets.integrity.report import Integrity, load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.progress import console
from mvp_bench.workspace import Workspace

from .releases import brats_release, image, save, shipped, truncate


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return brats_release(tmp_path)


@pytest.fixture
def card(workspace: Workspace, source: Path) -> Card:
    prepare_dataset(workspace, shipped(501), source=source)
    return shipped(501)


def check(workspace: Workspace, *cards: Card) -> tuple[bool, str]:
    """Whether all is well, and what was printed."""
    with console.capture() as capture:
        result = check_prepared(workspace, cards, 1, CheckConfig())
    return result, capture.get()


def one_fault(report: Integrity, case: str) -> str:
    found = [(name, fault) for name, one in report.cases.items() for fault in one.faults]
    assert [name for name, _ in found] == [case], found
    return found[0][1]


def file_of(source: Path, number: int, suffix: str) -> Path:
    case = f"BraTS-PED-{number:05d}-000"
    return source / case / f"{case}-{suffix}.nii.gz"


def test_nothing_changed(workspace: Workspace, card: Card) -> None:
    before = load_integrity(workspace, card)
    well, text = check(workspace, card)
    assert well and "Dataset501_BraTS2023-PED" in text and "faults" in text
    assert load_integrity(workspace, card) == before


def test_a_changed_voxel_is_found_every_time(workspace: Workspace, card: Card, source: Path) -> None:
    path = file_of(source, 2, "t2w")
    data = np.asanyarray(nib.load(path).dataobj).copy()
    data[4, 4, 4] += 1
    save(path, data)
    before = load_integrity(workspace, card).cases["BraTS-PED-00002-000"].files["t2"]
    for _ in range(2):
        well, text = check(workspace, card)
        report = load_integrity(workspace, card)
        assert not well and "content changed since the preparation" in one_fault(report, "BraTS-PED-00002-000")
        assert path.name in text.replace("\n", "")
        assert report.cases["BraTS-PED-00002-000"].files["t2"] == before, "what was prepared stays on record"


def test_a_truncated_and_a_missing_file(workspace: Workspace, card: Card, source: Path) -> None:
    truncate(file_of(source, 1, "t1c"))
    assert not check(workspace, card)[0]
    assert "truncated" in one_fault(load_integrity(workspace, card), "BraTS-PED-00001-000")
    file_of(source, 1, "t1c").unlink()
    assert not check(workspace, card)[0]
    assert "No such file" in one_fault(load_integrity(workspace, card), "BraTS-PED-00001-000")


def test_a_mended_file_is_well_again(workspace: Workspace, card: Card, source: Path) -> None:
    path = file_of(source, 1, "t1c")
    content = path.read_bytes()
    truncate(path)
    assert not check(workspace, card)[0]
    path.write_bytes(content)
    assert check(workspace, card)[0]


def test_without_an_earlier_report(workspace: Workspace, card: Card) -> None:
    path = workspace.dataset(card.dataset_name) / "integrity.json"
    before = load_integrity(workspace, card).cases
    path.unlink()
    assert check(workspace, card)[0]
    assert load_integrity(workspace, card).cases == before


def test_a_dataset_that_is_not_prepared(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="not prepared"):
        check(workspace, shipped(501))


def turned(path: Path, codes: str = "ASR") -> nib.Nifti1Image:
    """The same scan, stored in another orientation."""
    original = nib.load(path)
    names = (nib.aff2axcodes(original.affine), codes)
    return original.as_reoriented(nib.orientations.ornt_transform(*map(nib.orientations.axcodes2ornt, names)))


def test_equal_voxels_in_two_datasets(workspace: Workspace, source: Path, tmp_path: Path) -> None:
    """The copy has another orientation, type and name; only the voxels tell."""
    twin = file_of(source, 3, "t1n")
    whole = np.rint(np.asanyarray(nib.load(twin).dataobj))
    save(twin, whole)
    other = brats_release(tmp_path / "other", "MET")
    folder = other / "BraTS-MET-00001-000"
    save(folder / f"{folder.name}-t2f.nii.gz", whole.astype(np.int16))
    for path in folder.iterdir():
        nib.save(turned(path), path)
    prepare_dataset(workspace, shipped(501), source=source)
    assert not load_integrity(workspace, shipped(501)).duplicates
    prepare_dataset(workspace, shipped(502), source=other)
    report = load_integrity(workspace, shipped(502))
    (listed,) = report.duplicates
    assert "BraTS-MET-00001-000 (flair" in listed and "Dataset501_BraTS2023-PED BraTS-PED-00003-000 (t1)" in listed
    assert check(workspace, shipped(501), shipped(502))[0], "a warning, not a fault"
    report = load_integrity(workspace, shipped(501))
    assert len(report.duplicates) == 1
    (warning,) = [w for w in report.cases["BraTS-PED-00003-000"].warnings if "voxels as" in w]
    assert "Dataset502_BraTS2023-MET" in warning


def test_duplicates_within_a_task_and_a_pretraining_set(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path, "SSA")
    scans = [source / f"BraTS-SSA-0000{n}-000" / f"BraTS-SSA-0000{n}-000-t1n.nii.gz" for n in (1, 2)]
    scans[1].write_bytes(scans[0].read_bytes())
    prepare_dataset(workspace, shipped(522), source=source)
    report = load_integrity(workspace, shipped(522))
    assert len(report.duplicates) == 1
    assert [n for n, c in report.cases.items() if any("the same voxels as" in w for w in c.warnings)] == [
        "BraTS-SSA-00001-000",
        "BraTS-SSA-00002-000",
    ]
    task = brats_release(tmp_path, "PED")
    image(file_of(task, 1, "t1n"))
    file_of(task, 2, "t1n").write_bytes(file_of(task, 1, "t1n").read_bytes())
    with pytest.raises(InputError) as caught:
        prepare_dataset(workspace, shipped(501), source=task)
    assert caught.value.found == "2 faults in 2 of 6 cases"
    assert "patients BraTS-PED-00001 and BraTS-PED-00002 count as two" in caught.value.fix
