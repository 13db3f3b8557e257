"""Real scans through user cards, where they are at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.datasets.catalog import find_card, load_cards
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.datasets.schema import resolve_path
from mvp_bench.workspace import Workspace

PROJECT = Path(__file__).resolve().parents[2]
REALDATA = PROJECT.parent / "shared" / "realdata"
CARDS = PROJECT / "tests" / "resources" / "cards"

pytestmark = pytest.mark.skipif(not REALDATA.is_dir(), reason=f"real scans are not at {REALDATA}")


@pytest.fixture
def real_workspace(workspace: Workspace) -> Workspace:
    for path in CARDS.glob("*.json"):
        shutil.copy(path, workspace.datasets)
    return workspace


def test_openms(real_workspace: Workspace) -> None:
    card = find_card(load_cards(real_workspace.root), 602)
    block = prepare_dataset(real_workspace, card, source=REALDATA / "openms")
    assert {name: case.modalities for name, case in block.cases.items()} == {
        "patient07": ["t1", "t1c", "t2", "flair"],
        "patient19": ["t1", "t1c", "t2", "flair"],
    }
    assert not block.repairs and not block.excluded
    assert len(load_splits(real_workspace, card).folds) == 2


def test_brats2013(real_workspace: Workspace, tmp_path: Path) -> None:
    for name in ("brats_2013_pat0003_1", "brats_2013_pat0005_1"):  # two of four: the masks cost a second each
        (tmp_path / "brats2013").mkdir(exist_ok=True)
        (tmp_path / "brats2013" / name).symlink_to(REALDATA / "brats2013" / name)
    card = find_card(load_cards(real_workspace.root), "BraTS2013")
    block = prepare_dataset(real_workspace, card, source=tmp_path / "brats2013")
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
