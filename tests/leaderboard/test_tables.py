"""The leaderboards as a whole, on made-up cells."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score, recall_score, roc_auc_score

from mvp_bench.cells.per_case import numbers_of
from mvp_bench.cells.record import Machine
from mvp_bench.leaderboard.columns import table_columns
from mvp_bench.leaderboard.reading import read_cells
from mvp_bench.leaderboard.statistics import BETTER
from mvp_bench.leaderboard.tables import build_leaderboards
from tests.leaderboard.boards import ADNI, BRATS18, CONFIG, ISLES, PED, build, pick, write

COLUMNS = table_columns()
MEASURED = {column.name for column in numbers_of("segmentation")}
README = Path(__file__).parents[2] / "results" / "README.md"


def written(workspace) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(workspace.results.iterdir()) if p.is_file()}


@pytest.fixture(scope="module")
def full(tmp_path_factory, cells_in):
    """10 tasks x 3 methods x 2 seeds, written once."""
    cells = cells_in(tmp_path_factory.mktemp("full"))
    cells.write_all()
    return cells, write(cells)


# ------------------------------------------------------------------------------------------------------------ the files


def test_all_files_are_written_and_again_with_the_same_bytes(full) -> None:
    cells, _ = full
    before = written(cells.workspace)
    assert set(before) == {*COLUMNS, "leaderboard.png"}
    write(cells)
    assert written(cells.workspace) == before


def test_the_order_in_which_cells_were_made_does_not_matter(tmp_path: Path, cells_in) -> None:
    other = cells_in(tmp_path)
    for task in (ADNI, PED):
        for method in ("scratch", "mae"):
            for seed in (1, 0):
                other.write(task, method, seed)
    again = cells_in(tmp_path / "again")
    for method in ("mae", "scratch"):
        for task in (PED, ADNI):
            for seed in (0, 1):
                again.write(task, method, seed)
    write(other), write(again)
    assert written(other.workspace) == written(again.workspace)


def test_the_order_of_cells_on_disk_does_not_matter(full, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems list folders as they please."""
    cells, _ = full
    before = written(cells.workspace)
    original = Path.glob
    monkeypatch.setattr(Path, "glob", lambda path, pattern: reversed(list(original(path, pattern))))
    write(cells)
    assert written(cells.workspace) == before


def test_another_seed_moves_intervals_and_nothing_else(full) -> None:
    cells, first = full
    second = build_leaderboards(read_cells(cells.workspace.cells), CONFIG, seed=1)
    moved = {name for name in first.segmentation if not first.segmentation[name].equals(second.segmentation[name])}
    assert {"ci_low", "ci_high", "diff_ci_low", "diff_ci_high"} <= moved
    assert not moved & {"mean", "difference_to_scratch", "p_holm", "rank", "n_cases"}


def test_one_method_more_changes_no_interval_of_the_others(cells) -> None:
    for method in ("scratch", "mae"):
        cells.write(PED, method)
    before = build(cells).segmentation
    cells.write(PED, "brainmvp")
    after = build(cells).segmentation
    kept = after[after["method"] != "brainmvp"].reset_index(drop=True)
    columns = ["method", "target", "mean", "ci_low", "ci_high", "difference_to_scratch", "diff_ci_low", "diff_ci_high"]
    pd.testing.assert_frame_equal(before[columns], kept[columns])


def test_columns_are_those_documented(full) -> None:
    cells, _ = full
    for name in COLUMNS:
        section = re.search(rf"^### {re.escape(name)}\n(.*?)(?=^### |\Z)", README.read_text(), re.M | re.S)
        assert section, f"{name} is not documented"
        documented = re.findall(r"^\| `(\w+)` \| \S", section[1], re.M)
        header = (cells.workspace.results / name).read_text().split("\n", 1)[0].split(",")
        assert header == list(COLUMNS[name])
        # Metrics that are added describe their columns themselves.
        assert documented == [column for column in header if column in documented or column not in MEASURED]
        if name != "methods.csv":
            assert header[:6] == ["task", "method", "encoder", "mode", "schedule", "label_budget"]


def test_no_column_is_always_empty_and_line_ends_are_line_feeds(full) -> None:
    cells, _ = full
    for name in COLUMNS:
        raw = (cells.workspace.results / name).read_bytes()
        assert b"\r" not in raw and raw.endswith(b"\n")
    unknown = {"leak_note", "recipe_key", "note", "pretrain_seed"}  # filled where there is something to say
    for name in ("leaderboard.csv", "leaderboard_segmentation.csv", "leaderboard_classification.csv", "per_case.csv"):
        table = pd.read_csv(cells.workspace.results / name)
        assert not [column for column in table if table[column].isna().all() and column not in unknown]


