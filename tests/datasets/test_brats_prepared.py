"""Releases of the BraTS family through the whole preparation: label values, repaired headers, faults, exclusions."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import PreparationConfig
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.schema import DatasetBlock
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .layouts import brats as trees
from .layouts.brats import NO_MASK, OLD, challenge, exam
from .releases import SRI24, mask, shipped, truncate

GO_ON = PreparationConfig(exclude_faulty=True)


def excluded(block: DatasetBlock) -> dict[str, str]:
    return {item.what: item.reason for item in block.excluded}


def repairs(block: DatasetBlock) -> dict[str, str]:
    return {item.what: item.repair for item in block.repairs}


def label_voxels(workspace: Workspace, dataset: int) -> dict[str, dict[int, int]]:
    return {name: facts.label_voxels for name, facts in load_integrity(workspace, shipped(dataset)).cases.items()}


def damaged_met(root: Path) -> Path:
    trees.met(root)
    trees.met_faults(root)
    return root


def test_met_truncated_file_is_named_with_the_way_out(workspace: Workspace, tmp_path: Path) -> None:
    source = damaged_met(tmp_path / "in")
    with pytest.raises(InputError) as caught:
        prepare_dataset(workspace, shipped(502), source=source)
    message = str(caught.value)
    assert "1 fault in 1 of 4 cases" in message and "--exclude-faulty" in message
    name = f"{challenge('MET')}/BraTS-MET-00002-000/BraTS-MET-00002-000-t2w.nii.gz"
    assert re.search(f"{re.escape(name)}: found a truncated or corrupt file", message)


def test_met_without_the_faulty_case(workspace: Workspace, tmp_path: Path) -> None:
    source = damaged_met(tmp_path / "in")
    block = prepare_dataset(workspace, shipped(502), source=source, preparation=GO_ON)
    assert list(block.cases) == ["BraTS-MET-00003-000", "BraTS-MET-00086-000", "BraTS-MET-00087-000"]
    reasons = excluded(block)
    assert reasons.keys() == {"BraTS-MET-00002-000", "BraTS-MET-00013-000"}
    assert reasons["BraTS-MET-00013-000"] == NO_MASK
    assert reasons["BraTS-MET-00002-000"].startswith("faulty: ")
    assert "BraTS-MET-00002-000-t2w.nii.gz: found a truncated or corrupt file" in reasons["BraTS-MET-00002-000"]
    stem = "BraTS-MET-00003-000"
    (what,), (repair,) = zip(*repairs(block).items(), strict=True)
    assert what == f"{challenge('MET')}/{stem}/{stem}-t2w.nii.gz"
    assert re.fullmatch(rf"header's origin \(off by 3[\d.]+ mm, .*\) replaced by that of {stem}-seg.nii.gz", repair)
    assert label_voxels(workspace, 502)[stem] == {2: 4, 3: 4}


def test_met_origin_is_repaired_and_the_voxels_are_kept(workspace: Workspace, tmp_path: Path) -> None:
    source = damaged_met(tmp_path / "in")
    trees.met_fixed(source)  # the replacement wins, and has another origin too
    block = prepare_dataset(workspace, shipped(502), source=source)
    assert len(block.cases) == 4
    fixed = "MICCAI-BraTS2024-MET-Challenge-TrainingData_2-fixed-cases"
    sources = {
        "BraTS-MET-00002-000": f"{fixed}/BraTS-MET-00002-000/BraTS-MET-00002-000-t2w.nii.gz",
        "BraTS-MET-00003-000": f"{challenge('MET')}/BraTS-MET-00003-000/BraTS-MET-00003-000-t2w.nii.gz",
    }
    assert set(repairs(block)) == set(sources.values())
    for case, original in sources.items():
        written = nib.load(workspace.dataset("Dataset502_BraTS2023-MET") / str(block.cases[case].images["t2"]))
        assert np.allclose(written.affine, SRI24)
        assert np.array_equal(np.asanyarray(written.dataobj), np.asanyarray(nib.load(source / original).dataobj))


def test_met_resection_cavity_is_a_fault(workspace: Workspace, tmp_path: Path) -> None:
    source = trees.met(tmp_path / "in")
    name = "BraTS-MET-00086-000"
    mask(source / challenge("MET", "TrainingData_Additional") / name / f"{name}-seg.nii.gz", (1, 2, 3, 4))
    with pytest.raises(InputError, match=rf"{name}-seg.nii.gz: found label 4 \(4 voxels\)"):
        prepare_dataset(workspace, shipped(502), source=source)
    block = prepare_dataset(workspace, shipped(502), source=source, preparation=GO_ON)
    assert len(block.cases) == 3 and "label 4" in excluded(block)[name]


def test_ped_empty_regions_are_fine(workspace: Workspace, tmp_path: Path) -> None:
    block = prepare_dataset(workspace, shipped(501), source=trees.ped(tmp_path / "in"))
    assert excluded(block) == {"BraTS-PED-00030-000": NO_MASK} and not block.repairs
    assert label_voxels(workspace, 501) == {
        "BraTS-PED-00002-000": {1: 4, 2: 4, 3: 4},
        "BraTS-PED-00003-000": {1: 4, 2: 4},
        "BraTS-PED-00004-000": {1: 4, 3: 4},
    }


def test_ped_of_another_year_is_refused_whatever_is_excluded(workspace: Workspace, tmp_path: Path) -> None:
    source = trees.ped(tmp_path / "in")
    mask(source / challenge("PED") / "BraTS-PED-00003-000" / "BraTS-PED-00003-000-seg.nii.gz", (1, 2, 3, 4))
    with pytest.raises(InputError, match="1 ET, 2 NET, 3 CC, 4 ED"):
        prepare_dataset(workspace, shipped(501), source=source, preparation=GO_ON)


def test_upenn_gbm_labels_end_in_one_convention(workspace: Workspace, tmp_path: Path) -> None:
    source = trees.upenn(tmp_path / "in", prefix="")
    mask(source / "UPENN-GBM" / "NIfTI-files" / "images_segm" / "UPENN-GBM-00004_11_segm.nii.gz", (4,))
    block = prepare_dataset(workspace, shipped(505), source=source)
    masks = "UPENN-GBM/NIfTI-files/images_segm"
    assert list(repairs(block)) == [f"{masks}/UPENN-GBM-0000{number}_11_segm.nii.gz" for number in (2, 3, 4)]
    assert all("4 to 3" in repair for repair in repairs(block).values())
    folder = workspace.dataset("Dataset505_UPENN-GBM")
    values = {
        name: np.unique(np.asanyarray(nib.load(folder / str(case.label)).dataobj)).tolist()
        for name, case in block.cases.items()
    }
    assert values == {
        "UPENN-GBM-00002_11": [0, 1, 2, 3],
        "UPENN-GBM-00003_11": [0, 1, 2],
        "UPENN-GBM-00004_11": [0, 3],
    }
    original = np.asanyarray(nib.load(source / masks / "UPENN-GBM-00002_11_segm.nii.gz").dataobj)
    written = nib.load(folder / str(block.cases["UPENN-GBM-00002_11"].label))
    assert np.array_equal(np.asanyarray(written.dataobj), np.where(original == 4, 3, original))
    assert np.array_equal(written.affine, SRI24)


def test_2021_mixed_conventions_serve_pretraining(workspace: Workspace, tmp_path: Path) -> None:
    source = trees.brats2021_a(tmp_path / "in", 45, 50)
    trees.brats2021_d(source)
    trees.brats2021_c(source)
    damaged = source / "BraTS2021_Training_Data" / "BraTS2021_00050" / "BraTS2021_00050_seg.nii.gz"
    truncate(damaged)  # masks are not read
    block = prepare_dataset(workspace, shipped(521), source=source)
    assert {name: (case.patient, case.site) for name, case in block.cases.items()} == {
        "BraTS-GLI-00045-001": ("BraTS2021_00045", None),
        "BraTS-GLI-00046-001": ("BraTS2021_00046", None),
        "BraTS2021_00005": ("BraTS2021_00005", "UPENN-GBM"),
        "BraTS2021_00006": ("BraTS2021_00006", "new-not-previously-in-TCIA"),
        "BraTS2021_00011": ("BraTS2021_00011", "UCSF-PDGM"),
        "BraTS2021_00045": ("BraTS2021_00045", None),
        "BraTS2021_00046": ("BraTS2021_00046", None),
        "BraTS2021_00050": ("BraTS2021_00050", None),
    }
    assert len(block.excluded) == 5 and all("has another file" in reason for reason in excluded(block).values())
    assert all(case.label is None for case in block.cases.values())


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_ssa_of_tcia_negative_values_and_another_affine(workspace: Workspace, tmp_path: Path, ending: str) -> None:
    block = prepare_dataset(workspace, shipped(522), source=trees.brats_africa(tmp_path / "in", ending))
    assert list(block.cases) == ["BraTS-SSA-00002-000"] and not block.repairs
    facts = load_integrity(workspace, shipped(522)).cases["BraTS-SSA-00002-000"]
    t1 = facts.files["t1"]
    assert t1.orientation == "RAS" and t1.minimum < -200 and not facts.faults
    assert t1.nonzero == pytest.approx(7 / 8, abs=0.01)  # zero is background, negative values are not


def test_men_and_ucsf_pdgm_are_prepared(workspace: Workspace, tmp_path: Path) -> None:
    men = prepare_dataset(workspace, shipped(523), source=trees.men(tmp_path / "men", "BraTS-MEN-Train"))
    assert [case.patient for case in men.cases.values()] == ["BraTS-MEN-00000", "BraTS-MEN-00004", "BraTS-MEN-00004"]
    trees.ucsf(tmp_path / "ucsf" / "UCSF-PDGM-v5")
    trees.ucsf_exam(tmp_path / "ucsf" / "UCSF-PDGM-v5" / "UCSF-PDGM-0138_nifti", "UCSF-PDGM-0138")
    ucsf = prepare_dataset(workspace, shipped(524), source=tmp_path / "ucsf")
    assert repairs(ucsf) == {}  # version 5 has that exam under its newer name, which wins
    assert len(ucsf.cases) == 4 and sum("has another file" in reason for reason in excluded(ucsf).values()) == 6


def test_2018_is_prepared(workspace: Workspace, tmp_path: Path) -> None:
    source = trees.brats2018(tmp_path / "in", ending=".nii")
    for grade, case in {"HGG": "Brats18_TCIA02_171_1", "LGG": "Brats18_TCIA10_103_1"}.items():
        exam(source / "MICCAI_BraTS_2018_Data_Training" / grade, case, OLD, (1, 2, 4))
    block = prepare_dataset(workspace, shipped(511), source=source)
    assert {name: case.class_name for name, case in block.cases.items()} == {
        "Brats18_2013_2_1": "HGG",
        "Brats18_CBICA_AAB_1": "HGG",
        "Brats18_TCIA02_171_1": "HGG",
        "Brats18_TCIA09_141_1": "LGG",
        "Brats18_TCIA10_103_1": "LGG",
    }
    assert list(excluded(block)) == ["Brats18_CBICA_AAM_1"] and not block.repairs
