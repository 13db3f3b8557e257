"""What is never averaged: other devices, encoders, weights, ways of pre-training, versions of the data."""

from __future__ import annotations

import numpy as np
import pytest

from mvp_bench.cells.record import Machine
from mvp_bench.leaderboard.reading import Current, CurrentData
from tests.leaderboard.boards import ISLES, PED, build, pick
from tests.made_cells import MACHINE


@pytest.mark.parametrize(
    ("machine", "column"),
    [({"device": "cuda"}, "device"), ({"precision": "bf16"}, "precision"), ({"threads": 4}, "threads")],
)
def test_other_arithmetic_is_another_row(cells, machine: dict, column: str) -> None:
    for method in ("scratch", "mae"):
        cells.write(ISLES, method, 0)
        cells.write(ISLES, method, 1, machine=MACHINE.model_copy(update=machine))
    rows = build(cells).segmentation.query("target == 'mean' and method == 'mae'")
    assert sorted(rows[column]) == sorted(str(getattr(m, column)) for m in (MACHINE, Machine(**machine)))
    assert rows["n_seeds"].tolist() == [1, 1]
    assert rows["difference_to_scratch"].notna().all(), "each against scratch of its own arithmetic"


def test_types_of_processor_share_a_row_and_are_named(cells) -> None:
    cells.write(ISLES, "mae", 0)
    cells.write(ISLES, "mae", 1, machine=MACHINE.model_copy(update={"processor": "Another CPU"}))
    cells.write(PED, "mae", 0, machine=Machine(device="cuda", device_name="A GPU", processor="A CPU"))
    boards = build(cells)
    row = pick(boards.segmentation, task=ISLES, target="mean")
    assert (row["n_seeds"], row["processor"]) == (2, "Another CPU;Made-up CPU")
    assert pick(boards.segmentation, task=PED, target="mean")["processor"] == "A GPU"
    assert set(boards.cost["processor"]) == {"Another CPU", "Made-up CPU", "A GPU"}


def test_scratch_of_another_device_is_no_reference(cells) -> None:
    cells.write(ISLES, "scratch")
    cells.write(ISLES, "mae", machine=MACHINE.model_copy(update={"device": "cuda"}))
    row = pick(build(cells).segmentation, method="mae", target="mean")
    assert row["verdict"] == "no scratch to compare with" and np.isnan(row["difference_to_scratch"])


def test_one_encoder_with_two_sets_of_weights_is_two_rows(cells) -> None:
    for seed, weights in ((0, "old"), (1, "old"), (2, "new")):
        cells.write(ISLES, "scratch", seed)
        cells.write(ISLES, "mae", seed, weights=weights)
    boards = build(cells)
    rows = boards.segmentation.query("target == 'mean' and method == 'mae'")
    assert rows[["weights", "n_seeds", "n_missing"]].values.tolist() == [["new", 1, 2], ["old", 2, 1]]
    assert rows["encoder_key"].nunique() == 1
    overall = pick(boards.overall, method="mae", task="all")
    assert (overall["n_tasks"], overall["n_tasks_missing"]) == (0, 1) and np.isnan(overall["mean_rank"])
    assert overall["note"] == f"{ISLES} left out: several rows of one method"


def test_encoders_of_one_pretraining_seed_are_told_apart_even_for_other_seeds(cells) -> None:
    for seed in range(2):
        cells.write(ISLES, "mae", seed, needs={"encoder": f"run{seed}"}, pretrain_seed=0)
    assert build(cells).segmentation.query("target == 'mean'")["encoder_key"].tolist() == ["run0", "run1"]


def test_ways_of_pretraining_are_told_apart(cells) -> None:
    for seed, recipe in enumerate(("short", "long")):
        cells.write(ISLES, "mae", seed, recipe=recipe, pretrain_seed=seed, needs={"encoder": recipe})
    boards = build(cells)
    assert boards.segmentation.query("target == 'mean'")["recipe_key"].tolist() == ["long", "short"]
    assert boards.overall.query("task == 'all'")["recipe_key"].tolist() == ["long", "short"]


def test_an_encoder_per_fold_is_one_row(cells) -> None:
    """The test patients of a fold are left out of its own pre-training."""
    for fold in range(3):
        cells.write(ISLES, "mae", fold=fold, needs={"encoder": f"run{fold}"}, pretrain_seed=0, weights=f"w{fold}")
    row = pick(build(cells).segmentation, target="mean")
    assert (row["n_folds"], row["n_patients"], row["n_pretrain_seeds"]) == (3, 36, 1)


def test_several_pretrainings_per_seed_are_runs_of_one_row(cells) -> None:
    for seed in range(2):
        cells.write(ISLES, "scratch", seed)
        for number in range(2):
            cells.write(ISLES, "mae", seed, pretrain_seed=number, needs={"encoder": f"run{number}"})
    boards = build(cells)
    row = pick(boards.segmentation, method="mae", target="mean")
    assert (row["n_seeds"], row["n_pretrain_seeds"], row["n_missing"]) == (2, 2, 0)
    scores = boards.per_case.groupby("method")["dice"].mean()
    assert row["difference_to_scratch"] == pytest.approx(scores["mae"] - scores["scratch"], abs=1e-12)
    cells.fail(ISLES, "brainmvp", 0, pretrain_seed=1)
    cells.write(ISLES, "brainmvp", 0, pretrain_seed=0)
    assert pick(build(cells).segmentation, method="brainmvp", target="mean")["n_missing"] == 2


def test_two_versions_of_the_data_have_no_mean_over_tasks(cells) -> None:
    for method in ("scratch", "mae"):
        cells.write(PED, method)
        for data in ("old", "new"):
            cells.write(ISLES, method, needs={"dataset": data})
    boards = build(cells)
    overall = pick(boards.overall, task="all", method="mae")
    ped = pick(boards.segmentation, task=PED, method="mae", target="mean")
    assert overall["mean_difference_to_scratch"] == ped["difference_to_scratch"]
    assert (overall["n_tasks"], overall["n_tasks_missing"]) == (1, 1)
    assert overall["note"] == f"{ISLES} left out: results on several versions of its data"


def test_data_that_are_mended_replace_the_old(cells) -> None:
    for method in ("scratch", "mae"):
        cells.write(ISLES, method, needs={"dataset": "old"})
        cells.write(ISLES, method, needs={"dataset": "new"})
    splits = cells.spec(ISLES, "mae").needs.splits
    boards = build(cells, Current({ISLES: CurrentData("new", splits)}))
    assert boards.segmentation["dataset_key"].unique().tolist() == ["new"]
    assert len(boards.per_case["cell"].unique()) == 2
    status = boards.cost.groupby("status")["error_type"].unique()
    assert status["superseded"].tolist() == ["other data"] and len(boards.cost) == 4
    assert (boards.overall["note"] == "").all()
