"""The main job through the real console scripts: phantom and real MRI, killed and resumed, repeated."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BIN = Path(sys.executable).parent
REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"
CARDS = Path(__file__).parent / "resources" / "cards"
SMALL = ("--profile", "smoke", "--phantom", "--tasks", "501,511", "--pretrain-datasets", "521,525", "--jobs", "2")


def start(verb: str, root: Path, *arguments: str) -> subprocess.Popen:
    command = [str(BIN / verb), "--root", str(root), *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(verb: str, root: Path, *arguments: str) -> str:
    process = start(verb, root, *arguments)
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output[-4000:]
    return output


def tables(root: Path) -> dict[str, bytes]:
    """Every CSV but cost.csv, which holds times."""
    found = {p.name: p.read_bytes() for p in (root / "results").glob("*.csv") if p.name != "cost.csv"}
    assert set(found) == {
        "leaderboard.csv",
        "leaderboard_segmentation.csv",
        "leaderboard_classification.csv",
        "per_case.csv",
        "methods.csv",
    }
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    """A finished small benchmark."""
    root = tmp_path_factory.mktemp("reference")
    run("mvp_benchmark", root, *SMALL)
    return root


def test_leaderboards_are_complete(reference: Path) -> None:
    segmentation = pd.read_csv(reference / "results" / "leaderboard_segmentation.csv")
    classification = pd.read_csv(reference / "results" / "leaderboard_classification.csv")
    assert list(segmentation.columns[:6]) == ["task", "method", "encoder", "mode", "schedule", "label_budget"]
    assert set(segmentation["method"]) == set(classification["method"]) == {"scratch", "mae", "brainmvp"}
    assert set(segmentation["target"]) == {"mean", "WT", "TC", "ET"}
    assert set(classification["metric"]) == {"accuracy", "balanced_accuracy", "auroc", "f1"}
    assert set(segmentation["source"]) == {"phantom"} and set(segmentation["profile"]) == {"smoke"}
    cost = pd.read_csv(reference / "results" / "cost.csv")
    assert len(cost) == 6 and (cost["wall_time_s"] > 0).all() and (cost["peak_memory_mb"] > 50).all()


def test_means_follow_from_the_cases(reference: Path) -> None:
    cases = pd.read_csv(reference / "results" / "per_case.csv")
    board = pd.read_csv(reference / "results" / "leaderboard_segmentation.csv")
    for row in board[board["target"] != "mean"].itertuples():
        chosen = cases[(cases["task"] == row.task) & (cases["method"] == row.method) & (cases["target"] == row.target)]
        np.testing.assert_allclose(row.mean, chosen["dice"].mean(), rtol=1e-11)


def test_running_again_is_quick_and_changes_nothing(reference: Path) -> None:
    before = {p: p.read_bytes() for p in (reference / "results").glob("*.csv")}
    started = time.monotonic()
    output = run("mvp_benchmark", reference, *SMALL)
    assert time.monotonic() - started < 20
    assert "0 cells run, 6 kept" in output
    assert {p: p.read_bytes() for p in (reference / "results").glob("*.csv")} == before


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "phantom": lambda root: any((root / "datasets").glob("Dataset511*/phantom/**/*.nii.gz")),
    "pre-training": lambda root: any((root / "results/pretraining").glob("*/checkpoint_last.pt")),
    "cells": lambda root: any((root / "results/cells").glob("*/*/*/metrics.json")),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_started_again_gives_the_same_bytes(moment: str, reference: Path, tmp_path: Path) -> None:
    process = start("mvp_benchmark", tmp_path, *SMALL)
    deadline = time.monotonic() + 300
    while not MOMENTS[moment](tmp_path):
        assert process.poll() is None and time.monotonic() < deadline, f"never reached: {moment}"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    run("mvp_benchmark", tmp_path, *SMALL)
    assert tables(tmp_path) == tables(reference)


def test_another_seed_gives_another_result(reference: Path, tmp_path: Path) -> None:
    run("mvp_benchmark", tmp_path, *SMALL, "--seed", "1", "--methods", "scratch")
    mine = pd.read_csv(tmp_path / "results" / "per_case.csv").query("method == 'scratch'")
    theirs = pd.read_csv(reference / "results" / "per_case.csv").query("method == 'scratch'")
    assert mine["probability"].dropna().tolist() != theirs["probability"].dropna().tolist()


def test_exported_and_imported_weights_are_a_row_again(reference: Path, tmp_path: Path) -> None:
    """The way of an encoder through another tool's checkpoint changes no bit of what is fine-tuned from it."""
    root, file = tmp_path / "root", tmp_path / "sent.pth"
    shutil.copytree(reference, root)
    (trained,) = (root / "results" / "pretraining").glob("mae-*")
    run("mvp_weights", root, "export", str(trained), "--format", "nnssl", "--out", str(file))
    assert "can be imported" in run("mvp_weights", root, "inspect", str(file))
    assert "scratch,imported:sent" in run("mvp_weights", root, "import", str(file))
    output = run("mvp_benchmark", root, *SMALL, "--methods", f"scratch,imported:sent,imported:{trained.name}")
    assert "4 cells run, 2 kept" in output
    names = {f"imported-{name}": f"imported:{name}" for name in ("sent", trained.name)}
    for task in (root / "results" / "cells").iterdir():
        scores = {folder.name: next(folder.rglob("per_case.csv")).read_bytes() for folder in task.iterdir()}
        assert set(scores) == {"scratch", "mae", "brainmvp", *names}
        assert scores["mae"] == scores["imported-sent"] == scores[f"imported-{trained.name}"]
    for kind in ("segmentation", "classification"):
        board = pd.read_csv(root / "results" / f"leaderboard_{kind}.csv").set_index("method")
        assert set(names.values()) < set(board.index)
        assert board.loc["imported:sent", "leak_percent"].isna().all()
        assert (board.loc[f"imported:{trained.name}", "leak_percent"] == 0).all()
    cost = pd.read_csv(root / "results" / "cost.csv").set_index("method")
    assert cost.loc["imported:sent", "pretraining_wall_time_s"].isna().all()
    assert (cost.loc[f"imported:{trained.name}", "pretraining_wall_time_s"] > 0).all()


