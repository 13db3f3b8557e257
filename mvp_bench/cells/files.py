"""The files of a cell, written in an order and with checksums that make a broken one known.

``results/cells/<task>/<method>/<cell id>/``: ``cell.json`` (the record), ``per_case.csv``, where they are kept
``model.safetensors`` and ``model.json``, and last ``metrics.json``, which holds the checksums and means *finished*;
``failure.json`` means that the cell stopped with an error; neither means that it never came to an end.
"""

from __future__ import annotations

import json
import traceback
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import xxhash
from pydantic import Field, ValidationError

from mvp_bench.cells.per_case import PerCaseColumns, check_per_case, columns_from, parse_per_case, write_per_case
from mvp_bench.cells.record import FORMAT, CellRecord
from mvp_bench.cells.spec import Strict
from mvp_bench.errors import InputError
from mvp_bench.identity import RESULT_VERSIONS, checksum_file
from mvp_bench.io import read_json, write_json
from mvp_bench.metrics.registry import aggregate
from mvp_bench.sealed import read_sealed, write_sealed

CELL_FILE = "cell.json"
PER_CASE_FILE = "per_case.csv"
METRICS_FILE = "metrics.json"
FAILURE_FILE = "failure.json"
MODEL_FILES = ("model.safetensors", "model.json")
"""The trained network, where it is kept."""
AGAIN = "The next mvp_benchmark runs this cell again."


class OlderFormatError(InputError):
    """A cell that an older version of the package left behind."""


class ScoreRecord(Strict):
    """``metrics.json``."""

    key: str
    """Key of the specification."""
    score: int
    """Version of the scoring stage's arithmetic."""
    checksums: dict[str, str]
    """File of the cell's folder -> XXH3 (128 bits, hex)."""
    sizes: dict[str, int] = Field(default_factory=dict)
    """Kept network file -> bytes."""
    metrics: dict[str, int | float | None]
    """Metric or count -> value; None: undefined."""
    checksum: str = ""
    """Checksum of everything above."""


@dataclass(frozen=True)
class Failure:
    """What stopped a cell."""

    type: str
    """Name of the exception."""
    error: str
    """Its message."""
    when: str
    """Time in UTC, ISO 8601; empty if unknown."""


@dataclass(frozen=True, eq=False)  # tables have no single truth value
class Result:
    """A finished cell, read and verified."""

    folder: Path
    record: CellRecord
    columns: PerCaseColumns
    """The per-case table as it was read."""
    scores: ScoreRecord

    @cached_property
    def rows(self) -> pd.DataFrame:
        """The per-case table (``cells.per_case``), made where it is needed: thousands of cells are only recognised."""
        return pd.DataFrame(self.columns)

    @property
    def cell_id(self) -> str:
        """Name of the folder."""
        return self.folder.name


def write_start(folder: Path, record: CellRecord) -> None:
    """Begin a cell, or begin it again: its record is written, an earlier end of it removed."""
    for name in (METRICS_FILE, FAILURE_FILE):
        (folder / name).unlink(missing_ok=True)
    write_sealed(folder / CELL_FILE, record.model_dump(mode="json"))


def write_result(
    folder: Path, record: CellRecord, rows: pd.DataFrame, metrics: dict[str, float | None] | None = None
) -> None:
    """Write the end of a cell; the network, where it is kept, has been written before.

    Args:
        folder: of the cell.
        record: with everything that is known now.
        rows: the per-case table.
        metrics: its metrics; default: computed here.

    Raises:
        InputError: if the table cannot be one of this cell's (a diverged network, for instance); nothing is written.
    """
    spec = record.spec
    check_per_case(columns_from(rows), spec, folder / PER_CASE_FILE)
    values = aggregate(rows, spec.kind, spec.targets) if metrics is None else metrics
    (folder / METRICS_FILE).unlink(missing_ok=True)
    write_per_case(folder / PER_CASE_FILE, rows)
    write_sealed(folder / CELL_FILE, record.model_dump(mode="json"))
    kept = [name for name in MODEL_FILES if (folder / name).is_file()]
    scores = ScoreRecord(
        key=record.key,
        score=RESULT_VERSIONS["score"],
        checksums={name: checksum_file(folder / name) for name in (CELL_FILE, PER_CASE_FILE, *kept)},
        sizes={name: (folder / name).stat().st_size for name in kept},
        metrics=values,
    )
    write_sealed(folder / METRICS_FILE, scores.model_dump(mode="json"))
    (folder / FAILURE_FILE).unlink(missing_ok=True)


def write_failure(folder: Path, record: CellRecord, error: BaseException | str) -> None:
    """Write that a cell stopped with an error, and what it would have been."""
    write_start(folder, record)
    kind, trace = "InputError", ""
    if isinstance(error, BaseException):
        kind, trace = type(error).__name__, "".join(traceback.format_exception(error))
    message = str(error) or kind
    when = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    write_json(folder / FAILURE_FILE, {"error": message, "type": kind, "when": when, "traceback": trace})


