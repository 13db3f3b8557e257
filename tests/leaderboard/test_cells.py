"""Reading cells: nothing is dropped, everything is checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvp_bench.io import write_json
from mvp_bench.leaderboard.cells import OpenCell, read_cells

PED = "Dataset501_BraTS2023-PED"
ADNI = "Dataset512_ADNI"


def only_open(folder: Path) -> OpenCell:
    cells = read_cells(folder)
    assert not cells.finished
    assert len(cells.open) == 1
    return cells.open[0]


def change(folder: Path, **fields: object) -> None:
    record = json.loads((folder / "cell.json").read_text())
    write_json(folder / "cell.json", record | fields)


def test_no_cells_at_all(cells) -> None:
    assert read_cells(cells.workspace.cells) == read_cells(cells.workspace.root / "nowhere")


def test_finished_cells_come_sorted(cells) -> None:
    for task, method, seed in ((ADNI, "mae", 1), (PED, "scratch", 0), (ADNI, "mae", 0), (PED, "brainmvp", 0)):
        cells.write(task, method, seed)
    found = [(c.record.task, c.record.method, c.record.seed) for c in read_cells(cells.workspace.cells).finished]
    assert found == [(PED, "brainmvp", 0), (PED, "scratch", 0), (ADNI, "mae", 0), (ADNI, "mae", 1)]


def test_a_failed_cell_says_why(cells) -> None:
    cells.fail(PED, "mae", seed=3)
    cell = only_open(cells.workspace.cells)
    assert (cell.status, cell.error_type, cell.task, cell.method) == ("failed", "RuntimeError", PED, "mae")
    assert "out of memory" in cell.error
    assert cell.record is not None and cell.record.seed == 3


def test_a_failed_cell_without_a_record_is_listed(cells) -> None:
    cells.fail(PED, "mae", with_record=False)
    assert only_open(cells.workspace.cells).record is None


def test_a_killed_cell_is_unfinished(cells) -> None:
    folder = cells.write(PED, "mae")
    (folder / "metrics.json").unlink()
    assert only_open(cells.workspace.cells).status == "unfinished"


def test_a_cell_that_finished_after_a_failure_is_finished(cells) -> None:
    folder = cells.write(PED, "mae")
    write_json(folder / "failure.json", {"type": "RuntimeError", "error": "the first time"})
    assert len(read_cells(cells.workspace.cells).finished) == 1


def test_folders_being_written_are_not_cells(cells) -> None:
    folder = cells.write(PED, "mae")
    folder.rename(folder.parent / f".{folder.name}.tmp")
    assert read_cells(cells.workspace.cells).open == ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": "first"}, "seed"),
        ({"source": "synthetic"}, "source"),
        ({"kind": "detection"}, "kind"),
        ({"label_fraction": 0}, "label_fraction"),
        ({"task": ADNI}, "task and method of its folder"),
        ({"regions": ["WT"]}, "rows for"),
        ({"metrics": ["hd95"]}, "hd95"),
    ],
)
def test_a_damaged_record_is_listed_with_the_field(cells, fields: dict, message: str) -> None:
    change(cells.write(PED, "mae"), **fields)
    cell = only_open(cells.workspace.cells)
    assert cell.status == "unreadable"
    assert message in cell.error


@pytest.mark.parametrize("name", ["cell.json", "per_case.csv"])
@pytest.mark.parametrize("text", [None, "", "{", "case\n"])
def test_a_damaged_file_is_listed_by_name(cells, name: str, text: str | None) -> None:
    file = cells.write(ADNI, "mae") / name
    file.unlink() if text is None else file.write_text(text)
    cell = only_open(cells.workspace.cells)
    assert cell.status == "unreadable"
    assert name in cell.error


def test_a_class_that_the_record_does_not_know_is_listed(cells) -> None:
    file = cells.write(ADNI, "mae") / "per_case.csv"
    file.write_text(file.read_text().replace(",AD,", ",FTD,", 1))
    assert "FTD" in only_open(cells.workspace.cells).error