@pytest.mark.skipif(not REALDATA.is_dir(), reason=f"the real scans are not at {REALDATA}")
def test_real_mri_through_the_four_commands(tmp_path: Path) -> None:
    """Two data sets with 2 and 4 modalities together; three patients to fine-tune on, the fourth is predicted."""
    (tmp_path / "datasets").mkdir()
    for card in CARDS.glob("*.json"):
        (tmp_path / "datasets" / card.name).write_text(card.read_text())
    run("mvp_prepare", tmp_path, "-d", "601", "--source", str(REALDATA / "brats2013"))
    run("mvp_prepare", tmp_path, "-d", "602", "--source", str(REALDATA / "openms"))
    options = ("--profile", "smoke")
    # The scans are large for a test: every third millimetre will do.
    run("mvp_plan", tmp_path, "-d", "601", "602", "--spacing", "3", "3", "3", *options)
    spacing = ("--planning.spacing", "3", "3", "3")
    run("mvp_pretrain", tmp_path, "-d", "601", "602", "--method", "mae", *spacing, *options)
    both = ("--tasks", "601", "--pretrain-datasets", "601", "602", "--methods", "scratch", "brainmvp")
    run("mvp_benchmark", tmp_path, *both, *spacing, *options, "--segmentation.keep-predictions")
    board = pd.read_csv(tmp_path / "results" / "leaderboard_segmentation.csv")
    assert set(board["source"]) == {"real"} and set(board["target"]) == {"mean", "WT", "TC", "ET"}
    assert board["mean"].between(0, 1).all()
    predictions = list((tmp_path / "results/cells").rglob("predictions/*.nii.gz"))
    assert len(predictions) == 2
    record = json.loads(next((tmp_path / "results/pretraining").glob("brainmvp*/encoder.json")).read_text())
    held_out = predictions[0].name.removesuffix(".nii.gz")
    assert held_out not in [case for data in record["data"] for case in data["cases"]]
    assert {len(data["patients"]) for data in record["data"]} == {3, 2}