def read_result(folder: Path) -> Result:
    """Read a finished cell and verify it: key, place, checksums of everything that is read, and what can be.

    The network is not read here: who opens it verifies it (:func:`verify_model`).

    Raises:
        OlderFormatError: for a cell of an older version.
        InputError: naming the file that is missing or not what was written.
    """
    content = _bytes(folder / CELL_FILE)
    fields = _fields(content, folder)
    scores, table = _scores(folder), _bytes(folder / PER_CASE_FILE)
    for name, data in ((CELL_FILE, content), (PER_CASE_FILE, table)):
        if xxhash.xxh3_128(data).hexdigest() != scores.checksums.get(name):
            raise _changed(folder / name)
    record = _record(fields, folder)
    if scores.key != record.key:
        raise InputError(folder / METRICS_FILE, found="the key of another cell", expected=record.key, fix=AGAIN)
    columns = parse_per_case(table, record.spec.kind, folder / PER_CASE_FILE)
    check_per_case(columns, record.spec, folder / PER_CASE_FILE)
    return Result(folder, record, columns, scores)


def read_record(folder: Path) -> CellRecord:
    """Read ``cell.json`` of any cell, finished or not, and verify it.

    Raises:
        OlderFormatError: for a cell of an older version.
        InputError: naming what is wrong with it.
    """
    fields = _fields(_bytes(folder / CELL_FILE), folder)
    read_sealed(folder / CELL_FILE, AGAIN)
    return _record(fields, folder)


def read_failure(folder: Path) -> Failure | None:
    """What stopped a cell; None if nothing did.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / FAILURE_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(path, found=f"a {type(content).__name__}", expected="a JSON object", fix=AGAIN)
    return Failure(*(str(content.get(name, "")) for name in ("type", "error", "when")))


def is_finished(folder: Path, key: str) -> bool:
    """Whether the result of a specification is there, whole, and scored by today's arithmetic.

    Args:
        folder: of the cell.
        key: that the specification has now.
    """
    if not (folder / METRICS_FILE).is_file():
        return False
    try:
        result = read_result(folder)
    except InputError:
        return False
    return result.record.key == key and result.scores.score == RESULT_VERSIONS["score"]


def verify_model(result: Result) -> Path:
    """The folder of a finished cell's network, once its files are what was written.

    Raises:
        InputError: if it was not kept, or is damaged.
    """
    for name in MODEL_FILES:
        path = result.folder / name
        if name not in result.scores.checksums or not path.is_file():
            raise InputError(path, found="no such file", expected="the cell's network", fix="It was not kept.")
        if path.stat().st_size != result.scores.sizes.get(name) or checksum_file(path) != result.scores.checksums[name]:
            raise _changed(path)
    return result.folder


def _scores(folder: Path) -> ScoreRecord:
    path = folder / METRICS_FILE
    try:
        return ScoreRecord.model_validate(read_sealed(path, AGAIN))
    except ValidationError as error:
        raise _invalid(path, error) from error


def _fields(content: bytes, folder: Path) -> dict[str, Any]:
    """The fields in the bytes of cell.json, of today's format."""
    path = folder / CELL_FILE
    try:
        fields: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(path, found=f"not JSON ({error})", expected="a JSON file", fix=AGAIN) from error
    if not isinstance(fields, dict):
        raise InputError(path, found=f"a {type(fields).__name__}", expected="a JSON object", fix=AGAIN)
    if fields.get("format", 1) != FORMAT:
        raise OlderFormatError(path, found="a cell of an older format", expected=f"format {FORMAT}", fix=AGAIN)
    return fields


def _record(fields: dict[str, Any], folder: Path) -> CellRecord:
    """The record of some fields; it must stand in the place that its specification names."""
    path = folder / CELL_FILE
    try:
        record = CellRecord.model_validate({k: v for k, v in fields.items() if k != "checksum"})
    except ValidationError as error:
        raise _invalid(path, error) from error
    spec = record.spec
    spec.ranking_metric  # noqa: B018  a metric that is not there is an error here
    if spec.key != record.key and record.stages.get("finetune") == RESULT_VERSIONS["finetune"]:
        raise InputError(path, found="a key that is not its specification's", expected=spec.key, fix=AGAIN)
    if folder.parts[-3:] != record.place.parts:
        raise InputError(path, found=f"the cell {record.place}", expected="the cell that its folder names", fix=AGAIN)
    return record


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise InputError(path, found=found, expected="a file of a finished cell", fix=AGAIN) from error


def _changed(path: Path) -> InputError:
    found = "content that is not what was written (its checksum differs)"
    return InputError(path, found=found, expected="the file as it was written", fix=AGAIN)


def _invalid(path: Path, error: ValidationError) -> InputError:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return InputError(f"{path}: {field}", found=repr(first["input"])[:200], expected=first["msg"], fix=AGAIN)
