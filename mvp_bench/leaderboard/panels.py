"""Which cells belong together: entries (one row each) within panels (rows that may be compared).

A *panel* is one task under one condition: the same data, splits, source (real or phantom), profile, mode, label budget
and ranking metric. An *entry* is one contestant in it: method, how it was pre-trained, encoder, schedule, stem rule,
plan, settings, device, precision and threads; its cells are its runs and differ in seeds and fold only.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from functools import cached_property

import pandas as pd

from mvp_bench.cells.record import CellRecord
from mvp_bench.leaderboard.reading import Cells, FinishedCell, OpenCell
from mvp_bench.leaderboard.stacking import stacked
from mvp_bench.metrics.registry import Metric, TaskKind, metrics_of
from mvp_bench.registry import SCRATCH

Pair = tuple[int, int]
"""(seed, fold)"""
Run = tuple[int | None, int, int]
"""(pre-training seed, seed, fold)"""


@dataclass(frozen=True, order=True)
class PanelKey:
    """What must be equal for two results to be comparable."""

    task: str
    source: str
    profile: str
    mode: str
    label_budget: float
    dataset: str
    splits: str
    kind: TaskKind
    ranking_metric: str
    targets: tuple[str, ...]
    """Regions (segmentation) or classes (classification)."""

    @classmethod
    def of(cls, record: CellRecord) -> PanelKey:
        """The panel of a cell."""
        spec = record.spec
        condition = (spec.source, spec.profile, spec.mode, spec.label_budget)
        data = (spec.needs.dataset, spec.needs.splits)
        return cls(spec.task, *condition, *data, spec.kind, spec.ranking_metric, spec.targets)


@dataclass(frozen=True)
class EntryKey:
    """What makes two cells of a panel runs of the same contestant.

    ``encoder_key`` and ``weights`` are set only where the same run was made with several pre-trained encoders, or one
    encoder's weights were not always the same, so that results of different pre-trainings are never averaged.
    """

    method: str
    encoder: str
    schedule: str
    stem: str
    filled: str
    plan: str
    arrays: str
    comparison: str
    recipe: str
    device: str
    precision: str
    threads: str
    encoder_key: str = ""
    weights: str = ""

    @classmethod
    def of(cls, record: CellRecord) -> EntryKey:
        """The contestant of a cell, before encoders are told apart."""
        spec = record.spec
        made = (spec.needs.plan, spec.needs.arrays, spec.comparison, spec.recipe or "")
        device, precision, threads = record.machine.arithmetic
        arithmetic = (device, precision, "" if threads is None else str(threads))
        return cls(spec.method, spec.encoder, spec.schedule, spec.stem, spec.filled, *made, *arithmetic)

    def told_apart(self, record: CellRecord) -> EntryKey:
        """The contestant together with the very encoder of a cell."""
        return replace(self, encoder_key=record.spec.needs.encoder or "none", weights=record.weights or "")

    def may_hold(self, record: CellRecord) -> bool:
        """Whether a cell without a result would have been a run of this contestant: what did the arithmetic, and the
        weights, are known of finished ones only."""
        own = EntryKey.of(record)
        unknown = () if own.device else ("device", "precision", "threads")
        told_apart = {name: getattr(self, name) for name in (*unknown, "encoder_key", "weights")}
        return replace(own, **told_apart) == self and self.encoder_key in ("", record.spec.needs.encoder or "none")

    @property
    def order(self) -> tuple:
        """Sorting: scratch first, then by name."""
        rest = tuple(getattr(self, name) for name in self.__dataclass_fields__)
        return (self.method != SCRATCH, *rest)

    @property
    def settings(self) -> tuple[str, ...]:
        """What must be equal for a difference to speak of the method."""
        names = ("encoder", "schedule", "filled", "plan", "arrays", "comparison", "device", "precision", "threads")
        return tuple(getattr(self, name) for name in names)


@dataclass(frozen=True, eq=False)  # tables have no single truth value
class Entry:
    """A contestant's finished cells (by seeds and fold) and those that have no result."""

    key: EntryKey
    cells: tuple[FinishedCell, ...]
    open: tuple[OpenCell, ...]

    @cached_property
    def runs(self) -> frozenset[Run]:
        """The finished ones."""
        return frozenset(run_of(cell.record) for cell in self.cells)

    @cached_property
    def pairs(self) -> frozenset[Pair]:
        """Seed and fold of the finished ones."""
        return frozenset(run[1:] for run in self.runs)

    @cached_property
    def rows(self) -> pd.DataFrame:
        """Per-case rows of all finished cells, with columns run (number of the seeds), seed and fold in front.

        Needs at least one cell.
        """
        seeds = sorted({run[:2] for run in self.runs}, key=_seeds_order)
        known = []
        for cell in self.cells:
            pretrain_seed, seed, fold = run_of(cell.record)
            known.append({"run": seeds.index((pretrain_seed, seed)), "seed": seed, "fold": fold})
        tables = [cell.result.columns for cell in self.cells]
        measured = dict.fromkeys(name for table in tables for name in table)
        return stacked(tables, known, (*known[0], *measured))

    def measures(self, metric: Metric) -> bool:
        """Whether every finished cell holds what a metric needs."""
        return bool(self.cells) and all(set(metric.needs) <= set(cell.result.columns) for cell in self.cells)


