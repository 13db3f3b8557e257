"""The benchmark through its console script, in this process, on two tiny tasks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from mvp_bench import cli
from mvp_bench.workspace import Workspace
from tests.toy import toy_card, toy_dataset, write_cards

Benchmark = Callable[..., tuple[int, str]]


@pytest.fixture
def toys(workspace: Workspace) -> Workspace:
    """A segmentation task, a classification task, and data to pre-train on."""
    cards = [toy_card("segmentation", 901), toy_card("classification", 902), toy_card("pretraining", 903)]
    write_cards(workspace.root, *cards)
    for card in cards:
        toy_dataset(workspace, card)
    return workspace


@pytest.fixture
def benchmark(toys: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Benchmark:
    """Run ``mvp_benchmark`` on the classification task unless told otherwise; returns exit code and all output."""
    defaults = ["--profile", "smoke", "--workers", "1", "--pretrain-datasets", "903"]

    def call(*options: object, tasks: str = "902", methods: str = "scratch") -> tuple[int, str]:
        chosen = ["--tasks", tasks, "--methods", methods, *map(str, options)]
        monkeypatch.setattr(sys, "argv", ["mvp_benchmark", "--root", str(toys.root), *defaults, *chosen])
        with pytest.raises(SystemExit) as stopped:
            cli.benchmark()
        printed = capsys.readouterr()
        return int(stopped.value.code or 0), " ".join((printed.out + printed.err).split())

    return call


def tables(workspace: Workspace) -> dict[str, bytes]:
    """Every CSV but the costs, which hold times."""
    return {path.name: path.read_bytes() for path in workspace.results.glob("*.csv") if path.name != "cost.csv"}


def table(workspace: Workspace, name: str) -> pd.DataFrame:
    """One of the CSV files."""
    return pd.read_csv(workspace.results / f"{name}.csv", keep_default_na=False, dtype=str)


def cell_of(workspace: Workspace, method: str, task: str = "902") -> Path:
    """The folder of the only cell of a method on a task."""
    (folder,) = (path for path in workspace.cells.glob(f"*{task}_*/{method}/*") if path.is_dir())
    return folder
