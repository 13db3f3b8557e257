"""The leaderboards as CSV: derived from the cells alone, the same bytes whenever they are written again.

Every column is explained in ``results/README.md``. Nothing measured with a clock stands anywhere but in ``cost.csv``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mvp_bench.benchmark.metrics import PROBABILITY_PREFIX
from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.io import atomic_path
from mvp_bench.leaderboard.cells import Cell, CellRecord, Cells, Cost, OpenCell, read_cells
from mvp_bench.leaderboard.comparison import evaluate
from mvp_bench.leaderboard.entries import Entry, Panel, panels
from mvp_bench.leaderboard.estimators import MEAN
from mvp_bench.leaderboard.methods import METHOD_COLUMNS, methods_table
from mvp_bench.leaderboard.overall import OVERALL_COLUMNS, overall_table
from mvp_bench.workspace import Workspace

_ENTRY = ("task", "method", "encoder", "mode", "label_fraction", "stem")
_SCORES = ("mean", "ci_low", "ci_high", "difference_to_scratch", "diff_ci_low", "diff_ci_high", "p_holm")
_COUNTS = ("n_cases", "n_patients", "n_seeds", "n_folds", "n_missing")
_CALL = ("rank", "tied_with_best", "verdict", "source", "profile")
_PROVENANCE = ("code_version", "plan_hash", "splits_hash", "data_hash", "config_hash", "encoder_hash")

_LEAK = "leak_percent"

SEGMENTATION_COLUMNS = (*_ENTRY, "metric", "target", *_SCORES, *_COUNTS, "n_empty", _LEAK, *_CALL, *_PROVENANCE)
CLASSIFICATION_COLUMNS = (*_ENTRY, "metric", "ranking", *_SCORES, *_COUNTS, _LEAK, *_CALL, *_PROVENANCE)
_CELL = (*_ENTRY, "source", "profile", "seed", "fold", "cell")
_SCORED = ("case", "patient", "target", "dice", "reference_voxels", "predicted_voxels")
PER_CASE_COLUMNS = (*_CELL, *_SCORED, "class", "predicted", "probability")
COST_COLUMNS = (*_CELL, "status", *Cost.model_fields, "n_train", "n_val", "n_test", "error_type", "error")
COLUMNS: dict[str, tuple[str, ...]] = {
    "leaderboard.csv": OVERALL_COLUMNS,
    "leaderboard_segmentation.csv": SEGMENTATION_COLUMNS,
    "leaderboard_classification.csv": CLASSIFICATION_COLUMNS,
    "per_case.csv": PER_CASE_COLUMNS,
    "cost.csv": COST_COLUMNS,
    "methods.csv": METHOD_COLUMNS,
}
"""File in results/ -> its columns."""

_HASH_DIGITS = 12


@dataclass(frozen=True, eq=False)
class Leaderboards:
    """All tables, as written; ``open_cells`` are those without a result."""

    overall: pd.DataFrame
    segmentation: pd.DataFrame
    classification: pd.DataFrame
    per_case: pd.DataFrame
    cost: pd.DataFrame
    methods: pd.DataFrame
    open_cells: tuple[OpenCell, ...]
    confidence: float
    """Level of all intervals."""


def build_leaderboards(cells: Cells, statistics: StatisticsConfig, seed: int) -> Leaderboards:
    """Compute all tables from cells, without writing anything."""
    segmentation: list[dict[str, Any]] = []
    classification: list[dict[str, Any]] = []
    for panel in panels(cells):
        rows = _panel_rows(panel, statistics, seed)
        (segmentation if panel.key.kind == "segmentation" else classification).extend(rows)
    by_region = _frame(segmentation, SEGMENTATION_COLUMNS)
    by_metric = _frame(classification, CLASSIFICATION_COLUMNS)
    overall = overall_table(by_region, by_metric)
    return Leaderboards(
        overall=overall,
        segmentation=by_region,
        classification=by_metric,
        per_case=_per_case(cells),
        cost=_cost(cells),
        methods=methods_table(cells),
        open_cells=cells.open,
        confidence=statistics.confidence,
    )


def write_leaderboards(workspace: Workspace, statistics: StatisticsConfig, seed: int) -> Leaderboards:
    """Read all cells of a workspace and write every table and the figure into its ``results/``.

    Args:
        workspace: where ``results/cells`` lies.
        statistics: bootstrap size and level.
        seed: of the resampling; the same seed and cells give the same bytes.

    Returns:
        The tables, for :func:`mvp_bench.leaderboard.terminal.print_leaderboards`.
    """
    from mvp_bench.leaderboard.figures import leaderboard_figure  # matplotlib takes a second to import

    boards = build_leaderboards(read_cells(workspace.cells), statistics, seed)
    tables = (boards.overall, boards.segmentation, boards.classification, boards.per_case, boards.cost, boards.methods)
    for name, table in zip(COLUMNS, tables, strict=True):
        # Twelve digits: more than anyone needs, and the last bits, which depend on the order of a sum, are gone.
        # The raw scores keep every digit.
        _write(workspace.results / name, table, None if name == "per_case.csv" else "%.12g")
    leaderboard_figure(boards, workspace.results / "leaderboard.png")
    return boards


def _write(path: Path, table: pd.DataFrame, float_format: str | None) -> None:
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8", float_format=float_format)


def _panel_rows(panel: Panel, statistics: StatisticsConfig, seed: int) -> list[dict[str, Any]]:
    """The rows of one panel: by region or metric, then by entry (scratch first)."""
    evaluated = evaluate(panel, statistics, seed)
    rows = []
    for name in evaluated[0]:
        for entry, results in zip(panel.entries, evaluated, strict=True):
            about: dict[str, Any] = {"metric": name, "ranking": "yes" if name == panel.ranking_metric else "no"}
            if panel.key.kind == "segmentation":
                about = {"metric": "dice", "target": name, "n_empty": _n_empty(entry, name)}
            rows.append(_entry_columns(panel, entry) | about | asdict(results[name]))
    return rows


def _entry_columns(panel: Panel, entry: Entry) -> dict[str, Any]:
    finished = [cell.record for cell in entry.cells]
    records = finished or [cell.record for cell in entry.open if cell.record]
    tested = entry.rows[["case", "patient"]] if finished else pd.DataFrame({"case": [], "patient": []})
    return {
        "task": panel.key.task,
        "method": entry.key.method,
        "encoder": entry.key.encoder,
        "mode": panel.key.mode,
        "label_fraction": panel.key.label_fraction,
        "stem": entry.key.stem,
        "n_cases": tested["case"].nunique(),
        "n_patients": tested["patient"].nunique(),
        "n_seeds": len({record.seed for record in finished}),
        "n_folds": len({record.fold for record in finished}),
        "n_missing": len(panel.runs - entry.runs),
        _LEAK: _leak_percent(entry),
        "source": panel.key.source,
        "profile": panel.key.profile,
        "code_version": _joined(record.versions.get("mvp_bench", "") for record in records),
        "plan_hash": entry.key.plan_hash[:_HASH_DIGITS],
        "splits_hash": panel.key.splits_hash[:_HASH_DIGITS],
        "data_hash": panel.key.data_hash[:_HASH_DIGITS],
        "config_hash": entry.key.config_hash[:_HASH_DIGITS],
        "encoder_hash": _joined((record.hashes.encoder or "")[:_HASH_DIGITS] for record in records),
    }


def _leak_percent(entry: Entry) -> float:
    """Mean over the entry's runs; NaN if that of any is unknown."""
    leaks = [cell.leak_percent for cell in entry.cells]
    known = [leak for leak in leaks if leak is not None]
    return sum(known) / len(known) if known and len(known) == len(leaks) else float("nan")


