"""The grid: nothing runs twice, a failure stays in its cell, test patients stay out of pre-training."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mvp_bench.benchmark import cell_job, pretraining_job
from mvp_bench.benchmark.grid import check_methods
from mvp_bench.benchmark.verb import run_benchmark
from mvp_bench.config.profiles import SMOKE
from mvp_bench.errors import InputError
from mvp_bench.finetuning.loading import load_model
from mvp_bench.io import read_json
from mvp_bench.leaderboard.render.files import write_leaderboards
from mvp_bench.registry import METHODS
from mvp_bench.workspace import Workspace
from tests.benchmark.conftest import CONFIG


def test_a_finished_grid_is_kept(toys: Workspace) -> None:
    first = run_benchmark(toys, CONFIG)
    assert (first.finished, first.reused, first.failed) == (4, 0, [])
    write_leaderboards(toys, CONFIG.statistics, 0)
    tables = {p.name: p.read_bytes() for p in toys.results.glob("*.csv")}
    assert set(tables) >= {"leaderboard.csv", "leaderboard_segmentation.csv", "per_case.csv", "cost.csv"}
    second = run_benchmark(toys, CONFIG)
    assert (second.finished, second.reused) == (0, 4)
    write_leaderboards(toys, CONFIG.statistics, 0)
    assert {p.name: p.read_bytes() for p in toys.results.glob("*.csv")} == tables
    third = run_benchmark(toys, replace(CONFIG, tasks=("902",), methods=("scratch",), seeds=(0, 1)))
    assert (third.finished, third.reused) == (1, 1)


def test_cells_tell_where_they_come_from(toys: Workspace) -> None:
    run_benchmark(toys, replace(CONFIG, tasks=("901",)))
    records = [read_json(path) for path in sorted(toys.cells.rglob("cell.json"))]
    mae = next(r for r in records if r["spec"]["method"] == "mae")
    assert set(mae["spec"]["needs"]) == {"dataset", "splits", "plan", "arrays", "encoder", "pretraining"}
    assert set(mae["spec"]["needs"]["pretraining"]) == {"Dataset901_Toy901", "Dataset903_Toy903"}
    assert all(mae["spec"]["needs"].values()) and mae["spec"]["recipe"] and mae["weights"]
    assert mae["versions"]["nnunetv2"] and mae["spec"]["settings"]["epochs"] == SMOKE.segmentation.epochs
    machine = mae["machine"]
    assert machine["processor"] and machine["device"] == "cpu" and machine["precision"] in ("bf16", "fp32")
    assert {k: mae["spec"]["settings"][k] for k in ("device", "precision", "threads")} == {
        k: machine[k] for k in ("device", "precision", "threads")
    }
    assert mae["load_report"]["new"] == 2, "reinit leaves the stem's kernel and bias fresh"
    assert mae["cost"]["pretraining_voxels_seen"] > 0
    scratch = next(r for r in records if r["spec"]["method"] == "scratch")
    assert scratch["spec"]["settings"] == mae["spec"]["settings"]
    assert scratch["load_report"] == {} and scratch["weights"] is None and scratch["spec"]["needs"]["encoder"] is None
    for folder in (path.parent for path in toys.cells.rglob("cell.json")):
        assert load_model(folder, CONFIG.runtime).record.task == "Dataset901_Toy901", "networks are kept"


def test_test_patients_stay_out_of_pretraining(toys: Workspace) -> None:
    run_benchmark(toys, replace(CONFIG, methods=("mae",)))
    test = set(read_json(toys.dataset("Dataset901_Toy901") / "splits.json")["folds"][0]["test"])
    for cell in toys.cells.rglob("cell.json"):
        spec = read_json(cell)["spec"]
        (encoder,) = (
            content
            for path in toys.pretraining.glob("*/encoder.json")
            if (content := read_json(path))["config_hash"] == spec["needs"]["encoder"]
        )
        used = {d["dataset"]: set(d["cases"]) for d in encoder["data"]}
        if spec["task"] == "Dataset901_Toy901":
            assert not used["Dataset901_Toy901"] & test
        else:  # the other task may use them all
            assert used["Dataset901_Toy901"] >= test


def test_a_failed_cell_does_not_stop_the_others(toys: Workspace, monkeypatch) -> None:
    original = cell_job.fit

    def fail(job):
        if job.pretrained and job.kind == "classification":
            raise RuntimeError("planted")
        return original(job)

    monkeypatch.setattr(cell_job, "fit", fail)
    outcome = run_benchmark(toys, CONFIG)
    assert outcome.finished == 3
    assert [r.error for r in outcome.failed] == ["planted"]
    failure = read_json(outcome.failed[0].folder / "failure.json")
    assert failure["type"] == "RuntimeError" and "planted" in failure["traceback"]
    monkeypatch.setattr(cell_job, "fit", original)
    again = run_benchmark(toys, CONFIG)
    assert (again.finished, again.reused, again.failed) == (1, 3, [])
    assert not (outcome.failed[0].folder / "failure.json").exists()


def test_a_failed_pretraining_fails_its_cells_only(toys: Workspace, monkeypatch) -> None:
    def fail(job):
        raise RuntimeError("planted")

    monkeypatch.setattr(pretraining_job, "run_job", fail)
    outcome = run_benchmark(toys, replace(CONFIG, tasks=("902",)))
    assert outcome.finished == 1
    assert [r.error for r in outcome.failed] == ["pre-training failed: planted"]


def test_bad_requests(toys: Workspace) -> None:
    with pytest.raises(InputError, match="brainmvp"):
        check_methods(("brainmpv",))
    assert check_methods(("scratch,mae", "mae")) == ["scratch", "mae"]
    assert check_methods(("all",)) == ["scratch", *METHODS]
    with pytest.raises(InputError, match="pre-training dataset"):
        run_benchmark(toys, replace(CONFIG, tasks=("903",)))
    with pytest.raises(InputError, match="folds"):
        run_benchmark(toys, replace(CONFIG, folds=(1,)))
    with pytest.raises(InputError, match="no task"):
        run_benchmark(toys, replace(CONFIG, tasks=()))
    with pytest.raises(InputError, match="encoder"):
        run_benchmark(toys, replace(CONFIG, encoder="resenc-xl"))


def test_all_without_prepared_data_says_how_to_get_some(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="--phantom"):
        run_benchmark(workspace, replace(CONFIG, tasks=(), all=True))
