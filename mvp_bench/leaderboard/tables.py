"""The tables, computed from the cells alone; nothing is read or written here.

Every column is explained in ``results/README.md``. Nothing measured with a clock stands anywhere but in ``cost.csv``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from mvp_bench.cells.record import CellRecord
from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.identity import SHORT
from mvp_bench.leaderboard.columns import (
    CELL_COLUMNS,
    CLASSIFICATION_COLUMNS,
    COST_COLUMNS,
    SEGMENTATION_COLUMNS,
    per_case_columns,
)
from mvp_bench.leaderboard.comparison import About, Standing, evaluate
from mvp_bench.leaderboard.methods import methods_table
from mvp_bench.leaderboard.overall import overall_table
from mvp_bench.leaderboard.panels import Entry, Panel, panels
from mvp_bench.leaderboard.reading import Cells, OpenCell
from mvp_bench.leaderboard.stacking import stacked
from mvp_bench.leaderboard.view import Leaderboards
from mvp_bench.metrics.estimators import MEAN
from mvp_bench.metrics.registry import TaskKind, metrics_of
from mvp_bench.progress import log


def build_leaderboards(cells: Cells, statistics: StatisticsConfig, seed: int) -> Leaderboards:
    """Compute all tables from cells, without writing anything."""
    rows: dict[TaskKind, list[dict[str, Any]]] = {"segmentation": [], "classification": []}
    for panel in panels(cells):
        rows[panel.key.kind] += _panel_rows(panel, statistics, seed)
    by_region = _frame(rows["segmentation"], SEGMENTATION_COLUMNS)
    by_metric = _frame(rows["classification"], CLASSIFICATION_COLUMNS)
    return Leaderboards(
        overall=overall_table(by_region, by_metric),
        segmentation=by_region,
        classification=by_metric,
        per_case=_per_case(cells),
        cost=_cost(cells),
        methods=methods_table(cells),
        open_cells=cells.open,
        superseded=cells.superseded,
        confidence=statistics.confidence,
    )


# ----------------------------------------------------------------------------------------------------- the leaderboards


def _panel_rows(panel: Panel, statistics: StatisticsConfig, seed: int) -> list[dict[str, Any]]:
    """The rows of one panel: by metric and region, then by entry (scratch first)."""
    entries = [_entry_columns(panel, entry) for entry in panel.entries]
    empty = [_empty_references(entry) for entry in panel.entries]
    rows = []
    for about, standings in _evaluated(panel, statistics, seed).items():
        shared = _about(panel, about)
        for columns, without, standing in zip(entries, empty, standings, strict=True):
            counted = {} if panel.key.kind == "classification" else {"n_empty": _n_empty(without, about.part)}
            rows.append(columns | shared | counted | asdict(standing))
    return rows


def _evaluated(panel: Panel, statistics: StatisticsConfig, seed: int) -> dict[About, list[Standing]]:
    """The standings of a panel; where they cannot be computed, the reason stands in the ranking rows."""
    try:
        return evaluate(panel, statistics, seed)
    except Exception as error:  # one task must not take the others' tables away, whatever its cells hold
        log.error("the results of %s cannot be put together: %s", panel.key.task, error, exc_info=error)
        reason = f"no result: {type(error).__name__} in putting the cells together ({error})"
        (ranking,) = (m for m in metrics_of(panel.key.kind) if m.name == panel.key.ranking_metric)
        about = About(ranking.name, ranking.parts(panel.key.targets)[0])
        return {about: [Standing(verdict=reason) for _ in panel.entries]}


def _about(panel: Panel, about: About) -> dict[str, Any]:
    ranks = about.metric == panel.key.ranking_metric and about.part in ("", MEAN)
    target = {"target": about.part} if panel.key.kind == "segmentation" else {}
    return {"metric": about.metric, "ranking": "yes" if ranks else "no"} | target


def _entry_columns(panel: Panel, entry: Entry) -> dict[str, Any]:
    finished = [cell.record for cell in entry.cells]
    records = finished or [cell.record for cell in entry.open if cell.record]
    tested = {case: patient for record in finished for case, patient in record.spec.tested.items()}
    key = entry.key
    columns: dict[str, Any] = {
        "task": panel.key.task,
        "method": key.method,
        "encoder": key.encoder,
        "mode": panel.key.mode,
        "schedule": key.schedule,
        "label_budget": panel.key.label_budget,
        "stem": key.stem,
        "filled": key.filled,
        "n_cases": len(tested),
        "n_patients": len(set(tested.values())),
        "n_seeds": len({record.spec.seed for record in finished}),
        "n_pretrain_seeds": len({record.spec.pretrain_seed for record in finished} - {None}),
        "n_folds": len({record.spec.fold for record in finished}),
        "n_missing": panel.missing(entry),
        "source": panel.key.source,
        "profile": panel.key.profile,
    }
    return columns | _leak(entry) | _provenance(panel, entry, records)


def _provenance(panel: Panel, entry: Entry, records: Sequence[CellRecord]) -> dict[str, Any]:
    key = entry.key
    return {
        "code_version": _joined(record.versions.get("mvp_bench", "") for record in records),
        "device": key.device,
        "precision": key.precision,
        "threads": key.threads,
        "processor": _joined(record.machine.calculator for record in records),
        "dataset_key": panel.key.dataset[:SHORT],
        "splits_key": panel.key.splits[:SHORT],
        "plan_key": key.plan[:SHORT],
        "arrays_key": key.arrays[:SHORT],
        "comparison_key": key.comparison[:SHORT],
        "recipe_key": key.recipe[:SHORT],
        "encoder_key": _joined((record.spec.needs.encoder or "")[:SHORT] for record in records),
        "weights": _joined((record.weights or "")[:SHORT] for record in records),
    }


def _leak(entry: Entry) -> dict[str, Any]:
    """Mean over the entry's runs, unknown (NaN) if that of any is, and why."""
    leaks = [cell.leak for cell in entry.cells]
    known = [leak.leak_percent for leak in leaks if leak.leak_percent is not None]
    mean = sum(known) / len(known) if known and len(known) == len(leaks) else float("nan")
    note = _joined(leak.note for leak in leaks) if leaks else "no finished cell"
    return {"leak_percent": mean, "leak_note": note}


