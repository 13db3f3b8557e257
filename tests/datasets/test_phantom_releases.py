"""Every phantom release is read by the converter that reads the real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.phantom.release import phantom_patients
from mvp_bench.datasets.phantom.request import patient_count
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.workspace import Workspace

SIZE = PhantomConfig(spacing_mm=6.0, segmentation_patients=4, classification_patients=6, pretraining_patients=2)
CARDS = [card for card in load_cards(None).values() if not card.members]


@pytest.fixture(scope="module")
def phantom_workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("phantom")).open()


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_phantom_release_is_read(phantom_workspace: Workspace, card) -> None:
    block = prepare_dataset(phantom_workspace, card, phantom=SIZE, seed=5)
    assert block.source == "phantom" and not block.excluded
    assert len(block.cases) == patient_count(card, SIZE)
    assert {case.patient for case in block.cases.values()} == set(phantom_patients(card, SIZE, 5))
    assert set().union(*(case.modalities for case in block.cases.values())) == set(card.modalities)
    if card.kind != "pretraining":
        assert all(case.modalities == card.modalities for case in block.cases.values())
    if card.kind == "classification":
        assert {case.class_name for case in block.cases.values()} == set(card.classes)
    assert all(not Path(path).is_absolute() for case in block.cases.values() for path in case.images.values() if path)
    fold = load_splits(phantom_workspace, card).folds[0]
    assert len(fold.train + fold.val + fold.test) == len(block.cases)
    assert bool(fold.test) == (card.kind != "pretraining")
