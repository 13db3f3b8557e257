"""What once made the tables lie, or took them away, done again through the console script."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mvp_bench.cells.files import CELL_FILE, METRICS_FILE, PER_CASE_FILE, is_finished
from mvp_bench.datasets.overlap.crosswalk import add_crosswalks
from mvp_bench.io import read_json
from mvp_bench.pretraining.methods import mae
from mvp_bench.workspace import Workspace
from tests.made_cells import CellFactory
from tests.toy import toy_card, toy_dataset, write_cards
from tests.trust.conftest import Benchmark, cell_of, table, tables

BOARD = "leaderboard_classification"


@pytest.mark.parametrize("names", [["patient", "case"], ["class", "predicted"], ["target", "probability"]])
def test_classes_may_be_called_like_columns(toys: Workspace, benchmark: Benchmark, names: list[str]) -> None:
    card = toy_card("classification", 902).model_copy(update={"classes": names})
    write_cards(toys.root, card)
    toy_dataset(toys, card)
    for _ in range(2):
        assert benchmark()[0] == 0
        assert set(table(toys, "per_case")["target"]) == set(names)
        assert len(table(toys, BOARD)) == 4


@pytest.mark.parametrize("seed", [-5, 2**64, 2**200])
def test_a_huge_seed_in_the_results_crashes_nothing(toys: Workspace, benchmark: Benchmark, seed: int) -> None:
    CellFactory(toys).write("Dataset503_ISLES22", "scratch", seed)
    assert benchmark()[0] == 0
    assert str(seed) in set(table(toys, "cost")["seed"]) and len(table(toys, "leaderboard_segmentation")) == 2


@pytest.mark.slow
def test_a_leak_that_was_not_looked_for_is_empty(toys: Workspace, benchmark: Benchmark) -> None:
    """Only what mvp_prepare made, phantoms here, has images that can be compared."""
    phantom = ("--phantom", "--pretrain-datasets", "525")
    assert benchmark(*phantom, tasks="511", methods="mae")[0] == 0
    row = table(toys, BOARD).iloc[0]
    assert (float(row["leak_percent"]), row["leak_note"]) == (0.0, "")
    code, output = benchmark(*phantom, "--overlap.no-images", tasks="511", methods="mae")
    assert code == 0 and "0 cells run, 1 kept" in output
    row = table(toys, BOARD).iloc[0]
    assert row["leak_percent"] == "" and "images" in row["leak_note"]


def test_a_leak_that_is_known_in_part_is_a_lower_bound(toys: Workspace, benchmark: Benchmark) -> None:
    assert benchmark(methods="mae")[0] == 0
    row = table(toys, BOARD).iloc[0]
    assert row["leak_percent"] == "" and row["leak_note"].startswith("not compared: images of")
    crosswalk = toys.root / "table.csv"
    crosswalk.write_text("Toy902,Toy903\np05,p01")
    add_crosswalks(toys, [crosswalk])
    assert "0 cells run, 1 kept" in benchmark(methods="mae")[1]
    row = table(toys, BOARD).iloc[0]
    assert float(row["leak_percent"]) == 50 and row["leak_note"].startswith("at least")


def other_digit(path: Path) -> None:
    """Change one digit of a file to another that is as possible."""
    text = path.read_text()
    place = text.rindex("0.") + 2 if "0." in text else text.rindex("1")
    path.write_text(text[:place] + ("1" if text[place] != "1" else "2") + text[place + 1 :])


def cut(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))


def another_methods(path: Path) -> None:
    other = "mae" if path.parent.parent.name == "scratch" else "scratch"
    (folder,) = (folder for folder in (path.parent.parent.parent / other).iterdir() if folder.is_dir())
    shutil.copy(folder / path.name, path)


@pytest.mark.parametrize("change", [other_digit, cut, another_methods, Path.unlink])
def test_a_changed_table_of_a_cell_is_made_anew(toys: Workspace, benchmark: Benchmark, change) -> None:
    assert benchmark(methods="scratch,mae")[0] == 0
    before = tables(toys)
    change(cell_of(toys, "mae") / PER_CASE_FILE)
    code, output = benchmark(methods="scratch")
    assert code == 0 and "1 cell without a result" in output and PER_CASE_FILE in output
    (broken,) = table(toys, "cost").query("status == 'broken'").to_dict("records")
    assert broken["method"] == "mae" and PER_CASE_FILE in broken["error"]
    scratch = table(toys, BOARD).query("method == 'scratch'")
    assert (scratch["mean"] != "").all()
    code, output = benchmark(methods="scratch,mae")
    assert code == 0 and "1 cells run, 1 kept" in output
    assert tables(toys) == before


@pytest.mark.parametrize("name", [CELL_FILE, METRICS_FILE])
def test_a_changed_record_of_a_cell_is_made_anew(toys: Workspace, benchmark: Benchmark, name: str) -> None:
    assert benchmark()[0] == 0
    before = tables(toys)
    path = cell_of(toys, "scratch") / name
    path.write_text(path.read_text().replace("smoke", "study").replace('"accuracy": 0.5', '"accuracy": 0.9'))
    if name == METRICS_FILE:
        other_digit(path)
    assert not is_finished(path.parent, read_json(path)["key"])
    code, output = benchmark()
    assert code == 0 and "1 cells run, 0 kept" in output
    assert tables(toys) == before


def test_an_encoder_trained_by_changed_code_shares_no_row(
    toys: Workspace, benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same settings, same data, same key, other weights."""
    assert benchmark("--seeds", 0, methods="mae")[0] == 0
    shutil.rmtree(toys.pretraining)
    monkeypatch.setattr(mae, "placed", lambda images, placement: 0.9 * images)
    assert benchmark("--seeds", 1, methods="mae")[0] == 0
    rows = table(toys, BOARD).query("metric == 'accuracy'")
    assert rows["encoder_key"].nunique() == 1 and rows["weights"].nunique() == 2
    assert rows["n_seeds"].tolist() == ["1", "1"]
    overall = table(toys, "leaderboard")
    assert overall["mean_rank"].tolist() == [""] and "several rows" in overall["note"].item()