@dataclass(frozen=True, eq=False)  # tables have no single truth value
class Panel:
    """One task under one condition, and everyone who took part."""

    key: PanelKey
    entries: tuple[Entry, ...]

    @cached_property
    def started(self) -> frozenset[Run]:
        """Every run that any entry was started with."""
        done = {run_of(cell.record) for entry in self.entries for cell in entry.cells}
        return frozenset(done | {run_of(o.record) for entry in self.entries for o in entry.open if o.record})

    def missing(self, entry: Entry) -> int:
        """How many runs others were started with that the entry has no result of.

        Scratch has no pre-training seeds: it is measured by seed and fold alone, as are all where those are absent.
        """
        absent = {run[1:] for run in self.started} - entry.pairs
        seeds = {run[0] for run in entry.runs}
        if seeds <= {None}:
            return len(absent)
        others = {run for run in self.started - entry.runs if run[0] is not None and run[1:] in entry.pairs}
        return len(absent) + len(others)

    def metrics(self) -> list[Metric]:
        """The metrics that any entry can be measured by; where nothing is finished, the ranking one."""
        filed = metrics_of(self.key.kind)
        measured = [metric for metric in filed if any(entry.measures(metric) for entry in self.entries)]
        return measured or [metric for metric in filed if metric.name == self.key.ranking_metric]

    def scratch_of(self, entry: Entry) -> Entry | None:
        """The scratch entry that ``entry`` is measured against: of the same plan and settings and, if there are
        several, of the same stem rule. None if there is none, or no single one."""
        candidates = [
            e for e in self.entries if e.key.method == SCRATCH and e.key.settings == entry.key.settings and e.cells
        ]
        if len(candidates) > 1:
            candidates = [e for e in candidates if e.key.stem == entry.key.stem]
        return candidates[0] if len(candidates) == 1 else None


def common_rows(a: Entry, b: Entry) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of two entries of a panel, cut down to the seeds and folds that both have. Their cases are the same: the
    splits are, and every table holds just the test cases of its fold."""
    common = a.pairs & b.pairs
    return _of_pairs(a, common), _of_pairs(b, common)


def _of_pairs(entry: Entry, pairs: frozenset[Pair]) -> pd.DataFrame:
    if pairs == entry.pairs:
        return entry.rows
    wanted = [pair in pairs for pair in zip(entry.rows["seed"], entry.rows["fold"], strict=True)]
    return entry.rows[wanted]


def panels(cells: Cells) -> list[Panel]:
    """Group all cells, in a stable order. Cells whose coordinates are unknown (no cell.json) belong to no panel."""
    finished: dict[PanelKey, list[FinishedCell]] = defaultdict(list)
    unfinished: dict[PanelKey, list[OpenCell]] = defaultdict(list)
    for cell in cells.finished:
        finished[PanelKey.of(cell.record)].append(cell)
    for open_cell in cells.open:
        if open_cell.record is not None:
            unfinished[PanelKey.of(open_cell.record)].append(open_cell)
    return [_panel(key, finished[key], unfinished[key]) for key in sorted({*finished, *unfinished})]


def _panel(key: PanelKey, finished: list[FinishedCell], unfinished: list[OpenCell]) -> Panel:
    by_entry = _entries(finished)
    open_of: dict[EntryKey, list[OpenCell]] = defaultdict(list)
    for open_cell in unfinished:
        assert open_cell.record is not None
        would_be = [entry_key for entry_key in by_entry if entry_key.may_hold(open_cell.record)]
        open_of[would_be[0] if len(would_be) == 1 else EntryKey.of(open_cell.record)].append(open_cell)
    entries = tuple(
        Entry(
            entry_key,
            tuple(sorted(by_entry.get(entry_key, []), key=lambda c: (_run_order(run_of(c.record)), c.cell_id))),
            tuple(open_of.get(entry_key, [])),
        )
        for entry_key in sorted({*by_entry, *open_of}, key=lambda entry_key: entry_key.order)
    )
    return Panel(key, entries)


def _entries(finished: list[FinishedCell]) -> dict[EntryKey, list[FinishedCell]]:
    """Cells by contestant; encoders are told apart where cells of one contestant do not fit together."""
    grouped: dict[EntryKey, list[FinishedCell]] = defaultdict(list)
    for cell in finished:
        grouped[EntryKey.of(cell.record)].append(cell)
    entries: dict[EntryKey, list[FinishedCell]] = defaultdict(list)
    for key, group in grouped.items():
        together = _fit_together(group)
        for cell in group:
            entries[key if together else key.told_apart(cell.record)].append(cell)
    return entries


def _fit_together(group: list[FinishedCell]) -> bool:
    """Whether no run was made twice, and each pre-training seed and fold stands for one encoder with one set of
    weights (by fold, since a fold's test patients are left out of its own pre-training)."""
    runs = [run_of(cell.record) for cell in group]
    encoder_of: dict[tuple[int | None, int], set[str | None]] = defaultdict(set)
    weights_of: dict[str | None, set[str | None]] = defaultdict(set)
    for cell, (pretrain_seed, _, fold) in zip(group, runs, strict=True):
        encoder = cell.spec.needs.encoder
        encoder_of[pretrain_seed, fold].add(encoder)
        weights_of[encoder].add(cell.record.weights)
    several = (*encoder_of.values(), *weights_of.values())
    return len(set(runs)) == len(runs) and all(len(values) == 1 for values in several)


def run_of(record: CellRecord) -> Run:
    """Seeds and fold of a cell."""
    return record.spec.pretrain_seed, record.spec.seed, record.spec.fold


def _seeds_order(seeds: tuple[int | None, int]) -> tuple[bool, int, int]:
    return seeds[0] is not None, seeds[0] or 0, seeds[1]


def _run_order(run: Run) -> tuple[bool, int, int, int]:
    return (*_seeds_order(run[:2]), run[2])