def _empty_references(entry: Entry) -> set[tuple[str, str]]:
    """(case, region) pairs without a voxel of the region in the reference."""
    found = set()
    for cell in entry.cells:
        table = cell.result.columns
        if "reference_voxels" in table:
            for row in np.flatnonzero(np.asarray(table["reference_voxels"]) == 0):
                found.add((str(table["case"][row]), str(table["target"][row])))
    return found


def _n_empty(pairs: set[tuple[str, str]], target: str) -> int:
    """Test cases whose reference has no voxel of the region; for "mean", summed over regions."""
    return len(pairs) if target == MEAN else sum(region == target for _, region in pairs)


# ------------------------------------------------------------------------------------------------------ cell by cell


def _per_case(cells: Cells) -> pd.DataFrame:
    """All cells' test cases: one row per case and region, or per case and class."""
    if not cells.finished:
        return _frame([], per_case_columns())
    known = [_cell_columns(cell.record, cell.cell_id) for cell in cells.finished]
    table = stacked([cell.result.columns for cell in cells.finished], known, per_case_columns())
    for name in ("reference_voxels", "predicted_voxels"):  # whole numbers, empty for classification
        table[name] = table[name].astype("Int64")
    for name in ("fold", "seed", "pretrain_seed"):
        table[name] = _whole(table[name])
    return table


def _cost(cells: Cells) -> pd.DataFrame:
    """One row per cell, whatever became of it: the only table with times."""
    rows = []
    for cell in cells.finished:
        cost = cell.record.cost.model_dump()
        rows.append(_known(cell.record, cell.cell_id) | cost | {"status": "finished"})
    rows += [_open_row(cell) for cell in (*cells.open, *cells.superseded)]
    rows.sort(key=lambda row: (row["task"], row["method"], row["cell"]))
    table = _frame(rows, COST_COLUMNS)
    whole = ("n_train", "n_val", "n_test", "parameters", "voxels_seen", "pretraining_voxels_seen")
    for name in ("fold", "seed", "pretrain_seed", *whole):
        table[name] = _whole(table[name])
    return table


def _open_row(cell: OpenCell) -> dict[str, Any]:
    known: dict[str, Any] = {"task": cell.task, "method": cell.method, "cell": cell.cell_id}
    if cell.record:
        known = _known(cell.record, cell.cell_id)
    why = {"status": cell.status, "error_type": cell.error_type, "error": " ".join(cell.error.split())}
    return known | why


def _known(record: CellRecord, cell_id: str) -> dict[str, Any]:
    """What is known of a cell before and after it is run."""
    spec, machine = record.spec, record.machine
    counts = {"n_train": spec.n_train, "n_val": spec.n_val, "n_test": spec.n_test}
    device, precision, threads = machine.arithmetic
    arithmetic = {"device": device, "precision": precision, "threads": "" if threads is None else str(threads)}
    return _cell_columns(record, cell_id) | counts | arithmetic | {"processor": machine.calculator}


def _cell_columns(record: CellRecord, cell_id: str) -> dict[str, Any]:
    return {name: getattr(record.spec, name) for name in CELL_COLUMNS if name != "cell"} | {"cell": cell_id}


def _whole(values: pd.Series) -> pd.Series:
    """Whole numbers, empty where unknown; numbers beyond 64 bits stay what they are."""
    limits = np.iinfo(np.int64)
    known = [value for value in values if not pd.isna(value)]
    if all(limits.min <= value <= limits.max for value in known):
        return values.astype("Int64")
    return values.astype(object)


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(columns))


def _joined(values: Iterable[str]) -> str:
    """Distinct non-empty values, sorted, with semicolons between them."""
    return ";".join(sorted({value for value in values if value}))
