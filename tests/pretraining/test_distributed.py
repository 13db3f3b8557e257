"""Several processes under torchrun do what one does with a batch as large."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from mvp_bench.pretraining.distributed import Processes, SyncBatchNorm, rows_of_all, share_batch_norms
from tests.pretraining.launched import train

ROOT = Path(__file__).parents[2]
STEPS = 10
"""Enough for the longest queue (of mocov3's case) to go round."""
TOLERANCE = 1e-5


def torchrun(runs: Mapping[Path, Mapping[str, Any]]) -> subprocess.Popen[str]:
    """Start two processes that make the runs, one after the other."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, "-m", "tests.pretraining.launched", json.dumps({str(f): what for f, what in runs.items()})],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit code and output; a launch that hangs is ended."""
    try:
        output, _ = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher ends its processes
        output, _ = process.communicate()
        raise AssertionError(f"hangs: {output}") from None
    return process.returncode, output


def losses(folder: Path) -> list[dict[str, float]]:
    with (folder / "log.csv").open() as handle:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(handle)]


CASES: dict[str, dict[str, Any]] = {
    "brainmvp": {
        "config": {},
        "options": {"cross_modal_start": 0.1, "contrastive_start": 0.2},
        "encoder": "resenc-smoke",
    },
    "batch norm": {
        "config": {"accumulation": 2},
        "options": {"contrastive_start": 0.0, "gather_negatives": True, "target": "all", "slots": 2},
        "encoder": "normed",
    },
    "mae": {"config": {"method": "mae"}, "options": {}, "encoder": "resenc-smoke"},
    **{
        file.stem.removeprefix("ddp_"): json.loads(file.read_text())
        for file in sorted(Path(__file__).parent.glob("methods/ddp_*.json"))
    },
}
"""What is trained twice; the methods' own cases lie beside their tests."""


SHORT = {**CASES["brainmvp"], "config": {"steps": 8, "batch_size": 2, "checkpoint_every": 2, "log_every": 1}}


def settings(name: str, batch: int) -> dict[str, Any]:
    config = {"steps": STEPS, "log_every": 1, "checkpoint_every": 50, "batch_size": batch}
    return {**CASES[name], "config": {**config, **CASES[name]["config"]}}


@dataclass(frozen=True)
class Killed:
    """A run one of whose processes was killed: its folder, and how the launch ended."""

    folder: Path
    code: int
    output: str
    finished: bool


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed") / "run"
    process = torchrun({folder: {**SHORT, "slow": 0.1}})
    deadline = time.monotonic() + 60
    while not (folder / "checkpoint_last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(trainer(process.pid, rank=1), signal.SIGKILL)
    code, output = ended(process)
    return Killed(folder, code, output, (folder / "encoder.json").exists())


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, killed: Killed) -> Path:
    """The folder of the runs of two processes; the killed one has been gone on with in the same launch."""
    folder = tmp_path_factory.mktemp("launched")
    whole = {folder / name: settings(name, 2) for name in CASES}
    code, output = ended(torchrun({**whole, folder / "whole": SHORT, killed.folder: SHORT}))
    assert code == 0, output
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one_with_twice_the_batch(launched: Path, tmp_path: Path, name: str) -> None:
    train(tmp_path / "one", **settings(name, 4))
    one, two = losses(tmp_path / "one"), losses(launched / name)
    assert len(one) == len(two) == STEPS and one[-1].keys() == two[-1].keys()
    assert max(abs(a[k] - b[k]) for a, b in zip(one, two, strict=True) for k in a) < TOLERANCE
    assert abs(one[0]["total"] - one[-1]["total"]) > 100 * TOLERANCE  # something was learned meanwhile
    records = [json.loads((folder / "encoder.json").read_text()) for folder in (tmp_path / "one", launched / name)]
    assert "processes" not in records[0]["config"] and records[1]["config"]["processes"] == 2
    assert records[0]["cost"]["voxels_seen"] == records[1]["cost"]["voxels_seen"]


@pytest.mark.slow
def test_a_killed_process_is_reported_and_the_run_resumable(launched: Path, killed: Killed) -> None:
    assert killed.code != 0
    output = killed.output
    assert "error: process 0 of 2: found" in output and "another process of this run ended" in output, output
    assert "goes on from the last checkpoint" in output and "SIGKILL" in output, output
    assert not killed.finished
    for file in ("encoder.safetensors", "log.csv", "templates/t1.nii.gz"):
        assert (killed.folder / file).read_bytes() == (launched / "whole" / file).read_bytes(), file


def trainer(launcher: int, rank: int) -> int:
    """Process id of a rank among the launcher's children."""
    for task in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((task / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == launcher and f"RANK={rank}" in (task / "environ").read_text().split("\0"):
                return int(task.name)
        except (OSError, IndexError):
            continue
    raise AssertionError("no such process")


def test_alone_nothing_is_changed() -> None:
    alone = Processes()
    values = torch.randn(3)
    assert alone.first and alone.mean(values) is values and alone.everyone(1) == [1]
    assert alone.from_first(lambda: 7) == 7
    assert rows_of_all(values) is values
    network = torch.nn.Sequential(torch.nn.BatchNorm3d(2))
    assert share_batch_norms(network, torch.device("cpu"))[0].__class__ is torch.nn.BatchNorm3d


def test_own_batch_norm_equals_torchs_where_it_is_alone() -> None:
    ours, theirs = SyncBatchNorm(3), torch.nn.BatchNorm3d(3)
    images = torch.randn(2, 3, 4, 4, 4)
    assert torch.equal(ours(images), theirs(images))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
