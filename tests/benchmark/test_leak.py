"""Test patients who were in the pre-training data: counted in every row, or left out on demand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mvp_bench.benchmark.verb import run_benchmark
from mvp_bench.cells.leak import LEAK_FILE
from mvp_bench.config.profiles import SMOKE
from mvp_bench.config.verbs import PretrainVerbConfig
from mvp_bench.datasets.overlap.crosswalk import add_crosswalks
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.leaderboard.render.files import write_leaderboards
from mvp_bench.pretraining.verb import run_pretraining
from mvp_bench.workspace import Workspace
from tests.benchmark.conftest import CONFIG
from tests.toy import toy_card

ONE_TASK = replace(CONFIG, tasks=("902",), pretrain_datasets=("903",))
TASK, DATA = (toy_card(number=n).dataset_name for n in (902, 903))


def share(workspace: Workspace, *rows: str, header: str = "Toy902,Toy903") -> None:
    """A crosswalk of the toys' patients; p04 and p05 of 902 are tested, all six of 903 are pre-trained on."""
    path = workspace.root / "table.csv"
    path.write_text("\n".join([header, *rows]))
    add_crosswalks(workspace, [path])


def boards(workspace: Workspace) -> dict[str, bytes]:
    write_leaderboards(workspace, CONFIG.statistics, 0)
    return {path.name: path.read_bytes() for path in workspace.results.glob("*.csv")}


def board(workspace: Workspace) -> pd.DataFrame:
    return pd.read_csv(workspace.results / "leaderboard_classification.csv")


def seen(run: Path) -> dict[str, set[str]]:
    return {data["dataset"]: set(data["patients"]) for data in read_json(run / "encoder.json")["data"]}


def test_a_leak_known_later_reaches_finished_cells(toys: Workspace) -> None:
    run_benchmark(toys, ONE_TASK)
    before = boards(toys)
    unknown = board(toys).set_index("method")["leak_percent"]
    assert unknown["mae"].isna().all() and (unknown["scratch"] == 0).all(), "the toys' images were not compared"
    cells = {path: path.read_bytes() for path in toys.cells.rglob("cell.json")}
    share(toys, "p05,p01", "p00,p02")
    outcome = run_benchmark(toys, ONE_TASK)
    assert (outcome.finished, outcome.reused) == (0, 2)
    assert {path: path.read_bytes() for path in toys.cells.rglob("cell.json")} == cells
    after = boards(toys)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"leaderboard_classification.csv"}
    assert board(toys).groupby("method")["leak_percent"].unique().to_dict() == {"mae": [50.0], "scratch": [0.0]}
    (leak,) = toys.cells.rglob(LEAK_FILE)
    content = {k: v for k, v in read_json(leak).items() if k != "checksum"}
    note = f"at least: not compared: images of {TASK}, {DATA}"
    assert content == {"leak_percent": 50.0, "note": note, "test_patients": 2, "shared": ["p05"]}
    written = leak.stat().st_mtime_ns
    run_benchmark(toys, ONE_TASK)
    assert boards(toys) == after and leak.stat().st_mtime_ns == written


def test_whoever_is_in_a_task_is_left_out_on_demand(toys: Workspace) -> None:
    share(toys, "p05,p01", "p00,p02")
    run_benchmark(toys, replace(ONE_TASK, methods=("mae",)))
    (leaky,) = toys.pretraining.glob("mae-*")
    assert seen(leaky) == {DATA: {f"p0{n}" for n in range(6)}}
    assert f"| {TASK} | 0 | 2 | 1 | 50.0 |" in (leaky / "model_card.md").read_text()
    outcome = run_benchmark(toys, replace(ONE_TASK, methods=("mae",), exclude_overlap=True))
    assert (outcome.finished, outcome.reused) == (1, 0), "another encoder is another cell"
    (clean,) = set(toys.pretraining.glob("mae-*")) - {leaky}
    assert seen(clean) == {DATA: {"p00", "p03", "p04", "p05"}}
    assert read_json(clean / "encoder.json")["data"][0]["excluded_patients"] == ["p01", "p02"]
    assert f"| {TASK} | 0 | 2 | 0 | 0.0 |" in (clean / "model_card.md").read_text()
    boards(toys)
    assert board(toys)["leak_percent"].dropna().unique().tolist() == [50.0]
    assert board(toys)["leak_percent"].isna().sum() == len(board(toys)) / 2, "nobody found among what was looked at"


def test_pretraining_alone_leaves_them_out_too(toys: Workspace) -> None:
    share(toys, "p05,p01", "p00,p02")
    config = PretrainVerbConfig(
        datasets=("901", "903"),
        encoder="resenc-smoke",
        pretrain=replace(SMOKE.pretrain, method="mae"),
        planning=SMOKE.planning,
        workers=1,
        profile="smoke",
        runtime=SMOKE.runtime,
    )
    run = run_pretraining(toys, config)
    assert seen(run)[DATA] == {f"p0{n}" for n in range(6)}
    card = (run / "model_card.md").read_text()
    assert f"| {TASK} | 0 | 2 | 1 | 50.0 |" in card and "| Dataset901_Toy901 | 0 | 2 | 0 | 0.0 |" in card
    clean = run_pretraining(toys, replace(config, exclude_overlap=True))
    assert seen(clean) == {DATA: {"p00", "p03", "p04", "p05"}}, "901 is a task itself"


def test_one_person_in_two_parts_is_refused(toys: Workspace) -> None:
    share(toys, "p05,p01", header="Toy902,Toy902")
    with pytest.raises(InputError, match=r"Toy902, fold 0.*p01 in train and p05 in test"):
        run_benchmark(toys, replace(ONE_TASK, methods=("scratch",)))
    assert not toys.cells.exists()