def test_times_stand_in_cost_only(tmp_path: Path, cells_in) -> None:
    slower = cells_in(tmp_path)
    cost = {"wall_time_s": 9999.0, "peak_memory_mb": 1.0, "parameters": 7, "voxels_seen": 7}
    faster = cells_in(tmp_path / "faster")
    for factory, changes in ((slower, {"cost": cost}), (faster, {})):
        for method in ("scratch", "mae"):
            factory.write(PED, method, **changes)
        write(factory)
    one, other = written(slower.workspace), written(faster.workspace)
    assert {name for name in one if one[name] != other[name]} == {"cost.csv"}


def test_cost_has_a_row_per_cell(full) -> None:
    cells, _ = full
    cost = pd.read_csv(cells.workspace.results / "cost.csv")
    assert len(cost) == 60
    assert (cost["status"] == "finished").all()
    assert set(cost["wall_time_s"]) == {61.5, 62.5}


# ---------------------------------------------------------------------------------------------------------- the numbers


def test_means_recomputed_from_per_case_csv(full) -> None:
    """Independently, from the two files a reviewer has."""
    cells, _ = full
    scores = pd.read_csv(cells.workspace.results / "per_case.csv", dtype={"patient": str}, float_precision="round_trip")
    board = pd.read_csv(cells.workspace.results / "leaderboard_segmentation.csv")
    dice = scores[scores["reference_voxels"].notna()]
    by_case = dice.groupby(["task", "method", "target", "case"])["dice"].mean()
    by_region = by_case.groupby(["task", "method", "target"]).mean()
    overall = by_region.groupby(["task", "method"]).mean()
    assert len(board) == 3 * sum(1 + n for n in (3, 3, 1, 3, 3, 1))
    for row in board.itertuples():
        expected = (
            overall[row.task, row.method] if row.target == "mean" else by_region[row.task, row.method, row.target]
        )
        assert row.mean == pytest.approx(expected, abs=1e-12)
        base = overall[row.task, "scratch"] if row.target == "mean" else by_region[row.task, "scratch", row.target]
        if row.method != "scratch":
            assert row.difference_to_scratch == pytest.approx(expected - base, abs=2e-12)


def test_classification_recomputed_from_per_case_csv(full) -> None:
    cells, _ = full
    scores = pd.read_csv(cells.workspace.results / "per_case.csv", float_precision="round_trip")
    board = pd.read_csv(cells.workspace.results / "leaderboard_classification.csv")
    scores = scores[scores["probability"].notna()]
    assert len(board) == 4 * 3 * 4
    for (task, method), group in scores.groupby(["task", "method"]):
        found: dict[str, list[float]] = {"accuracy": [], "balanced_accuracy": [], "auroc": [], "f1": []}
        for _, run in group.groupby("seed"):
            cases = run.drop_duplicates("case")
            found["accuracy"].append((cases["truth"] == cases["predicted"]).mean())
            found["balanced_accuracy"].append(recall_score(cases["truth"], cases["predicted"], average="macro"))
            found["f1"].append(f1_score(cases["truth"], cases["predicted"], average="macro"))
            areas = [roc_auc_score(t["truth"] == name, t["probability"]) for name, t in run.groupby("target")]
            found["auroc"].append(np.mean(areas))
        for metric, values in found.items():
            row = pick(board, task=task, method=method, metric=metric)
            assert row["mean"] == pytest.approx(np.mean(values), abs=1e-12)


def test_rows_are_sound(full) -> None:
    _, boards = full
    for table in (boards.segmentation, boards.classification):
        assert (table["ci_low"] <= table["mean"]).all() and (table["mean"] <= table["ci_high"]).all()
        assert table[["ci_low", "ci_high"]].min().min() >= 0 and table[["ci_low", "ci_high"]].max().max() <= 1
        assert (table["n_cases"] == 18).all() and (table["n_patients"] == 12).all()
        assert (table["n_seeds"] == 2).all() and (table["n_folds"] == 1).all() and (table["n_missing"] == 0).all()
        others = table[table["method"] != "scratch"]
        assert others["verdict"].str.startswith("2 seeds: no winner called").all()
        assert (table.loc[table["method"] == "scratch", "verdict"] == "reference").all()
        key = "target" if "target" in table else "metric"
        assert (table.groupby(["task", key])["rank"].sum() == 6).all()
        assert (table[table["rank"] == 1]["tied_with_best"] == "yes").all()
    p = boards.classification.set_index("metric")["p_holm"]
    assert p[["auroc", "f1", "balanced_accuracy"]].isna().all()
    assert p["accuracy"].notna().sum() == 8


