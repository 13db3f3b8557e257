"""Fine-tuning: exact resumption, test cases unseen, weights loaded, predictions on the source's grid."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from mvp_bench.config.profiles import SMOKE
from mvp_bench.datasets.prepared import load_block, load_splits
from mvp_bench.datasets.schema import Fold
from mvp_bench.errors import InputError
from mvp_bench.finetuning.classification import _Training
from mvp_bench.finetuning.fit import fit
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.finetuning.loading import load_model
from mvp_bench.finetuning.model import read_model_record
from mvp_bench.finetuning.segmentation import SegmentationTrainer
from mvp_bench.parallel import Inline
from mvp_bench.planning.plan import case_files, plan_dataset
from mvp_bench.planning.store import CaseStore
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace
from tests.toy import toy_card, toy_dataset
from tests.tuning import fine_tune_job, scored

SEGMENTATION = replace(SMOKE.segmentation, epochs=4, iterations_per_epoch=3, learning_rate=0.05)
CLASSIFICATION = replace(SMOKE.classification, epochs=4)


def make_job(workspace: Workspace, kind: str, folder: str, **options) -> FineTuneJob:
    card = toy_card(kind)
    if not (workspace.dataset(card.dataset_name) / "dataset.json").is_file():
        toy_dataset(workspace, card, **options)
    planned = plan_dataset(workspace, card, ENCODERS["resenc-smoke"], SMOKE.planning, Inline())
    fold = load_splits(workspace, card).folds[0]
    fold = Fold(train=fold.train[:-1], val=fold.train[-1:], test=fold.test)
    config = SEGMENTATION if kind == "segmentation" else CLASSIFICATION
    return fine_tune_job(planned, fold, config, workspace.results / folder)


def images_of(workspace: Workspace, job: FineTuneJob) -> dict[str, str]:
    card = toy_card(job.kind)
    files = case_files(workspace, card, load_block(workspace, card))
    return {case: str(files[case].images[0]) for case in job.fold.test}


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_resumed_run_equals_the_uninterrupted_one(workspace: Workspace, kind: str, monkeypatch) -> None:
    whole = make_job(workspace, kind, "whole")
    expected = scored(whole)
    owner = SegmentationTrainer if kind == "segmentation" else _Training
    original = owner._epoch

    def interrupted(self, epoch: int, *rest):
        if epoch == 2:
            raise KeyboardInterrupt
        return original(self, epoch, *rest)

    broken = replace(whole, folder=workspace.results / "broken")
    monkeypatch.setattr(owner, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        scored(broken)
    assert (broken.folder / "checkpoint_last.pt").is_file()
    monkeypatch.setattr(owner, "_epoch", original)
    pd.testing.assert_frame_equal(scored(broken), expected, check_exact=True)
    assert (broken.folder / "log.csv").read_bytes() == (whole.folder / "log.csv").read_bytes()


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_seeds_repeat_and_differ(workspace: Workspace, kind: str) -> None:
    job = make_job(workspace, kind, "a")
    scored(job)
    scored(replace(job, folder=workspace.results / "b"))
    scored(replace(job, folder=workspace.results / "c", seed=4))
    logs = [(workspace.results / name / "log.csv").read_text() for name in "abc"]
    assert logs[0] == logs[1] != logs[2]


def test_augmentation_processes_are_repeatable(workspace: Workspace) -> None:
    job = make_job(workspace, "segmentation", "a")
    job = replace(job, config=replace(SEGMENTATION, loaders=2, epochs=2))
    scored(job)
    scored(replace(job, folder=workspace.results / "b"))
    assert (workspace.results / "a/log.csv").read_text() == (workspace.results / "b/log.csv").read_text()


def test_validation_is_for_the_curve_alone(workspace: Workspace) -> None:
    short = replace(SEGMENTATION, epochs=2)
    job = replace(make_job(workspace, "segmentation", "a"), config=replace(short, validation_iterations=0))
    more = replace(short, validation_iterations=3, checkpoint_every=2)
    other = replace(job, folder=workspace.results / "b", config=more)
    pd.testing.assert_frame_equal(scored(job), scored(other), check_exact=True)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_training_never_reads_a_test_case(workspace: Workspace, kind: str, monkeypatch) -> None:
    job = make_job(workspace, kind, "a")
    opened: list[str] = []
    original = CaseStore._opened
    monkeypatch.setattr(
        CaseStore, "_opened", lambda self, case, name: opened.append(case) or original(self, case, name)
    )
    fit(job)
    assert opened and set(opened) <= {*job.fold.train, *job.fold.val}
    opened.clear()
    scored(job)
    assert set(opened) == set(job.fold.test), "the network is kept: nothing is trained again"


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "ASL"])
def test_prediction_lies_on_the_source_grid(workspace: Workspace, orientation: str, monkeypatch) -> None:
    """The exported mask has the source's header, and the voxels that were scored."""
    job = make_job(workspace, "segmentation", "a", orientation=orientation, spacing=(1, 1.4, 2))
    job = replace(job, config=replace(SEGMENTATION, epochs=1))
    images = images_of(workspace, job)
    table = scored(job, images)
    case = job.fold.test[0]
    source = nib.load(images[case])
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
        scored(job)
    torch.save({"identity": '{"cell": "another"}'}, checkpoint)
    with pytest.raises(InputError, match="cell"):
        scored(job)


def test_learning_rate_decays_polynomially(workspace: Workspace, tmp_path: Path) -> None:
    job = make_job(workspace, "segmentation", "a")
    job = replace(job, config=replace(SEGMENTATION, warmup_epochs=1))
    scored(job)
    rates = pd.read_csv(job.folder / "log.csv")["learning_rate"]
    expected = [0.05, *(0.05 * (1 - k / 3) ** 0.9 for k in range(3))]
    np.testing.assert_allclose(rates, expected)


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_the_network_is_kept_and_verified(workspace: Workspace, kind: str) -> None:
    job = make_job(workspace, kind, "a")
    table = scored(job)
    record = read_model_record(job.folder)
    assert (record.kind, record.key, record.modalities) == (kind, "key", ["t1", "flair"])
    stamp = (job.folder / "model.json").stat().st_mtime_ns
    pd.testing.assert_frame_equal(scored(job), table, check_exact=True)
    assert (job.folder / "model.json").stat().st_mtime_ns == stamp, "trained once"
    with pytest.raises(InputError, match=r"model\.json"):
        load_model(job.folder, job.runtime, "another key")
    for name in ("model.safetensors", "model.json"):
        whole = (job.folder / name).read_bytes()
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 1
        (job.folder / name).write_bytes(bytes(damaged))
        with pytest.raises(InputError, match=name):
            load_model(job.folder, job.runtime)
        fit(job)  # trains anew
        assert load_model(job.folder, job.runtime).record == record
        pd.testing.assert_frame_equal(scored(job), table, check_exact=True)


def test_scores_come_from_the_prepared_masks(workspace: Workspace) -> None:
    job = make_job(workspace, "segmentation", "a")
    table = scored(job)
    for mask in (workspace.dataset(job.task) / "source").glob("*_seg.nii.gz"):
        mask.write_bytes(b"changed since")
    pd.testing.assert_frame_equal(scored(job), table, check_exact=True)
