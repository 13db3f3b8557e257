"""Read what the benchmark left behind: every cell is finished, open (failed, unfinished, broken) or superseded.

A cell that cannot be used takes nothing else away: it is listed with its reason. A cell is *superseded* where it speaks
of data, splits, metrics or arithmetic that are not today's, or where it failed and another of its coordinates came
after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from mvp_bench.cells.files import (
    CELL_FILE,
    METRICS_FILE,
    OlderFormatError,
    Result,
    read_failure,
    read_record,
    read_result,
)
from mvp_bench.cells.leak import CellLeak, read_leak
from mvp_bench.cells.record import CellRecord, current_stages
from mvp_bench.cells.spec import CellSpec
from mvp_bench.errors import InputError
from mvp_bench.identity import SHORT
from mvp_bench.progress import log

Status = Literal["failed", "unfinished", "broken", "superseded"]


@dataclass(frozen=True)
class CurrentData:
    """A dataset as it is prepared now."""

    dataset: str
    """Its key."""
    splits: str = ""
    """Key of its splits (of tasks)."""
    metrics: tuple[str, ...] = ()
    """Metrics of its card; the first one ranks."""


@dataclass(frozen=True)
class Current:
    """What results are compared with to know whether they are of today."""

    datasets: Mapping[str, CurrentData] = field(default_factory=dict)
    """Name -> prepared dataset of this workspace. Cells of others cannot be checked and stand as they are."""
    stages: Mapping[str, int] = field(default_factory=current_stages)
    """Stage -> version of its arithmetic."""


@dataclass(frozen=True, eq=False)  # tables have no single truth value
class FinishedCell:
    """A cell with a result of today's data and arithmetic."""

    result: Result
    leak: CellLeak

    @property
    def record(self) -> CellRecord:
        """What it is and how it came about."""
        return self.result.record

    @property
    def spec(self) -> CellSpec:
        """What it is."""
        return self.result.record.spec

    @property
    def cell_id(self) -> str:
        """Name of its folder."""
        return self.result.cell_id


@dataclass(frozen=True)
class OpenCell:
    """A cell without a result that counts, and why; ``record`` only where its coordinates are known."""

    cell_id: str
    task: str
    method: str
    status: Status
    error_type: str
    error: str
    record: CellRecord | None
    when: str = ""
    """Time of the failure (ISO 8601, UTC), where there was one."""


@dataclass(frozen=True)
class Cells:
    """All cells of a workspace, each list in the order of (task, method, cell id)."""

    finished: tuple[FinishedCell, ...]
    open: tuple[OpenCell, ...]
    superseded: tuple[OpenCell, ...] = ()


def read_cells(folder: Path, current: Current | None = None) -> Cells:
    """Read ``results/cells``. No cell is dropped, and none takes the others away.

    Args:
        folder: of the cells.
        current: what is prepared now; default: nothing is known of it, only the arithmetic is compared.
    """
    now = current or Current()
    finished: list[FinishedCell] = []
    others: list[OpenCell] = []
    for path in _folders(folder):
        cell = _read_cell(path, now)
        if isinstance(cell, FinishedCell):
            finished.append(cell)
        else:
            others.append(cell)
    others = _overtaken(finished, others)
    return Cells(
        tuple(finished),
        tuple(cell for cell in others if cell.status != "superseded"),
        tuple(cell for cell in others if cell.status == "superseded"),
    )


def _folders(folder: Path) -> Iterator[Path]:
    """Folders of cells in the order of their names; those still being written carry a leading dot."""
    found = (path for path in folder.glob("*/*/*") if path.is_dir())
    relative = ((path.relative_to(folder).parts, path) for path in found)
    yield from (path for parts, path in sorted(relative) if not any(part.startswith(".") for part in parts))


def _read_cell(path: Path, now: Current) -> FinishedCell | OpenCell:
    try:
        if (path / METRICS_FILE).exists():
            result = read_result(path)
            reasons = _reasons(result.record, result.scores.score, now)
            if not reasons:
                return FinishedCell(result, read_leak(path, result.record.spec))
            return _superseded(path, reasons, result.record)
        return _without_result(path, now)
    except OlderFormatError:
        return _superseded(path, [("older format", "a cell of an older format")], None)
    except Exception as error:  # one cell must not take the tables away, whatever lies in its folder
        if not isinstance(error, InputError):
            log.warning("cell %s cannot be read", path, exc_info=error)
        record = _record_if_whole(path)
        if record is not None and (reasons := _reasons(record, None, now)):
            return _superseded(path, reasons, record)
        return _open(path, "broken", type(error).__name__, str(error), record)