def test_overall_is_the_mean_over_tasks(full) -> None:
    _, boards = full
    dice = boards.segmentation[boards.segmentation["target"] == "mean"]
    accuracy = boards.classification[boards.classification["metric"] == "accuracy"]
    both = pd.concat([dice, accuracy])
    for task, table in (("all", both), ("segmentation", dice), ("classification", accuracy)):
        for method, group in table.groupby("method"):
            row = pick(boards.overall, task=task, method=method)
            assert row["mean_rank"] == pytest.approx(group["rank"].mean())
            assert row["n_tasks"] == len(group)
            assert row["n_cases"] == 18 * len(group)
            if method != "scratch":
                assert row["mean_difference_to_scratch"] == pytest.approx(group["difference_to_scratch"].mean())
    assert boards.overall["method"].iloc[0] == "brainmvp"


# ---------------------------------------------------------------------------------------------------- the special cases


def test_empty_references_are_counted(cells) -> None:
    cells.write(PED, "scratch")
    board = build(cells).segmentation
    assert pick(board, target="ET")["n_empty"] == 4  # every fifth of 18 cases
    assert pick(board, target="WT")["n_empty"] == 0
    assert pick(board, target="mean")["n_empty"] == 4


def test_a_winner_needs_three_seeds(cells) -> None:
    for seed in range(3):
        for method in ("scratch", "brainmvp"):
            cells.write(ISLES, method, seed)
        row = pick(build(cells).segmentation, method="brainmvp", target="mean")
        assert row["verdict"] == (
            "better than scratch" if seed == 2 else f"{seed + 1} seed{'s' * (seed > 0)}: no winner called"
        )
        assert row["diff_ci_low"] > 0


def test_or_several_folds(cells) -> None:
    for fold in range(2):
        for method in ("scratch", "brainmvp"):
            cells.write(ISLES, method, fold=fold)
    row = pick(build(cells).segmentation, method="brainmvp", target="mean")
    assert row["verdict"] == BETTER
    assert (row["n_folds"], row["n_seeds"], row["n_patients"]) == (2, 1, 24)


def test_a_method_that_is_missing_on_a_task(cells) -> None:
    for task in (PED, ISLES, ADNI):
        for method in ("scratch", "mae"):
            cells.write(task, method)
    cells.write(PED, "brainmvp")
    boards = build(cells)
    row = pick(boards.overall, task="all", method="brainmvp")
    assert (row["n_tasks"], row["n_tasks_missing"], row["mean_rank"]) == (1, 2, 1)
    assert boards.overall[boards.overall["task"] == "all"]["method"].tolist()[-1] == "brainmvp"  # incomplete: last
    assert pick(boards.overall, task="all", method="mae")["n_tasks_missing"] == 0


def test_a_missing_run_is_marked_and_stops_the_call(cells) -> None:
    for seed in range(4):
        cells.write(ISLES, "scratch", seed)
        if seed:
            cells.write(ISLES, "brainmvp", seed)
    row = pick(build(cells).segmentation, method="brainmvp", target="mean")
    assert row["n_missing"] == 1
    assert row["verdict"] == "1 cell missing: no winner called"


def test_the_difference_is_over_common_runs(cells) -> None:
    for seed in range(3):
        cells.write(ISLES, "scratch", seed)
    cells.write(ISLES, "brainmvp", 1)
    boards = build(cells)
    row = pick(boards.segmentation, method="brainmvp", target="mean")
    scores = boards.per_case
    means = scores[scores["seed"] == 1].groupby("method")["dice"].mean()
    assert row["difference_to_scratch"] == pytest.approx(means["brainmvp"] - means["scratch"], abs=1e-12)
    assert row["verdict"] == "1 seed: no winner called; 2 cells missing: no winner called"


def test_failed_cells_keep_their_rows(cells) -> None:
    cells.write(ISLES, "scratch")
    cells.fail(ISLES, "moco")
    cells.fail(ISLES, "dino", with_record=False)
    boards = build(cells)
    row = pick(boards.segmentation, method="moco", target="mean")
    assert row["verdict"] == "no result: 1 failed (RuntimeError)"
    assert np.isnan(row["mean"]) and np.isnan(row["rank"]) and row["n_cases"] == 0
    assert pick(boards.segmentation, method="scratch", target="mean")["rank"] == 1
    failed = boards.cost.query("status == 'failed'")
    assert failed["method"].tolist() == ["dino", "moco"]
    assert (failed["error"] == "out of memory in step 7").all()