def _n_empty(entry: Entry, target: str) -> int:
    """Test cases whose reference has no voxel of the region; for "mean", summed over regions."""
    if not entry.cells:
        return 0
    empty = entry.rows[entry.rows["reference_voxels"] == 0]
    pairs = set(zip(empty["case"], empty["target"], strict=True))
    return len(pairs) if target == MEAN else sum(region == target for _, region in pairs)


def _per_case(cells: Cells) -> pd.DataFrame:
    """All cells' test cases in long form: one row per case and region, or per case and class."""
    tables = []
    for cell in cells.finished:
        rows = cell.rows if cell.record.kind == "segmentation" else _long(cell)
        tables.append(rows.assign(**_cell_columns(cell.record, cell.cell_id)))
    if not tables:
        return _frame([], PER_CASE_COLUMNS)
    table = pd.concat(tables, ignore_index=True).reindex(columns=list(PER_CASE_COLUMNS))
    for name in ("reference_voxels", "predicted_voxels"):
        table[name] = table[name].astype("Int64")  # whole numbers, empty for classification
    return table


def _long(cell: Cell) -> pd.DataFrame:
    columns = {PROBABILITY_PREFIX + name: name for name in cell.record.classes}
    wide = cell.rows.rename(columns=columns)
    keys = ["case", "patient", "class", "predicted"]
    parts = [wide[keys].assign(target=name, probability=wide[name]) for name in cell.record.classes]
    return pd.concat(parts).sort_index(kind="stable")  # the classes of a case side by side


def _cost(cells: Cells) -> pd.DataFrame:
    """One row per cell, finished or not: the only table with times."""
    rows = []
    for cell in cells.finished:
        cost = cell.record.cost.model_dump()
        rows.append(
            _cell_columns(cell.record, cell.cell_id) | _case_counts(cell.record) | cost | {"status": "finished"}
        )
    for open_cell in cells.open:
        known = {"task": open_cell.task, "method": open_cell.method, "cell": open_cell.cell_id}
        if open_cell.record:
            known = _cell_columns(open_cell.record, open_cell.cell_id) | _case_counts(open_cell.record)
        why = {
            "status": open_cell.status,
            "error_type": open_cell.error_type,
            "error": " ".join(open_cell.error.split()),
        }
        rows.append(known | why)
    rows.sort(key=lambda row: (row["task"], row["method"], row["cell"]))
    table = _frame(rows, COST_COLUMNS)
    for name in ("seed", "fold", "n_train", "n_val", "n_test", "parameters", "voxels_seen", "pretraining_voxels_seen"):
        table[name] = table[name].astype("Int64")  # whole numbers, empty where unknown
    return table


def _cell_columns(record: CellRecord, cell_id: str) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _CELL if name != "cell"} | {"cell": cell_id}


def _case_counts(record: CellRecord) -> dict[str, Any]:
    return {"n_train": record.n_train, "n_val": record.n_val, "n_test": record.n_test}


def _frame(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(columns))


def _joined(values: Iterable[str]) -> str:
    """Distinct non-empty values, sorted, with semicolons between them."""
    return ";".join(sorted({value for value in values if value}))