def _without_result(path: Path, now: Current) -> OpenCell:
    record = read_record(path) if (path / CELL_FILE).exists() else None
    if record is not None and (reasons := _reasons(record, None, now)):
        return _superseded(path, reasons, record)
    failure = read_failure(path)
    if failure is None:
        return _open(path, "unfinished", "", "stopped before its result was written", record)
    return _open(path, "failed", failure.type, failure.error, record, failure.when)


def _record_if_whole(path: Path) -> CellRecord | None:
    """The coordinates of a broken cell, where they can still be trusted."""
    try:
        return read_record(path)
    except (InputError, OSError):
        return None


def _superseded(path: Path, reasons: list[tuple[str, str]], record: CellRecord | None) -> OpenCell:
    return _open(path, "superseded", reasons[0][0], "; ".join(text for _, text in reasons), record)


def _open(path: Path, status: Status, kind: str, message: str, record: CellRecord | None, when: str = "") -> OpenCell:
    method = record.spec.method if record else path.parent.name
    named = message.replace(f"{path}/", "")  # the cell stands beside it, and tables hold no places of this machine
    return OpenCell(path.name, path.parent.parent.name, method, status, kind, named, record, when)


def _reasons(record: CellRecord, score: int | None, now: Current) -> list[tuple[str, str]]:
    """Why a cell is not of today, in two words and in full; none if it is, or if that cannot be known."""
    spec = record.spec
    reasons: list[tuple[str, str]] = []
    if (data := now.datasets.get(spec.task)) is not None:
        for name, was, current in (
            ("data", spec.needs.dataset, data.dataset),
            ("splits", spec.needs.splits, data.splits),
        ):
            if was != current:
                text = f"{name} {was[:SHORT]}, while those prepared now are {current[:SHORT]}"
                reasons.append((f"other {name}", text))
        if tuple(spec.metrics) != tuple(data.metrics):
            text = f"metrics {_names(spec.metrics)}, while the card's are {_names(data.metrics)}"
            reasons.append(("other metrics", text))
    for name, was in spec.needs.pretraining.items():
        if name in now.datasets and now.datasets[name].dataset != was:
            current = now.datasets[name].dataset[:SHORT]
            text = f"an encoder trained on {name} as {was[:SHORT]}, while those prepared now are {current}"
            reasons.append(("other pre-training data", text))
    stages = record.outdated_stages(now.stages)
    if score is not None and score != now.stages.get("score"):
        stages.append("score")
    return reasons + [("older arithmetic", f"another version of the stage {stage}") for stage in stages]


def _names(metrics: list[str] | tuple[str, ...]) -> str:
    return ", ".join(metrics) or "the default"


# ------------------------------------------------------------------------------------------------------------ overtaken

Coordinates = tuple[object, ...]


def _coordinates(spec: CellSpec) -> Coordinates:
    """What a cell was asked for by name; settings and data may differ."""
    names = ("task", "source", "profile", "method", "encoder", "mode", "schedule", "label_budget", "stem", "filled")
    return (*(getattr(spec, name) for name in names), spec.fold, spec.seed, spec.pretrain_seed)


def _overtaken(finished: list[FinishedCell], others: list[OpenCell]) -> list[OpenCell]:
    """Put cells aside that were tried once, where another of their coordinates finished, or failed later."""
    done = {_coordinates(cell.spec) for cell in finished}
    latest: dict[Coordinates, tuple[str, str]] = {}
    for cell in others:
        if cell.status == "failed" and cell.record is not None:
            where = _coordinates(cell.record.spec)
            latest[where] = max(latest.get(where, ("", "")), (cell.when, cell.cell_id))
    return [_aside(cell, done, latest) for cell in others]


def _aside(cell: OpenCell, done: set[Coordinates], latest: Mapping[Coordinates, tuple[str, str]]) -> OpenCell:
    if cell.record is None or cell.status == "superseded":
        return cell
    where = _coordinates(cell.record.spec)
    if where in done:
        after = "another cell of the same coordinates is finished"
    elif cell.status == "failed" and latest[where] > (cell.when, cell.cell_id):
        after = "another cell of the same coordinates failed later"
    else:
        return cell
    was = f"{cell.status} ({cell.error_type})" if cell.error_type else cell.status
    return replace(cell, status="superseded", error_type="overtaken", error=f"{was}; {after}")
