"""Fine-tuning: exact resumption, test cases unseen, weights loaded, predictions on the source's grid."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from mvp_bench.benchmark.metrics import classification_rows, segmentation_rows
from mvp_bench.config.profiles import SMOKE
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.datasets.schema import Fold
from mvp_bench.errors import InputError
from mvp_bench.finetuning.classification import _Training, fine_tune_classification
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.finetuning.segmentation import SegmentationTrainer, fine_tune_segmentation
from mvp_bench.parallel import Inline
from mvp_bench.planning.plan import case_files, plan_dataset
from mvp_bench.planning.store import CaseStore
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace
from tests.toy import toy_card, toy_dataset

SEGMENTATION = replace(SMOKE.segmentation, epochs=4, iterations_per_epoch=3, learning_rate=0.05)
CLASSIFICATION = replace(SMOKE.classification, epochs=4)


def make_job(workspace: Workspace, kind: str, folder: str, **options) -> FineTuneJob:
    card = toy_card(kind)
    if not (workspace.dataset(card.dataset_name) / "dataset.json").is_file():
        toy_dataset(workspace, card, **options)
    planned = plan_dataset(workspace, card, ENCODERS["resenc-smoke"], SMOKE.planning, Inline())
    fold = load_splits(workspace, card).folds[0]
    fold = Fold(train=fold.train[:-1], val=fold.train[-1:], test=fold.test)
    files = case_files(workspace, card, planned.block)
    return FineTuneJob(
        task=card.dataset_name,
        plan_folder=planned.folder,
        cases_folder=planned.cases,
        labels={case: str(files[case].label) for case in fold.test},
        images={case: str(files[case].images[0]) for case in fold.test},
        regions=dict(planned.block.regions),
        classes=list(planned.block.classes),
        fold=fold,
        encoder="resenc-smoke",
        pretrained=None,
        stem="reinit",
        seed=3,
        config=SEGMENTATION if kind == "segmentation" else CLASSIFICATION,
        runtime=SMOKE.runtime,
        folder=workspace.results / folder,
    )


def run(job: FineTuneJob) -> pd.DataFrame:
    if job.regions:
        score = partial(lambda case, ref, pred: segmentation_rows(case, case, ref, pred, job.regions))
        return fine_tune_segmentation(job, "key", score).table
    return fine_tune_classification(job, "key", classification_rows).table


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_resumed_run_equals_the_uninterrupted_one(workspace: Workspace, kind: str, monkeypatch) -> None:
    whole = make_job(workspace, kind, "whole")
    expected = run(whole)
    owner = SegmentationTrainer if kind == "segmentation" else _Training
    original = owner._epoch

    def interrupted(self, epoch: int, *rest):
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch, *rest)

    broken = replace(whole, folder=workspace.results / "broken")
    monkeypatch.setattr(owner, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(broken)
    assert (broken.folder / "checkpoint_last.pt").is_file()
    monkeypatch.setattr(owner, "_epoch", original)
    pd.testing.assert_frame_equal(run(broken), expected, check_exact=True)
    assert (broken.folder / "log.csv").read_bytes() == (whole.folder / "log.csv").read_bytes()


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_seeds_repeat_and_differ(workspace: Workspace, kind: str) -> None:
    job = make_job(workspace, kind, "a")
    run(job)
    run(replace(job, folder=workspace.results / "b"))
    run(replace(job, folder=workspace.results / "c", seed=4))
    logs = [(workspace.results / name / "log.csv").read_text() for name in "abc"]
    assert logs[0] == logs[1] != logs[2]


def test_augmentation_processes_are_repeatable(workspace: Workspace) -> None:
    job = make_job(workspace, "segmentation", "a")
    job = replace(job, config=replace(SEGMENTATION, workers=2, epochs=2))
    run(job)
    run(replace(job, folder=workspace.results / "b"))
    assert (workspace.results / "a/log.csv").read_text() == (workspace.results / "b/log.csv").read_text()


def test_segmentation_training_never_reads_a_test_case(workspace: Workspace, monkeypatch) -> None:
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2

    job = make_job(workspace, "segmentation", "a")
    read: list[str] = []
    load = nnUNetDatasetBlosc2.load_case
    monkeypatch.setattr(nnUNetDatasetBlosc2, "load_case", lambda self, case: read.append(case) or load(self, case))
    predicted = SegmentationTrainer.predict
    before_test: list[set[str]] = []

    def note(self, case: str):
        before_test.append(set(read))
        return predicted(self, case)

    monkeypatch.setattr(SegmentationTrainer, "predict", note)
    run(job)
    assert before_test[0] and before_test[0] <= {*job.fold.train, *job.fold.val}


def test_classification_training_never_reads_a_test_case(workspace: Workspace, monkeypatch) -> None:
    job = make_job(workspace, "classification", "a")
    read: list[str] = []
    original = CaseStore.read
    monkeypatch.setattr(CaseStore, "read", lambda self, case, *rest: read.append(case) or original(self, case, *rest))
    training_ended: list[int] = []
    test = _Training.test
    monkeypatch.setattr(_Training, "test", lambda self: training_ended.append(len(read)) or test(self))
    run(job)
    assert set(read[: training_ended[0]]) <= set(job.fold.train)
    assert set(read[training_ended[0] :]) == set(job.fold.test)


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "ASL"])
def test_prediction_lies_on_the_source_grid(workspace: Workspace, orientation: str, monkeypatch) -> None:
    """The exported mask has the source's header, and the voxels that were scored."""
    job = make_job(workspace, "segmentation", "a", orientation=orientation, spacing=(1, 1.4, 2))
    job = replace(job, config=replace(SEGMENTATION, epochs=1, keep_predictions=True))
    table = run(job)
    case = job.fold.test[0]
    source = nib.load(job.images[case])
    predicted = nib.load(job.folder / "predictions" / f"{case}.nii.gz")
    np.testing.assert_allclose(predicted.affine, source.affine, atol=1e-5)
    assert predicted.shape == source.shape
    voxels = np.isin(np.asarray(predicted.dataobj), [1, 2]).sum()
    row = table[(table["case"] == case) & (table["target"] == "whole")]
    assert row["predicted_voxels"].item() == voxels


def test_checkpoint_of_another_cell_or_damaged_is_refused(workspace: Workspace) -> None:
    job = make_job(workspace, "classification", "a")
    job.folder.mkdir(parents=True)
    checkpoint = job.folder / "checkpoint_last.pt"
    checkpoint.write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(InputError, match=r"checkpoint_last\.pt"):
        run(job)
    torch.save({"identity": '{"cell": "another"}'}, checkpoint)
    with pytest.raises(InputError, match="cell"):
        run(job)


def test_learning_rate_decays_polynomially(workspace: Workspace, tmp_path: Path) -> None:
    job = make_job(workspace, "segmentation", "a")
    job = replace(job, config=replace(SEGMENTATION, warmup_epochs=1))
    run(job)
    rates = pd.read_csv(job.folder / "log.csv")["learning_rate"]
    expected = [0.05, *(0.05 * (1 - k / 3) ** 0.9 for k in range(3))]
    np.testing.assert_allclose(rates, expected)