def test_other_precision_shares_no_row(toys: Workspace, benchmark: Benchmark) -> None:
    for seed, precision in enumerate(("fp32", "bf16")):
        assert benchmark("--seeds", seed, "--precision", precision)[0] == 0
    rows = table(toys, BOARD).query("metric == 'accuracy'")
    assert sorted(rows["precision"]) == ["bf16", "fp32"] and rows["n_seeds"].tolist() == ["1", "1"]
    assert set(rows["device"]) == {"cpu"} and set(rows["threads"]) == {"1"} and (rows["processor"] != "").all()


def test_data_that_are_mended_are_not_averaged_with_the_old(toys: Workspace, benchmark: Benchmark) -> None:
    assert benchmark(tasks="901,902")[0] == 0
    old = table(toys, BOARD)["dataset_key"].unique().tolist()
    toy_dataset(toys, toy_card("classification", 902), seed=1)
    code, output = benchmark(tasks="901,902")
    assert code == 0 and "1 cells run, 1 kept" in output and "1 superseded cell left out (1 other data)" in output
    assert not set(old) & set(table(toys, BOARD)["dataset_key"])
    assert sorted(table(toys, "cost")["status"]) == ["finished", "finished", "superseded"]
    assert (table(toys, "leaderboard")["note"] == "").all()


def test_a_damaged_dataset_of_another_task_takes_no_table_away(toys: Workspace, benchmark: Benchmark) -> None:
    assert benchmark(tasks="901,902")[0] == 0
    path = toys.dataset("Dataset901_Toy901") / "splits.json"
    path.write_bytes(path.read_bytes()[:-20])
    code, output = benchmark(tasks="902")
    assert code == 0 and "results on Dataset901_Toy901 are left out" in output
    assert len(table(toys, BOARD)) == 4 and table(toys, "leaderboard_segmentation").empty
    assert "unreadable" in table(toys, "cost").query("status == 'superseded'")["error"].item()


def test_what_failed_once_does_not_stay_for_ever(
    toys: Workspace, benchmark: Benchmark, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("planted")

    with monkeypatch.context() as patched:
        patched.setattr("mvp_bench.benchmark.cell_job.fit", fail)
        code, output = benchmark("--classification.epochs", 1)
        assert code == 3 and "planted" in output
    code, output = benchmark()
    assert code == 0 and "planted" not in output and "1 superseded cell left out (1 overtaken)" in output
    assert table(toys, BOARD)["n_missing"].unique().tolist() == ["0"]


def test_an_older_workspace_is_recognised(toys: Workspace, benchmark: Benchmark) -> None:
    folder = toys.cells / "Dataset902_Toy902" / "mae" / "resenc-smoke-reinit-labels1-fold0-seed0-0123456789"
    folder.mkdir(parents=True)
    (folder / CELL_FILE).write_text('{"task": "Dataset902_Toy902", "kind": "classification", "method": "mae"}')
    (folder / METRICS_FILE).write_text('{"accuracy": 0.99}')
    (folder / PER_CASE_FILE).write_text(
        "case,patient,class,predicted,p_small,p_large\ncase04,p04,small,small,0.9,0.1\n"
    )
    code, output = benchmark()
    assert code == 0 and "1 superseded cell left out (1 older format)" in output
    assert set(table(toys, BOARD)["method"]) == {"scratch"}
