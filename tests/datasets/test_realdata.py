"""Real scans through user cards, where they are at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.datasets.catalog import find_card, load_cards
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.datasets.schema import resolve_path
from mvp_bench.workspace import Workspace

from .releases import table

PROJECT = Path(__file__).resolve().parents[2]
REALDATA = PROJECT.parent / "shared" / "realdata"
CARDS = PROJECT / "tests" / "resources" / "cards"

pytestmark = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"real scans are not at {REALDATA}")


@pytest.fixture(scope="module")
def real_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """One for all tests: what is prepared from the same source again is not read again."""
    workspace = Workspace(tmp_path_factory.mktemp("root")).open()
    for path in CARDS.glob("*.json"):
        shutil.copy(path, workspace.datasets)
    return workspace


@pytest.fixture(scope="module")
def brats2013(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two of the four patients: the masks cost a second each."""
    top = tmp_path_factory.mktemp("release") / "brats2013"
    top.mkdir()
    for name in ("brats_2013_pat0003_1", "brats_2013_pat0005_1"):
        (top / name).symlink_to(REALDATA / "brats2013" / name)
    return top


def test_openms(real_workspace: Workspace) -> None:
    card = find_card(load_cards(real_workspace.root), 602)
    block = prepare_dataset(real_workspace, card, source=REALDATA / "openms")
    assert {name: case.modalities for name, case in block.cases.items()} == {
        "patient07": ["t1", "t1c", "t2", "flair"],
        "patient19": ["t1", "t1c", "t2", "flair"],
    }
    assert not block.repairs and not block.excluded
    assert len(load_splits(real_workspace, card).folds) == 2


def test_brats2013(real_workspace: Workspace, brats2013: Path) -> None:
    card = find_card(load_cards(real_workspace.root), "BraTS2013")
    block = prepare_dataset(real_workspace, card, source=brats2013)
    assert list(block.cases) == ["brats_2013_pat0003", "brats_2013_pat0005"]
    assert len(block.repairs) == 4 and not block.excluded
    folder = real_workspace.dataset(card.dataset_name)
    case = block.cases["brats_2013_pat0003"]
    image = nib.load(resolve_path(folder, str(case.images["flair"])))
    brain = np.asanyarray(nib.load(REALDATA / "brats2013/brats_2013_pat0003_1/brainmask.nii.gz").dataobj) > 0.5
    original = nib.load(REALDATA / "brats2013/brats_2013_pat0003_1/Flair_subtrMeanDivStd.nii.gz")
    data, before = np.asanyarray(image.dataobj), np.asanyarray(original.dataobj)
    assert (data[~brain] == 0).all() and np.array_equal(data[brain], before[brain])
    assert np.array_equal(image.affine, original.affine)


# ------------------------------------------------------------------- the same scans through other kinds of sources

OPENMS = {"T1": "T1w", "T1POST": "ce-gadolinium_T1w", "T2": "T2w", "FLAIR": "FLAIR"}
"""File of a patient's folder -> what it is called in BIDS."""


def voxel_hashes(workspace: Workspace, number: int, source: Path) -> dict[str, dict[str, str]]:
    """Patient's number -> role -> hash of the voxels, of a dataset prepared from ``source``."""
    card = find_card(load_cards(workspace.root), number)
    block = prepare_dataset(workspace, card, source=source)
    assert len(block.cases) >= 2 and not any("lacks" in item.reason for item in block.excluded)
    cases = load_integrity(workspace, card).cases
    return {name[-2:]: {role: facts.voxels for role, facts in case.files.items()} for name, case in cases.items()}


def test_openms_through_a_table(real_workspace: Workspace, tmp_path: Path) -> None:
    """One row per image; the mask is named once."""
    rows = [
        f"{folder.name},{name},{folder / name}.nii.gz,{f'{folder}/lesion.nii.gz' if name == 'T1' else ''}"
        for folder in sorted((REALDATA / "openms").glob("patient*"))
        if folder.is_dir()
        for name in OPENMS
    ]
    path = table(tmp_path / "openms.csv", "patient,modality,path,lesion", *rows)
    hashes = voxel_hashes(real_workspace, 603, path)
    assert hashes == voxel_hashes(real_workspace, 602, REALDATA / "openms")
    assert set(hashes) == {"07", "19"} and set(hashes["07"]) == {"t1", "t1c", "t2", "flair", "label"}


def test_openms_through_a_bids_copy(real_workspace: Workspace, tmp_path: Path) -> None:
    top = tmp_path / "bids"
    for number in ("07", "19"):
        folder = REALDATA / "openms" / f"patient{number}"
        links = {f"sub-{number}/anat/sub-{number}_{suffix}": name for name, suffix in OPENMS.items()}
        links[f"derivatives/consensus/sub-{number}/anat/sub-{number}_space-T1w_desc-lesion_mask"] = "lesion"
        for link, name in links.items():
            path = top / f"{link}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(folder / f"{name}.nii.gz")
    table(top / "participants.tsv", "participant_id", "sub-07", "sub-19")
    assert voxel_hashes(real_workspace, 604, top) == voxel_hashes(real_workspace, 602, REALDATA / "openms")
    block = prepare_dataset(real_workspace, find_card(load_cards(real_workspace.root), 604))
    assert list(block.cases) == ["sub-07", "sub-19"] and not block.repairs and not block.excluded


def test_brats2013_through_a_table(real_workspace: Workspace, brats2013: Path) -> None:
    """One row per case, with brain masks."""
    names = ("T1c_subtrMeanDivStd", "Flair_subtrMeanDivStd", "OTMultiClass", "brainmask")
    rows = [
        ",".join([f"pat00{number}", *(f"brats_2013_pat00{number}_1/{name}.nii.gz" for name in names)])
        for number in ("03", "05")
    ]
    path = table(brats2013 / "brats.csv", "patient,T1Gd,T2-FLAIR,label,brain_mask", *rows)
    hashes = voxel_hashes(real_workspace, 605, path)
    assert hashes == voxel_hashes(real_workspace, 601, brats2013)
    assert set(hashes) == {"03", "05"}