def test_real_and_phantom_never_share_a_row(cells) -> None:
    for source in ("real", "phantom"):
        for method in ("scratch", "brainmvp"):
            cells.write(ISLES, method, source=source, needs={"dataset": source})
    boards = build(cells)
    rows = boards.segmentation[boards.segmentation["target"] == "mean"]
    assert rows[["source", "method", "n_seeds", "rank"]].values.tolist() == [
        ["phantom", "scratch", 1, 2],
        ["phantom", "brainmvp", 1, 1],
        ["real", "scratch", 1, 2],
        ["real", "brainmvp", 1, 1],
    ]
    assert boards.overall["source"].tolist() == ["phantom", "phantom", "real", "real"]


@pytest.mark.parametrize(
    "change",
    [
        {"profile": "full"},
        {"label_budget": 0.4},
        {"needs": {"dataset": "x"}},
        {"needs": {"splits": "x"}},
        {"metrics": ["dice"], "regions": {"lesion": [1], "core": [2]}},
    ],
)
def test_other_conditions_are_other_panels(cells, change: dict) -> None:
    cells.write(ISLES, "scratch")
    cells.write(ISLES, "brainmvp", **change)
    row = pick(build(cells).segmentation, method="brainmvp", target="mean")
    assert row["verdict"] == "no scratch to compare with"
    assert row["rank"] == 1


def test_other_settings_are_other_rows_measured_against_their_own_scratch(cells) -> None:
    for config in ("short", "long"):
        for method in ("scratch", "brainmvp"):
            cells.write(ISLES, method, seed=int(config == "long"), settings={"epochs": config})
    rows = build(cells).segmentation.query("target == 'mean' and method == 'brainmvp'")
    assert rows["n_seeds"].tolist() == [1, 1]
    assert rows["difference_to_scratch"].notna().all()


def test_two_pretrainings_are_never_averaged(cells) -> None:
    cells.write(ISLES, "scratch")
    for encoder in ("first", "second"):
        cells.write(ISLES, "brainmvp", needs={"encoder": encoder}, weights=encoder)
    rows = build(cells).segmentation.query("target == 'mean' and method == 'brainmvp'")
    assert rows["encoder_key"].tolist() == rows["weights"].tolist() == ["first", "second"]


def test_a_pretraining_per_seed_is_one_row(cells) -> None:
    for seed in range(2):
        cells.write(ISLES, "brainmvp", seed, needs={"encoder": f"run{seed}"}, pretrain_seed=seed, weights=f"w{seed}")
    row = pick(build(cells).segmentation, target="mean")
    assert (row["n_seeds"], row["n_pretrain_seeds"], row["encoder_key"]) == (2, 2, "run0;run1")


def test_the_card_may_name_another_ranking_metric(cells) -> None:
    for method in ("scratch", "mae"):
        cells.write(ADNI, method, metrics=["auroc", "accuracy"])
    boards = build(cells)
    assert set(boards.classification.query("ranking == 'yes'")["metric"]) == {"auroc"}
    rank = pick(boards.classification, method="mae", metric="auroc")["rank"]
    assert pick(boards.overall, task="all", method="mae")["mean_rank"] == rank


def test_one_test_patient_has_a_score_and_no_interval(tmp_path: Path, cells_in) -> None:
    cells = cells_in(tmp_path, patients=1)
    for seed in range(3):
        for method in ("scratch", "brainmvp"):
            cells.write(ISLES, method, seed)
            cells.write(BRATS18, method, seed)
    boards = build(cells)
    row = pick(boards.segmentation, method="brainmvp", target="mean")
    assert row["mean"] > 0 and np.isnan(row["ci_low"])
    assert row["verdict"] == "no interval"
    assert boards.classification.query("metric == 'auroc'")["mean"].isna().all()  # one class only


def test_an_empty_workspace_gives_empty_tables(cells) -> None:
    boards = write(cells)
    assert boards.segmentation.empty and boards.overall.empty
    for name, columns in COLUMNS.items():
        assert (cells.workspace.results / name).read_text() == ",".join(columns) + "\n"


def test_a_failed_run_belongs_to_the_row_of_the_finished_ones(cells) -> None:
    """What did the arithmetic of a failed run is not known; it makes no row of its own."""
    for seed in range(3):
        cells.write(ISLES, "scratch", seed)
    for seed in (0, 1):
        cells.write(ISLES, "mae", seed)
    cells.fail(ISLES, "mae", 2, machine=Machine(), weights=None)
    rows = build(cells).segmentation.query("target == 'mean'")
    assert rows["method"].tolist() == ["scratch", "mae"]
    assert pick(rows, method="mae")["n_missing"] == 1
