"""Which cells belong together: entries (one row each) within panels (rows that may be compared).

A *panel* is one task under one condition: the same data, splits, source (real or phantom), profile, mode and label
fraction. An *entry* is one contestant in it: method, encoder, stem rule, plan and settings; its cells are its runs and
differ in seed and fold only.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from mvp_bench.benchmark.metrics import TaskKind
from mvp_bench.leaderboard.cells import Cell, CellRecord, Cells, OpenCell
from mvp_bench.leaderboard.estimators import ClassificationEstimator, Estimator, SegmentationEstimator
from mvp_bench.registry import SCRATCH

Run = tuple[int, int]
"""(seed, fold)"""


@dataclass(frozen=True, order=True)
class PanelKey:
    """What must be equal for two results to be comparable."""

    task: str
    source: str
    profile: str
    mode: str
    label_fraction: float
    data_hash: str
    splits_hash: str
    kind: TaskKind
    targets: tuple[str, ...]
    """Regions (segmentation) or classes (classification)."""

    @classmethod
    def of(cls, record: CellRecord) -> PanelKey:
        hashes = record.hashes
        condition = (record.source, record.profile, record.mode, record.label_fraction)
        targets = record.regions if record.kind == "segmentation" else record.classes
        return cls(record.task, *condition, hashes.data, hashes.splits, record.kind, tuple(targets))


@dataclass(frozen=True)
class EntryKey:
    """What makes two cells of a panel runs of the same contestant; ``encoder_hash`` is set only where the same run was
    made with several pre-trained encoders, so that results of different pre-trainings are never averaged."""

    method: str
    encoder: str
    stem: str
    plan_hash: str
    config_hash: str
    encoder_hash: str = ""

    @classmethod
    def of(cls, record: CellRecord) -> EntryKey:
        return cls(record.method, record.encoder, record.stem, record.hashes.plan, record.hashes.config)

    @property
    def order(self) -> tuple:
        """Sorting: scratch first, then by name."""
        rest = (self.encoder, self.stem, self.plan_hash, self.config_hash, self.encoder_hash)
        return (self.method != SCRATCH, self.method, *rest)


@dataclass(frozen=True, eq=False)  # tables have no single truth value
class Entry:
    """A contestant's finished cells (by seed and fold) and those that have no result."""

    key: EntryKey
    cells: tuple[Cell, ...]
    open: tuple[OpenCell, ...]

    @cached_property
    def runs(self) -> frozenset[Run]:
        """The finished ones."""
        return frozenset(_run(cell.record) for cell in self.cells)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Per-case rows of all finished runs, with columns seed and fold in front. Needs at least one cell."""
        tables = [c.rows.assign(seed=c.record.seed, fold=c.record.fold) for c in self.cells]
        table = pd.concat(tables, ignore_index=True)
        return table[["seed", "fold", *(name for name in table.columns if name not in ("seed", "fold"))]]


@dataclass(frozen=True, eq=False)  # tables have no single truth value
class Panel:
    """One task under one condition, and everyone who took part."""

    key: PanelKey
    ranking_metric: str
    entries: tuple[Entry, ...]

    @cached_property
    def runs(self) -> frozenset[Run]:
        """Every (seed, fold) that any entry was started with."""
        started = {_run(cell.record) for entry in self.entries for cell in entry.cells}
        return frozenset(started | {_run(o.record) for entry in self.entries for o in entry.open if o.record})

    def scratch_of(self, entry: Entry) -> Entry | None:
        """The scratch entry that ``entry`` is measured against: of the same encoder and, if there are several, of the
        same plan and settings. None if there is none, or no single one."""
        candidates = [
            e for e in self.entries if e.key.method == SCRATCH and e.key.encoder == entry.key.encoder and e.cells
        ]
        if len(candidates) > 1:
            wanted = (entry.key.plan_hash, entry.key.config_hash)
            candidates = [e for e in candidates if (e.key.plan_hash, e.key.config_hash) == wanted]
        return candidates[0] if len(candidates) == 1 else None

    def estimator(self, rows: pd.DataFrame) -> Estimator:
        """The metrics of some per-case rows of this panel's task."""
        targets = list(self.key.targets)
        if self.key.kind == "segmentation":
            return SegmentationEstimator(rows, targets)
        return ClassificationEstimator(rows, targets)


def common_rows(a: Entry, b: Entry) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of two entries, cut down to the (seed, fold, case) triples that both have."""
    triple = ["seed", "fold", "case"]
    left, right = (pd.MultiIndex.from_frame(entry.rows[triple]) for entry in (a, b))
    return a.rows[left.isin(right)], b.rows[right.isin(left)]


def panels(cells: Cells) -> list[Panel]:
    """Group all cells, in a stable order. Cells whose coordinates are unknown (no cell.json) belong to no panel."""
    finished: dict[PanelKey, list[Cell]] = defaultdict(list)
    unfinished: dict[PanelKey, list[OpenCell]] = defaultdict(list)
    for cell in cells.finished:
        finished[PanelKey.of(cell.record)].append(cell)
    for open_cell in cells.open:
        if open_cell.record is not None:
            unfinished[PanelKey.of(open_cell.record)].append(open_cell)
    return [_panel(key, finished[key], unfinished[key]) for key in sorted({*finished, *unfinished})]


def _panel(key: PanelKey, finished: list[Cell], unfinished: list[OpenCell]) -> Panel:
    by_entry: dict[EntryKey, list[Cell]] = defaultdict(list)
    for cell in finished:
        by_entry[EntryKey.of(cell.record)].append(cell)
    for entry_key, group in list(by_entry.items()):
        if len({_run(cell.record) for cell in group}) < len(group):  # the same run twice: tell the encoders apart
            del by_entry[entry_key]
            for cell in group:
                by_entry[_with_encoder(entry_key, cell.record)].append(cell)
    open_of: dict[EntryKey, list[OpenCell]] = defaultdict(list)
    for open_cell in unfinished:
        assert open_cell.record is not None
        plain = EntryKey.of(open_cell.record)
        told_apart = _with_encoder(plain, open_cell.record)
        open_of[told_apart if told_apart in by_entry else plain].append(open_cell)
    keys = sorted({*by_entry, *open_of}, key=lambda entry: entry.order)
    entries = tuple(
        Entry(
            k, tuple(sorted(by_entry.get(k, []), key=lambda c: (_run(c.record), c.cell_id))), tuple(open_of.get(k, []))
        )
        for k in keys
    )
    first = (finished[0] if finished else unfinished[0]).record
    assert first is not None
    return Panel(key, first.ranking_metric, entries)


def _with_encoder(key: EntryKey, record: CellRecord) -> EntryKey:
    return EntryKey(key.method, key.encoder, key.stem, key.plan_hash, key.config_hash, record.hashes.encoder or "none")


def _run(record: CellRecord) -> Run:
    return record.seed, record.fold
