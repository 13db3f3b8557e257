"""``mvp_benchmark``: make what is missing, then have workers do every cell of the grid."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path

from mvp_bench.benchmark.cell_job import CellRun
from mvp_bench.benchmark.executors.local import JobsOutcome, run_jobs
from mvp_bench.benchmark.grid import Task, cell_of, check_folds, check_methods, weights_of
from mvp_bench.benchmark.imported import (
    cards_seen,
    finished_runs,
    is_imported,
    patients_seen,
    refuse_other_source,
    run_folder,
)
from mvp_bench.benchmark.jobs import Job
from mvp_bench.benchmark.people import cell_leak, leaks_of_tasks, refuse_divided
from mvp_bench.benchmark.pretraining_job import PretrainingRun, checked_run
from mvp_bench.benchmark.settings import check_methods_fit
from mvp_bench.cells.leak import CellLeak, write_leak
from mvp_bench.config.check import check
from mvp_bench.config.verbs import BenchmarkConfig
from mvp_bench.datasets.catalog import expand, load_cards
from mvp_bench.datasets.prepared import is_prepared, load_block, load_splits
from mvp_bench.datasets.schema import Card
from mvp_bench.datasets.splits import training_part
from mvp_bench.errors import InputError
from mvp_bench.leaderboard.reading import Current, CurrentData
from mvp_bench.leaderboard.render.files import write_leaderboards
from mvp_bench.leaderboard.render.terminal import print_leaderboards
from mvp_bench.models.record import RECORD_FILE, EncoderRecord
from mvp_bench.parallel import preload, worker_pool
from mvp_bench.planning.plan import Planned, print_plans
from mvp_bench.pretraining.cohort import GatheredData, gather, make_phantoms, seen_patients
from mvp_bench.pretraining.job import PretrainJob
from mvp_bench.pretraining.method import resolve_options
from mvp_bench.progress import console, log
from mvp_bench.registry import ENCODERS, METHODS, SCRATCH
from mvp_bench.training.machine import check_machine
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class FailedCell:
    """A cell without a result, and why."""

    folder: Path
    error: str


@dataclass
class BenchmarkRun:
    """What a run of the grid did."""

    finished: int = 0
    reused: int = 0
    failed: list[FailedCell] = field(default_factory=list)


@dataclass(frozen=True)
class _Choice:
    """Which datasets and methods are asked for.

    Attributes:
        imported: method -> record of its weights, for methods that are finished runs.
        pretrained: methods that pre-train.
    """

    tasks: list[Card]
    data: list[Card]
    methods: list[str]
    imported: dict[str, EncoderRecord]
    pretrained: list[str]
    known: dict[int, Card]

    @property
    def everything(self) -> list[Card]:
        """Every dataset to plan, once."""
        return list({card.id: card for card in [*self.tasks, *self.data]}.values())


@dataclass(frozen=True)
class _Grid:
    """All jobs, and what is known of the cells' test patients."""

    cells: list[CellRun]
    pretrainings: list[PretrainingRun]
    leaks: list[tuple[CellRun, CellLeak]]


def run_benchmark(workspace: Workspace, config: BenchmarkConfig) -> BenchmarkRun:
    """Prepare (phantom only), audit, plan, pre-train and run all cells; finished ones are kept.

    The audit comes to each pre-trained cell's ``leak.json``, which is brought up to date for finished cells too.

    Args:
        config: with the profile's name and the seeds (:func:`mvp_bench.config.defaults.resolved`).

    Raises:
        InputError: for whatever the user can mend before anything runs. Failures inside a cell are returned.
    """
    check(config)
    check_machine(config.runtime, config.planning.memory_gb)
    choice = _choose(workspace, config)
    check_methods_fit(config, choice.pretrained)
    if config.workers > 1:
        preload("mvp_bench.finetuning.segmentation", "mvp_bench.finetuning.classification")
    if config.phantom:
        make_phantoms(workspace, choice.everything, config.phantom_config, config.seed, config.workers)
    with worker_pool(config.workers) as pool:
        seen_cards = cards_seen(workspace, choice.known, choice.imported.values())
        cohort = gather(
            workspace, choice.everything, seen_cards, config.encoder, config.planning, config.overlap_config, pool
        )
        print_plans(list(cohort.planned.values()))
        grid = _make_grid(cohort, choice, config, pool)
    outcome = _run_grid(workspace, grid, config.workers)
    for cell, leak in grid.leaks:
        write_leak(cell.folder, leak)
    return outcome


