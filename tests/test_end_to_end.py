"""The main job through the console scripts: phantom and real MRI, killed and resumed, repeated."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.consoles import called, run, start

pytestmark = pytest.mark.slow
REALDATA = Path(__file__).resolve().parents[2] / "shared" / "realdata"
CARDS = Path(__file__).parent / "resources" / "cards"
SMALL = ("--profile", "smoke", "--phantom", "--tasks", "501,511", "--pretrain-datasets", "521,525", "--workers", "2")
LOG = "results/logs/mvp_benchmark.log"


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
    run("benchmark", root, *SMALL)
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
    started = time.process_time()
    output = called("benchmark", reference, *SMALL)
    assert time.process_time() - started < 10
    assert "0 cells run, 6 kept" in output
    assert {p: p.read_bytes() for p in (reference / "results").glob("*.csv")} == before


def test_killed_and_started_again_gives_the_same_bytes(
    reference: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The moment is drawn anew in each run of the tests: after how many lines of the log, and how long after that."""
    chosen = request.config.getoption("--kill-seed")
    seed = random.SystemRandom().randrange(10**6) if chosen is None else chosen
    draw = random.Random(seed)
    lines = draw.randrange(1, (reference / LOG).read_text().count("\n"))
    later = draw.uniform(0, 2)
    print(f"killed {later:.2f} s after line {lines} of the log; again with --kill-seed {seed}")
    process = start("benchmark", tmp_path, *SMALL)
    deadline = time.monotonic() + 300
    while not (tmp_path / LOG).is_file() or (tmp_path / LOG).read_text().count("\n") < lines:
        assert process.poll() is None and time.monotonic() < deadline, f"never reached line {lines}"
        time.sleep(0.05)
    time.sleep(later)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    called("benchmark", tmp_path, *SMALL)
    assert tables(tmp_path) == tables(reference)


def test_another_seed_gives_another_result(reference: Path, tmp_path: Path) -> None:
    called(
        "benchmark",
        tmp_path,
        "--profile",
        "smoke",
        "--phantom",
        "--tasks",
        "511",
        "--methods",
        "scratch",
        "--seed",
        "1",
    )
    mine = pd.read_csv(tmp_path / "results" / "per_case.csv").query("method == 'scratch'")
    theirs = pd.read_csv(reference / "results" / "per_case.csv").query("method == 'scratch'")
    assert mine["probability"].dropna().tolist() != theirs["probability"].dropna().tolist()


def test_exported_and_imported_weights_are_a_row_again(reference: Path, tmp_path: Path) -> None:
    """The way of an encoder through another tool's checkpoint changes no bit of what is fine-tuned from it."""
    root, file = tmp_path / "root", tmp_path / "sent.pth"
    shutil.copytree(reference, root)
    (trained,) = (root / "results" / "pretraining").glob("mae-*")
    called("weights", root, "export", str(trained), "--format", "nnssl", "--out", str(file))
    assert "can be imported" in called("weights", root, "inspect", str(file))
    assert "scratch,imported:sent" in called("weights", root, "import", str(file))
    output = called("benchmark", root, *SMALL, "--methods", f"scratch,imported:sent,imported:{trained.name}")
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
    called("prepare", tmp_path, "-d", "601", "--source", str(REALDATA / "brats2013"))
    called("prepare", tmp_path, "-d", "602", "--source", str(REALDATA / "openms"))
    options = ("--profile", "smoke")
    # The scans are large for a test: every third millimetre will do.
    called("plan", tmp_path, "-d", "601", "602", "--spacing", "3", "3", "3", *options)
    spacing = ("--planning.spacing", "3", "3", "3")
    called("pretrain", tmp_path, "-d", "601", "602", "--method", "mae", *spacing, *options)
    both = ("--tasks", "601", "--pretrain-datasets", "601", "602", "--methods", "scratch", "brainmvp")
    called("benchmark", tmp_path, *both, *spacing, *options, "--segmentation.keep-predictions")
    board = pd.read_csv(tmp_path / "results" / "leaderboard_segmentation.csv")
    assert set(board["source"]) == {"real"} and set(board["target"]) == {"mean", "WT", "TC", "ET"}
    assert board["mean"].between(0, 1).all()
    predictions = list((tmp_path / "results/cells").rglob("predictions/*.nii.gz"))
    assert len(predictions) == 2
    record = json.loads(next((tmp_path / "results/pretraining").glob("brainmvp*/encoder.json")).read_text())
    held_out = predictions[0].name.removesuffix(".nii.gz")
    assert held_out not in [case for data in record["data"] for case in data["cases"]]
    assert {len(data["patients"]) for data in record["data"]} == {3, 2}
