"""A cell's files: whole or known to be broken, whatever is done to them."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvp_bench import identity
from mvp_bench.cells.files import (
    CELL_FILE,
    FAILURE_FILE,
    METRICS_FILE,
    PER_CASE_FILE,
    OlderFormatError,
    is_finished,
    read_failure,
    read_record,
    read_result,
    verify_model,
    write_failure,
    write_result,
    write_start,
)
from mvp_bench.errors import InputError
from mvp_bench.io import read_json, write_json
from mvp_bench.sealed import write_sealed

PED, ADNI, ISLES = "Dataset501_BraTS2023-PED", "Dataset512_ADNI", "Dataset503_ISLES22"


@pytest.mark.parametrize("task", [PED, ADNI])
def test_what_was_written_is_read(cells, task: str) -> None:
    record = cells.record(task, "mae", seed=3, load_report={"loaded": 12})
    rows = cells.rows(record.spec)
    folder = record.spec.folder(cells.workspace)
    write_result(folder, record, rows)
    result = read_result(folder)
    assert result.record == record
    assert result.rows.equals(rows)
    assert result.scores.key == record.spec.key and result.scores.score == identity.RESULT_VERSIONS["score"]
    assert result.scores.metrics["dice" if task == PED else "accuracy"] > 0
    assert is_finished(folder, record.spec.key)
    assert not is_finished(folder, "another")


def test_files_are_the_same_bytes_again(cells) -> None:
    folder = cells.write(PED, "mae")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    cells.write(PED, "mae")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def broken(folder: Path, key: str) -> str:
    """The message that reading a cell ends with; it is no finished one then."""
    with pytest.raises(InputError) as told:
        read_result(folder)
    assert not is_finished(folder, key)
    return str(told.value)


@pytest.mark.parametrize("name", [CELL_FILE, PER_CASE_FILE, METRICS_FILE])
@pytest.mark.parametrize("text", [None, "", "{", "[]", "case\n", "[" * 100_000])
def test_a_damaged_file_is_named(cells, name: str, text: str | None) -> None:
    folder = cells.write(ADNI, "mae")
    key = cells.spec(ADNI, "mae").key
    (folder / name).unlink() if text is None else (folder / name).write_text(text)
    assert name in broken(folder, key)


@pytest.mark.parametrize("name", [CELL_FILE, PER_CASE_FILE, METRICS_FILE])
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_noticed(cells, name: str, place: int, bit: int) -> None:
    """In metrics.json it may change nothing of the content (a blank that becomes a tab): then all is as before."""
    folder = cells.write(ISLES, "mae")
    before = read_result(folder)
    data = bytearray((folder / name).read_bytes())
    data[place % len(data)] ^= 1 << bit
    (folder / name).write_bytes(bytes(data))
    try:
        after = read_result(folder)
    except InputError as error:
        assert name in str(error)
    else:
        assert name == METRICS_FILE and after.scores == before.scores


def test_an_edited_score_is_noticed(cells) -> None:
    folder = cells.write(PED, "mae")
    text = (folder / PER_CASE_FILE).read_text().splitlines()
    text[1] = text[1].replace("0.", "0.9", 1)
    (folder / PER_CASE_FILE).write_text("\n".join(text) + "\n")
    assert "checksum" in broken(folder, cells.spec(PED, "mae").key)


def test_a_table_cut_short_is_noticed(cells) -> None:
    folder = cells.write(PED, "mae")
    lines = (folder / PER_CASE_FILE).read_text().splitlines(keepends=True)
    (folder / PER_CASE_FILE).write_text("".join(lines[:-3]))
    assert "checksum" in broken(folder, cells.spec(PED, "mae").key)


def test_files_of_another_method_are_noticed(cells) -> None:
    mae, other = cells.write(PED, "mae"), cells.write(PED, "brainmvp")
    key = cells.spec(PED, "mae").key
    shutil.copy(other / PER_CASE_FILE, mae / PER_CASE_FILE)
    assert PER_CASE_FILE in broken(mae, key)
    shutil.copy(other / METRICS_FILE, mae / METRICS_FILE)
    assert "checksum" in broken(mae, key)
    shutil.copy(other / CELL_FILE, mae / CELL_FILE)
    assert "brainmvp" in broken(mae, key)


def test_a_folder_renamed_is_noticed(cells) -> None:
    folder = cells.write(PED, "mae")
    moved = folder.rename(folder.parent / "mine")
    assert "its folder names" in broken(moved, cells.spec(PED, "mae").key)


def resealed(folder: Path, change: Callable[[dict], None]) -> None:
    """Change cell.json and mend every checksum: as a wrong program would, not as damage does."""
    content = read_json(folder / CELL_FILE)
    change(content)
    write_sealed(folder / CELL_FILE, content)
    scores = read_json(folder / METRICS_FILE)
    scores["checksums"][CELL_FILE] = identity.checksum_file(folder / CELL_FILE)
    write_sealed(folder / METRICS_FILE, scores)


def test_a_specification_that_is_not_the_keys_is_noticed(cells) -> None:
    folder = cells.write(PED, "mae")
    resealed(folder, lambda content: content["spec"].update(seed=9))
    assert "not its specification's" in broken(folder, cells.spec(PED, "mae").key)


@pytest.mark.parametrize(
    ("field", "value"), [("seed", "first"), ("source", "synthetic"), ("kind", "detection"), ("label_budget", 0)]
)
def test_a_wrong_field_is_named(cells, field: str, value: object) -> None:
    folder = cells.write(PED, "mae")
    resealed(folder, lambda content: content["spec"].update({field: value}))
    assert field in broken(folder, cells.spec(PED, "mae").key)


def test_an_older_cell_is_recognised(cells) -> None:
    folder = cells.write(PED, "mae")
    write_json(folder / CELL_FILE, {"task": PED, "kind": "segmentation", "method": "mae", "seed": 0})
    write_json(folder / METRICS_FILE, {"dice": 0.7})
    with pytest.raises(OlderFormatError, match="older format"):
        read_result(folder)
    with pytest.raises(OlderFormatError, match="older format"):
        read_record(folder)
    assert not is_finished(folder, cells.spec(PED, "mae").key)


def test_a_score_of_older_arithmetic_is_not_finished(cells, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, key = cells.write(PED, "mae"), cells.spec(PED, "mae").key
    assert is_finished(folder, key)
    monkeypatch.setitem(identity.RESULT_VERSIONS, "score", 99)
    assert not is_finished(folder, key)
    assert read_result(folder).scores.score != 99, "it is whole, though"


def test_a_training_of_older_arithmetic_is_whole_and_another_cell(cells, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cells.write(PED, "mae")
    monkeypatch.setitem(identity.RESULT_VERSIONS, "finetune", 99)
    assert read_result(folder).record.outdated_stages() == ["finetune"]
    assert not is_finished(folder, cells.spec(PED, "mae").key)


def test_stages_that_a_cell_does_not_rest_on_do_not_count(cells) -> None:
    now = {**identity.RESULT_VERSIONS, "pretrain": 99}
    for method, expected in (("mae", ["pretrain"]), ("scratch", []), ("imported:openmind", [])):
        assert cells.record(PED, method).outdated_stages(now) == expected
    now = {**identity.RESULT_VERSIONS, "phantom": 99}
    assert cells.record(PED, "mae").outdated_stages(now) == ["phantom"]
    assert cells.record(PED, "mae", source="real").outdated_stages(now) == []


@pytest.mark.parametrize("planted", ["table", "case", "patient", "target", "high", "low", "nan", "again"])
def test_an_impossible_table_is_not_written(cells, planted: str) -> None:
    record = cells.record(ISLES, "mae")
    rows = cells.rows(record.spec)
    if planted == "table":
        rows = rows.iloc[:-1]
    elif planted == "again":
        rows.loc[1] = rows.loc[0]
    elif planted in ("case", "patient", "target"):
        rows.loc[0, planted] = "stranger"
    else:
        column = "reference_voxels" if planted == "nan" else "dice"
        rows[column] = rows[column].astype(float)
        rows.loc[0, column] = {"high": 1.5, "low": -0.1, "nan": np.nan}[planted]
    folder = record.spec.folder(cells.workspace)
    with pytest.raises(InputError, match=r"per_case\.csv"):
        write_result(folder, record, rows)
    assert not folder.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.__setitem__("probability", 1.1 / rows["target"].nunique()), "1.1"),
        (lambda rows: rows.__setitem__("probability", rows["probability"] * np.nan), "empty probability"),
        (lambda rows: rows.__setitem__("predicted", "AD"), "most probable"),
        (lambda rows: rows.__setitem__("truth", "FTD"), "FTD"),
        (lambda rows: rows.__setitem__("truth", rows["target"]), "two classes of one case"),
    ],
)
def test_impossible_predictions_are_not_written(cells, change: Callable, message: str) -> None:
    record = cells.record(ADNI, "scratch")
    rows = cells.rows(record.spec)
    change(rows)
    with pytest.raises(InputError, match=message):
        write_result(record.spec.folder(cells.workspace), record, rows)


def test_beginning_again_takes_the_earlier_end_away(cells) -> None:
    folder = cells.write(PED, "mae")
    write_json(folder / FAILURE_FILE, {"error": "x", "type": "y"})
    record = cells.record(PED, "mae")
    write_start(folder, record)
    assert not (folder / METRICS_FILE).exists() and read_failure(folder) is None
    assert read_record(folder) == record
    write_result(folder, record, cells.rows(record.spec))
    assert is_finished(folder, record.key)


def test_a_failure_says_what_and_where(cells) -> None:
    record = cells.record(PED, "mae")
    folder = record.spec.folder(cells.workspace)
    try:
        raise ValueError("planted")
    except ValueError as error:
        write_failure(folder, record, error)
    failure = read_failure(folder)
    assert failure is not None and (failure.type, failure.error) == ("ValueError", "planted")
    assert datetime.fromisoformat(failure.when).tzinfo is not None
    assert "test_files.py" in read_json(folder / FAILURE_FILE)["traceback"]
    assert read_record(folder) == record and not is_finished(folder, record.key)
    write_failure(folder, record, "pre-training failed")
    later = read_failure(folder)
    assert later is not None and (later.type, later.error) == ("InputError", "pre-training failed")
    assert later.when >= failure.when
    write_result(folder, record, cells.rows(record.spec))
    assert read_failure(folder) is None


def test_kept_networks_are_verified_when_they_are_opened(cells) -> None:
    record = cells.record(PED, "mae")
    folder = record.spec.folder(cells.workspace)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "model.json").write_text("{}")
    write_result(folder, record, cells.rows(record.spec))
    assert verify_model(read_result(folder)) == folder
    (folder / "model.safetensors").write_bytes(b"weighty")
    with pytest.raises(InputError, match=r"model\.safetensors.*checksum"):
        verify_model(read_result(folder))
    assert is_finished(folder, record.key), "the result is as it was"
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not kept"):
        verify_model(read_result(folder))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_is_named(cells) -> None:
    folder = cells.write(PED, "mae")
    (folder / PER_CASE_FILE).chmod(0)
    assert PER_CASE_FILE in broken(folder, cells.spec(PED, "mae").key)


def test_json_is_plain(cells) -> None:
    folder = cells.write(PED, "mae")
    for name in (CELL_FILE, METRICS_FILE):
        assert "NaN" not in (folder / name).read_text() and json.loads((folder / name).read_text())["checksum"]