def _choose(workspace: Workspace, config: BenchmarkConfig) -> _Choice:
    methods = check_methods(config.methods, finished_runs(workspace))
    imported = {m: checked_run(run_folder(workspace, m), config.encoder) for m in methods if is_imported(m)}
    known = load_cards(workspace.root)
    tasks = select_tasks(workspace, known, config)
    pretrained = [m for m in methods if m != SCRATCH and m not in imported]
    if "all" in config.methods:
        misfits = [m for m in pretrained if METHODS[m].misfit(ENCODERS[config.encoder])]
        for method in misfits:
            log.warning("%s is left out: %s", method, METHODS[method].misfit(ENCODERS[config.encoder]))
        methods, pretrained = ([m for m in those if m not in misfits] for those in (methods, pretrained))
    named = expand(known, config.pretrain_datasets) if pretrained else []
    data = [card for card in named if config.phantom or is_prepared(workspace, card)]
    return _Choice(tasks, data, methods, imported, pretrained, known)


def select_tasks(workspace: Workspace, cards: dict[int, Card], config: BenchmarkConfig) -> list[Card]:
    """The downstream datasets to run.

    Raises:
        InputError: if none is named or prepared, or a named one is no task.
    """
    if config.tasks:
        chosen = expand(cards, config.tasks)
    elif config.all:
        known = [c for c in cards.values() if c.kind != "pretraining"]
        shipped = {c.id for c in load_cards(None).values()}
        chosen = [c for c in known if (c.id in shipped if config.phantom else is_prepared(workspace, c))]
    else:
        raise InputError("mvp_benchmark", found="no task", expected="--all or --tasks ID ...")
    for card in chosen:
        if card.kind == "pretraining":
            raise InputError(
                "--tasks",
                found=f"{card.dataset_name}, a pre-training dataset",
                expected="segmentation or classification datasets",
                fix="Name it with --pretrain-datasets instead.",
            )
    if not chosen:
        raise InputError(
            f"{workspace.datasets}",
            found="no prepared task",
            expected="at least one",
            fix="Prepare one with mvp_prepare -d ID --source FOLDER, or run mvp_benchmark --all --phantom.",
        )
    return chosen


def make_tasks(workspace: Workspace, planned: Planned, config: BenchmarkConfig) -> Iterator[Task]:
    """The task with each fold and label budget asked for."""
    splits = load_splits(workspace, planned.card)
    fewest = max(1, len(planned.card.classes))
    for index in check_folds(planned.card, config.folds, len(splits.folds)):
        fold = splits.folds[index]
        for budget in config.label_budgets:
            train = training_part(fold, splits.patients, budget, fewest)
            yield Task(planned, index, fold.model_copy(update={"train": train}), splits.key, budget)


def _make_grid(cohort: GatheredData, choice: _Choice, config: BenchmarkConfig, pool: Executor) -> _Grid:
    workspace = cohort.workspace
    planned = cohort.planned
    for name, own in choice.imported.items():
        refuse_other_source(name, own, planned[choice.tasks[0].id].block.source)
    tasks = [task for card in choice.tasks for task in make_tasks(workspace, planned[card.id], config)]
    refuse_divided(cohort.shared, tasks)
    if config.exclude_overlap and choice.imported:
        log.warning("--exclude-overlap leaves nobody out of what %s has seen", ", ".join(choice.imported))
    left_out = {
        card.id: cohort.patients_of(choice.tasks, card) if config.exclude_overlap else frozenset()
        for card in choice.data
    }
    grid = _Grid([], [], [])
    for task in tasks:
        for method in choice.methods:
            job, record = None, choice.imported.get(method)
            seen: Mapping[str, Sequence[str] | frozenset[str]] | None = {}
            if method in choice.pretrained:
                job = _pretraining(cohort, choice, config, method, task, left_out, pool)
                seen = seen_patients(job.sources)
                known = leaks_of_tasks(cohort.shared, tasks, seen)
                job = replace(job, leaks=tuple(known.values()))
                grid.pretrainings.append(PretrainingRun(job))
            elif record is not None:
                seen = patients_seen(record, cohort.shared)
            data = [planned[card.id] for card in choice.data]
            weights = weights_of(workspace, method, job, data, record)
            leak = leaks_of_tasks(cohort.shared, [task], seen or {})[task.card.dataset_name, task.fold_index]
            for seed in config.seeds:
                cell = cell_of(workspace, task, method, weights, config, seed)
                grid.cells.append(cell)
                if weights.key is not None:
                    grid.leaks.append((cell, cell_leak(cohort.shared, leak, seen)))
    return grid


