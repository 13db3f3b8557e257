"""Read what the benchmark left behind: one record per finished cell, and a list of those that did not finish.

A cell is a folder ``results/cells/<task>/<method>/<cell id>/``. ``metrics.json`` in it means finished;
``failure.json`` ({"error", "type"}) means that it stopped with an error; neither means that it never came to an end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mvp_bench.benchmark.imported import method_folder
from mvp_bench.benchmark.leak import read_leak
from mvp_bench.benchmark.metrics import CLASSIFICATION_METRICS, TaskKind, class_names, read_per_case
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.registry import SCRATCH

Status = Literal["finished", "failed", "unfinished", "unreadable"]

RANKING_METRICS: dict[TaskKind, tuple[str, ...]] = {
    "segmentation": ("dice",),
    "classification": CLASSIFICATION_METRICS,
}
"""Metrics that a task may be ranked by; the first one is the default."""


class _Record(BaseModel):
    # Unknown keys are skipped: cells may come to hold more than leaderboards need.
    model_config = ConfigDict(frozen=True, extra="ignore")


class Hashes(_Record):
    """What the cell was made from (SHA-256, hex). ``config`` covers the fine-tuning settings that all methods, seeds
    and folds of one comparison share: cells that differ in it are never averaged."""

    data: str = ""
    splits: str = ""
    plan: str = ""
    config: str = ""
    encoder: str | None = None


class Cost(_Record):
    """What the cell took; None where it was not measured."""

    wall_time_s: float | None = None
    peak_memory_mb: float | None = None
    parameters: int | None = None
    voxels_seen: int | None = None
    pretraining_wall_time_s: float | None = None
    pretraining_voxels_seen: int | None = None


class CellRecord(_Record):
    """``cell.json``: the coordinates of one cell in the grid."""

    task: str
    kind: TaskKind
    method: str
    encoder: str
    mode: str = "full"
    label_fraction: float = Field(default=1.0, gt=0, le=1)
    stem: str = "reinit"
    seed: int
    fold: int
    profile: str
    source: Literal["real", "phantom"]
    classes: list[str] = []
    regions: list[str] = []
    metrics: list[str] = []
    """The task's metrics; the first one ranks. Empty: the default of :data:`RANKING_METRICS`."""
    n_train: int | None = None
    n_val: int | None = None
    n_test: int | None = None
    hashes: Hashes = Hashes()
    versions: dict[str, str] = {}
    cost: Cost = Cost()

    @property
    def ranking_metric(self) -> str:
        """The metric that ranks the methods on this task."""
        return self.metrics[0] if self.metrics else RANKING_METRICS[self.kind][0]


@dataclass(frozen=True, eq=False)  # tables have no single truth value
class Cell:
    """A finished cell: its record and its per-case table (see ``benchmark.metrics``)."""

    cell_id: str
    record: CellRecord
    rows: pd.DataFrame
    leak_percent: float | None
    """Share of the test patients who were seen in pre-training, 0 to 100; None if unknown."""


@dataclass(frozen=True)
class OpenCell:
    """A cell without a result, and why; ``record`` only where its coordinates are known."""

    cell_id: str
    task: str
    method: str
    status: Status
    error_type: str
    error: str
    record: CellRecord | None


@dataclass(frozen=True)
class Cells:
    """All cells of a workspace, each list in the order of (task, method, cell id)."""

    finished: tuple[Cell, ...]
    open: tuple[OpenCell, ...]


def read_cells(folder: Path) -> Cells:
    """Read ``results/cells``. No cell is dropped: one that cannot be used stands in ``open`` with the reason."""
    finished: list[Cell] = []
    unusable: list[OpenCell] = []
    for path in sorted(p for p in folder.glob("*/*/*") if p.is_dir() and not _hidden(p.relative_to(folder))):
        cell = _read_cell(path)
        if isinstance(cell, Cell):
            finished.append(cell)
        else:
            unusable.append(cell)
    return Cells(tuple(finished), tuple(unusable))


def _read_cell(path: Path) -> Cell | OpenCell:
    record: CellRecord | None = None
    try:
        if (path / "metrics.json").exists():
            record = _read_record(path / "cell.json", path)
            rows = read_per_case(path / "per_case.csv", record.kind)
            _check(path, record, rows)
            return Cell(path.name, record, rows, 0.0 if record.method == SCRATCH else read_leak(path))
        if (path / "cell.json").exists():
            record = _read_record(path / "cell.json", path)
        if not (path / "failure.json").exists():
            return _open(path, "unfinished", "", "stopped before its result was written", record)
        failure = read_json(path / "failure.json")
        kind, message = (
            (str(failure.get(key, "")) for key in ("type", "error")) if isinstance(failure, dict) else ("", "")
        )
        return _open(path, "failed", kind, message, record)
    except InputError as error:
        return _open(path, "unreadable", "InputError", str(error), record)


def _read_record(file: Path, path: Path) -> CellRecord:
    try:
        record = CellRecord.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{file}: {field}",
            found=repr(first["input"]),
            expected=first["msg"],
            fix="Delete the folder to run it again.",
        ) from error
    if (record.task, method_folder(record.method)) != (path.parent.parent.name, path.parent.name):
        raise InputError(file, found=f"{record.task}/{record.method}", expected="the task and method of its folder")
    if record.ranking_metric not in RANKING_METRICS[record.kind]:
        allowed = ", ".join(RANKING_METRICS[record.kind])
        raise InputError(f"{file}: metrics", found=repr(record.ranking_metric), expected=f"first one of {allowed}")
    return record


def _check(path: Path, record: CellRecord, rows: pd.DataFrame) -> None:
    """The table must speak of the regions or classes that cell.json declares."""
    if record.kind == "segmentation":
        found, expected = sorted(rows["target"].unique()), sorted(record.regions)
    else:
        found, expected = class_names(rows), record.classes
        if strangers := (set(rows["class"]) | set(rows["predicted"])) - set(expected):
            found = sorted(strangers)
    if found != expected or rows.empty:
        raise InputError(
            path / "per_case.csv", found=f"rows for {found}", expected=f"rows for {expected}, as in cell.json"
        )


def _open(path: Path, status: Status, kind: str, message: str, record: CellRecord | None) -> OpenCell:
    method = record.method if record else path.parent.name
    return OpenCell(path.name, path.parent.parent.name, method, status, kind, message, record)


def _hidden(path: Path) -> bool:
    """Folders still being written carry a leading dot."""
    return any(part.startswith(".") for part in path.parts)
