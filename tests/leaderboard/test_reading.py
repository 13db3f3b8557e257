"""Reading cells: nothing is dropped, everything is checked, and what is not of today is put aside."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mvp_bench import identity
from mvp_bench.cells.files import METRICS_FILE, read_result
from mvp_bench.cells.record import current_stages
from mvp_bench.cells.spec import CellSpec
from mvp_bench.io import write_json
from mvp_bench.leaderboard import reading
from mvp_bench.leaderboard.reading import Current, CurrentData, OpenCell, read_cells

PED, ISLES = "Dataset501_BraTS2023-PED", "Dataset503_ISLES22"
ADNI = "Dataset512_ADNI"


def only_open(folder: Path) -> OpenCell:
    cells = read_cells(folder)
    assert not cells.finished and not cells.superseded
    assert len(cells.open) == 1
    return cells.open[0]


def test_no_cells_at_all(cells) -> None:
    assert read_cells(cells.workspace.cells) == read_cells(cells.workspace.root / "nowhere")


def test_finished_cells_come_sorted(cells) -> None:
    for task, method, seed in ((ADNI, "mae", 1), (PED, "scratch", 0), (ADNI, "mae", 0), (PED, "brainmvp", 0)):
        cells.write(task, method, seed)
    found = [(c.spec.task, c.spec.method, c.spec.seed) for c in read_cells(cells.workspace.cells).finished]
    assert found == [(PED, "brainmvp", 0), (PED, "scratch", 0), (ADNI, "mae", 0), (ADNI, "mae", 1)]


def test_a_failed_cell_says_why(cells) -> None:
    cells.fail(PED, "mae", seed=3)
    cell = only_open(cells.workspace.cells)
    assert (cell.status, cell.error_type, cell.task, cell.method) == ("failed", "RuntimeError", PED, "mae")
    assert "out of memory" in cell.error
    assert cell.record is not None and cell.record.spec.seed == 3


def test_a_failed_cell_without_a_record_is_listed(cells) -> None:
    cells.fail(PED, "mae", with_record=False)
    assert only_open(cells.workspace.cells).record is None


def test_a_killed_cell_is_unfinished(cells) -> None:
    folder = cells.write(PED, "mae")
    (folder / METRICS_FILE).unlink()
    assert only_open(cells.workspace.cells).status == "unfinished"


def test_a_cell_that_finished_after_a_failure_is_finished(cells) -> None:
    folder = cells.write(PED, "mae")
    write_json(folder / "failure.json", {"type": "RuntimeError", "error": "the first time"})
    assert len(read_cells(cells.workspace.cells).finished) == 1


def test_folders_being_written_are_not_cells(cells) -> None:
    folder = cells.write(PED, "mae")
    folder.rename(folder.parent / f".{folder.name}.tmp")
    assert read_cells(cells.workspace.cells).open == ()


@pytest.mark.parametrize("name", ["cell.json", "per_case.csv", "metrics.json"])
@pytest.mark.parametrize("text", [None, "", "{", "case\n", "[" * 100_000, b"\xff\xfe\x00"])
def test_a_damaged_file_is_listed_by_name_and_takes_nothing_away(cells, name: str, text: str | bytes | None) -> None:
    cells.write(ADNI, "scratch")
    file = cells.write(ADNI, "mae") / name
    if text is None:
        file.unlink()
    else:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    found = read_cells(cells.workspace.cells)
    assert [cell.spec.method for cell in found.finished] == ["scratch"]
    (cell,) = found.open
    if name == METRICS_FILE and text is None:
        assert cell.status == "unfinished"
    else:
        assert cell.status == "broken" and name in cell.error


def test_a_broken_cell_keeps_its_coordinates_where_they_are_known(cells) -> None:
    """Its row then says what is missing."""
    file = cells.write(ADNI, "mae", seed=4) / "per_case.csv"
    file.write_text("case\n")
    cell = only_open(cells.workspace.cells)
    assert cell.record is not None and cell.record.spec.seed == 4


@pytest.mark.parametrize("error", [KeyError("x"), MemoryError(), RecursionError(), OSError("gone"), ValueError("odd")])
def test_whatever_happens_in_a_cell_stays_there(cells, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    for method in ("scratch", "mae"):
        cells.write(PED, method)

    def fail(folder: Path) -> object:
        if folder.parent.name == "mae":
            raise error
        return read_result(folder)

    monkeypatch.setattr(reading, "read_result", fail)
    found = read_cells(cells.workspace.cells)
    assert len(found.finished) == 1
    assert [(cell.status, cell.error_type) for cell in found.open] == [("broken", type(error).__name__)]


# ----------------------------------------------------------------------------------------------------------- superseded


def current_of(spec: CellSpec, **changes: object) -> Current:
    data = CurrentData(spec.needs.dataset, spec.needs.splits, tuple(spec.metrics))
    return Current({spec.task: replace(data, **changes)})  # type: ignore[arg-type]


def test_a_cell_of_the_prepared_data_counts(cells) -> None:
    cells.write(PED, "mae")
    assert len(read_cells(cells.workspace.cells, current_of(cells.spec(PED, "mae"))).finished) == 1


def test_a_task_that_is_not_prepared_here_cannot_be_checked(cells) -> None:
    cells.write(PED, "mae")
    assert len(read_cells(cells.workspace.cells, current_of(cells.spec(ADNI, "mae"), dataset="x")).finished) == 1


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"dataset": "0123456789abcdef"}, "other data", "those prepared now are 0123456789"),
        ({"splits": "0123456789abcdef"}, "other splits", "those prepared now are 0123456789"),
        ({"metrics": ("auroc",)}, "other metrics", "metrics the default, while the card's are auroc"),
    ],
)
def test_a_cell_of_other_data_is_put_aside(cells, change: dict, kind: str, message: str) -> None:
    cells.write(ADNI, "mae")
    cells.fail(ADNI, "mae", seed=1)
    found = read_cells(cells.workspace.cells, current_of(cells.spec(ADNI, "mae"), **change))
    assert not found.finished and not found.open
    for cell in found.superseded:
        assert (cell.status, cell.error_type) == ("superseded", kind) and message in cell.error
    assert len(found.superseded) == 2


@pytest.mark.parametrize("stage", ["phantom", "prepare", "plan", "pretrain", "finetune", "score"])
def test_a_cell_of_older_arithmetic_is_put_aside(cells, stage: str) -> None:
    cells.write(PED, "mae")
    now = Current(stages=current_stages() | {stage: 99})
    (cell,) = read_cells(cells.workspace.cells, now).superseded
    assert cell.error_type == "older arithmetic" and stage in cell.error


def test_older_arithmetic_is_known_without_being_told(cells, monkeypatch: pytest.MonkeyPatch) -> None:
    cells.write(PED, "mae")
    monkeypatch.setitem(identity.RESULT_VERSIONS, "finetune", 99)
    assert len(read_cells(cells.workspace.cells).superseded) == 1


def test_cells_of_an_older_format_are_put_aside(cells) -> None:
    folder = cells.workspace.cells / PED / "mae" / "resenc-mini-reinit-labels1-fold0-seed0-0123456789"
    write_json(folder / "cell.json", {"task": PED, "kind": "segmentation", "method": "mae", "encoder": "e", "seed": 0})
    write_json(folder / METRICS_FILE, {"dice": 0.7})
    (cell,) = read_cells(cells.workspace.cells).superseded
    assert (cell.task, cell.method, cell.error_type) == (PED, "mae", "older format")


@pytest.mark.parametrize("how", ["failed", "unfinished", "broken"])
def test_what_was_tried_once_does_not_stay_for_ever(cells, how: str) -> None:
    """Other settings, same coordinates: once a cell of them is finished, the earlier trial is history."""
    old = {"settings": {"epochs": 1}}
    if how == "failed":
        cells.fail(ISLES, "mae", **old)
    else:
        folder = cells.write(ISLES, "mae", **old)
        (folder / METRICS_FILE).unlink() if how == "unfinished" else (folder / "per_case.csv").write_text("")
    assert read_cells(cells.workspace.cells).open[0].status == how
    cells.write(ISLES, "mae")
    found = read_cells(cells.workspace.cells)
    assert len(found.finished) == 1 and not found.open
    (cell,) = found.superseded
    assert cell.error_type == "overtaken" and cell.error.startswith(how)


def test_the_later_of_two_failures_is_listed(cells) -> None:
    first = cells.fail(ISLES, "mae", settings={"epochs": 1})
    second = cells.fail(ISLES, "mae")
    for folder, when in ((first, "2026-01-01"), (second, "2026-01-02")):
        write_json(folder / "failure.json", {"type": "RuntimeError", "error": "x", "when": when})
    found = read_cells(cells.workspace.cells)
    assert [cell.cell_id for cell in found.open] == [second.name]
    assert [cell.cell_id for cell in found.superseded] == [first.name]


def test_other_coordinates_are_another_cell(cells) -> None:
    cells.fail(ISLES, "mae", seed=1)
    for changes in ({"seed": 0}, {"seed": 1, "fold": 1}, {"seed": 1, "label_budget": 0.5}, {"seed": 1, "stem": "x"}):
        cells.write(ISLES, "mae", **changes)
    cells.write(PED, "mae", 1)
    assert len(read_cells(cells.workspace.cells).open) == 1


def test_copies_under_other_names_are_broken_and_change_nothing(cells) -> None:
    folder = cells.write(ISLES, "mae")
    shutil.copytree(folder, folder.parent / "copy")
    shutil.copytree(folder.parent, folder.parent.parent / "brainmvp")
    found = read_cells(cells.workspace.cells)
    assert len(found.finished) == 1
    assert len(found.open) == 3 and not found.superseded
    assert all(cell.status == "broken" and "its folder names" in cell.error for cell in found.open)