def _pretraining(
    cohort: GatheredData,
    choice: _Choice,
    config: BenchmarkConfig,
    method: str,
    task: Task,
    left_out: Mapping[int, frozenset[str]],
    pool: Executor,
) -> PretrainJob:
    """The method's pre-training run for a task: the shared one, unless the task's own test patients are in the data.

    Args:
        left_out: dataset id -> patients that no run may see.
    """
    block = task.planned.block
    unseen = frozenset(block.cases[case].patient for case in [*task.fold.test, *task.fold.val])
    excluded = {**left_out, task.card.id: unseen | left_out.get(task.card.id, frozenset())}
    settings = config.pretrain.of(method)
    return PretrainJob(
        root=cohort.workspace.root,
        sources=cohort.sources(choice.data, settings, pool, excluded),
        config=settings,
        options=resolve_options(method, settings.preset, config.profile),
        encoder=config.encoder,
        runtime=config.runtime,
        seed=config.seed,
        profile=config.profile,
    )


def _run_grid(workspace: Workspace, grid: _Grid, workers: int) -> BenchmarkRun:
    """Do what is not done: pre-training first, then cells."""
    todo: list[CellRun] = [cell for cell in grid.cells if not cell.is_done()]
    wanted = {need for cell in todo for need in cell.needs}
    runs = {run.key: run for run in grid.pretrainings if run.key in wanted}
    for run in runs.values():
        if (run.folder / RECORD_FILE).is_file() and run.is_done():
            checked_run(run.folder, run.plan.encoder)
    jobs: list[Job] = [*runs.values(), *{cell.key: cell for cell in todo}.values()]
    result = run_jobs(jobs, workers, workspace.results / LEDGERS) if jobs else NOTHING
    outcome = BenchmarkRun(
        finished=sum(cell.key in result.new for cell in todo),
        reused=len(grid.cells) - len(todo) + sum(cell.key in result.kept for cell in todo),
    )
    for cell in todo:
        if cell.key in result.failed:
            outcome.failed.append(FailedCell(cell.folder, result.failed[cell.key]))
            log.error("cell %s failed: %s", cell.folder, result.failed[cell.key])
    return outcome


LEDGERS = ".ledgers"
"""Folder in results/ for what the workers of running commands note."""
UNREADABLE = "unreadable"
"""Stands for the key of a dataset whose files are damaged."""
NOTHING = JobsOutcome(frozenset(), frozenset(), {})


def benchmark(workspace: Workspace, config: BenchmarkConfig) -> BenchmarkRun:
    """Run the grid, write the leaderboards from all cells that are of today's data, and print them.

    Raises:
        InputError: see :func:`run_benchmark`.
    """
    started = time.monotonic()
    outcome = run_benchmark(workspace, config)
    boards = write_leaderboards(workspace, config.statistics, config.seed, current_data(workspace))
    print_leaderboards(boards)
    console.print(
        f"{outcome.finished} cells run, {outcome.reused} kept, {len(outcome.failed)} failed, "
        f"{time.monotonic() - started:.0f} s"
    )
    for result in outcome.failed:
        console.print(f"[red]failed[/red] {result.folder}: {result.error}", highlight=False)
    return outcome


def current_data(workspace: Workspace) -> Current:
    """What is prepared now, for the leaderboards: results of other data are put aside."""
    cards = load_cards(workspace.root).values()
    return Current({c.dataset_name: _prepared_data(workspace, c) for c in cards if is_prepared(workspace, c)})


def _prepared_data(workspace: Workspace, card: Card) -> CurrentData:
    """A dataset as it is prepared; where its files are damaged, no result can be of it, and other tables stand."""
    try:
        splits = "" if card.kind == "pretraining" else load_splits(workspace, card).key
        keys = load_block(workspace, card).key, splits
    except InputError as error:
        log.error("results on %s are left out: %s", card.dataset_name, error)
        keys = UNREADABLE, UNREADABLE
    return CurrentData(*keys, tuple(card.metrics))
