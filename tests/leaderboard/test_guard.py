"""Nothing takes a table away: broken cells, odd names, huge seeds, metrics that come later."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mvp_bench.cells.files import write_result
from mvp_bench.leaderboard import tables
from mvp_bench.leaderboard.statistics import BETTER
from tests.leaderboard.boards import ADNI, ISLES, PED, build, pick, write


def test_a_broken_cell_is_a_row_of_the_costs(cells) -> None:
    for method in ("scratch", "mae"):
        for seed in range(2):
            folder = cells.write(ISLES, method, seed)
    before = build(cells).segmentation.query("method == 'scratch'")
    (folder / "per_case.csv").write_text("case,patient\n")
    boards = build(cells)
    columns = ["mean", "ci_low", "ci_high", "n_seeds", "n_missing"]
    assert boards.segmentation.query("method == 'scratch'")[columns].equals(before[columns])
    assert pick(boards.segmentation, method="mae", target="mean")["n_missing"] == 1
    row = pick(boards.cost, status="broken")
    assert "per_case.csv" in row["error"] and row["seed"] == 1
    assert (boards.cost["status"] == "finished").sum() == 3


def test_a_task_that_cannot_be_put_together_says_so(cells, monkeypatch: pytest.MonkeyPatch) -> None:
    for task in (PED, ISLES, ADNI):
        cells.write(task, "scratch")
    original = tables.evaluate

    def fail(panel, *arguments):
        if panel.key.task == PED:
            raise RuntimeError("planted")
        return original(panel, *arguments)

    monkeypatch.setattr(tables, "evaluate", fail)
    boards = write(cells)
    row = pick(boards.segmentation, task=PED)
    assert row["verdict"] == "no result: RuntimeError in putting the cells together (planted)" and np.isnan(row["mean"])
    assert pick(boards.segmentation, task=ISLES, target="mean")["mean"] > 0
    assert pick(boards.overall, task="all")["n_tasks"] == 2


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70, 10**40])
def test_a_seed_beyond_64_bits_stays_a_number(cells, seed: int) -> None:
    for method in ("scratch", "mae"):
        cells.write(ISLES, method, seed)
        cells.write(ADNI, method, 0)
    boards = write(cells)
    for name in ("cost.csv", "per_case.csv"):
        table = pd.read_csv(cells.workspace.results / name, dtype=str)
        assert set(table["seed"]) == {str(seed), "0"}
    assert pick(boards.segmentation, method="mae", target="mean")["n_seeds"] == 1


@pytest.mark.parametrize("first", ["patient", "case", "class", "predicted", "probability", "target", "seed", "run"])
def test_classes_of_any_name_have_their_rows(cells, first: str) -> None:
    for method in ("scratch", "mae"):
        cells.write(ADNI, method, classes=[first, "other", "p_other"])
    boards = write(cells)
    assert len(boards.classification) == 8
    assert set(boards.per_case["target"]) == {first, "other", "p_other"}
    assert boards.classification["mean"].notna().all()


def test_a_metric_whose_low_values_are_better_ranks_the_other_way(cells, volume_error: str) -> None:
    for seed in range(3):
        for method, error in (("scratch", 0.5), ("mae", 0.2)):
            record = cells.record(ISLES, method, seed, metrics=[volume_error])
            rows = (
                cells.rows(record.spec)
                .assign(volume_error=error)
                .assign(volume_error=lambda table: table["volume_error"] + table["dice"].rank() / 1000)
            )
            write_result(record.spec.folder(cells.workspace), record, rows)
    boards = write(cells)
    row = pick(boards.segmentation, method="mae", metric=volume_error, target="mean")
    assert row["ranking"] == "yes" and row["rank"] == 1 and row["tied_with_best"] == "yes"
    assert row["difference_to_scratch"] == pytest.approx(0.3, abs=0.01), "a gain is positive"
    assert row["verdict"] == BETTER
    assert pick(boards.overall, task="all", method="mae")["mean_rank"] == 1
    assert pick(boards.segmentation, method="mae", metric="dice", target="mean")["ranking"] == "no"


def test_a_metric_that_was_not_measured_is_empty(cells, request: pytest.FixtureRequest) -> None:
    cells.write(ISLES, "scratch")
    name = request.getfixturevalue("volume_error")
    record = cells.record(ISLES, "mae")
    rows = cells.rows(record.spec).assign(volume_error=0.1)
    write_result(record.spec.folder(cells.workspace), record, rows)
    board = build(cells).segmentation
    row = pick(board, method="scratch", metric=name, target="mean")
    assert row["verdict"] == "not measured when the cells were made" and np.isnan(row["mean"])
    assert pick(board, method="mae", metric=name, target="mean")["mean"] == pytest.approx(0.1)
    assert pick(board, method="scratch", metric="dice", target="mean")["mean"] > 0
