"""``mvp_benchmark``: make what is missing, then run every cell of the grid on the worker processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from pathlib import Path

from mvp_bench.benchmark.execution import CellJob, CellResult, is_finished, pretraining_failed, run_cell
from mvp_bench.benchmark.grid import Cell, Task, check_folds, check_fractions, check_methods
from mvp_bench.benchmark.imported import (
    cards_seen,
    finished_runs,
    is_imported,
    patients_seen,
    refuse_other_source,
    run_folder,
)
from mvp_bench.benchmark.leak import refuse_divided, write_leaks
from mvp_bench.config.verbs import BenchmarkConfig
from mvp_bench.datasets.catalog import expand, load_cards
from mvp_bench.datasets.overlap.audit import Audit, Leak, audit, print_audit
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import is_prepared, load_splits, splits_hash
from mvp_bench.datasets.schema import Card
from mvp_bench.datasets.splits import training_part
from mvp_bench.errors import InputError
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.models.record import RECORD_FILE, EncoderRecord
from mvp_bench.models.weights import check_encoder, load_pretrained
from mvp_bench.parallel import preload, worker_died, worker_pool
from mvp_bench.planning.plan import Planned, case_files, plan_dataset, print_plans
from mvp_bench.pretraining.collect import (
    PretrainJob,
    collect_sources,
    make_job,
    patients_of_tasks,
    refuse_mixture,
    run_job,
    seen_patients,
)
from mvp_bench.progress import console, log, progress
from mvp_bench.registry import ENCODERS, SCRATCH
from mvp_bench.workspace import Workspace


@dataclass
class BenchmarkRun:
    """What a run of the grid did."""

    finished: int = 0
    reused: int = 0
    failed: list[CellResult] = field(default_factory=list)


def run_benchmark(workspace: Workspace, config: BenchmarkConfig, profile: str, seeds: Sequence[int]) -> BenchmarkRun:
    """Prepare (phantom only), audit, plan, pre-train and run all cells; finished ones are kept.

    The audit comes to each pre-trained cell's ``leak.json``, which is brought up to date for finished cells too. What
    imported weights have seen may be unknown; such cells have none.

    Raises:
        InputError: for whatever the user can mend before anything runs. Failures inside a cell are returned.
    """
    methods = check_methods(config.methods, finished_runs(workspace))
    check_fractions(config.label_fractions)
    spec = ENCODERS[config.encoder]
    imported = {m: _checked_run(run_folder(workspace, m), config.encoder) for m in methods if is_imported(m)}
    cards = load_cards(workspace.root)
    task_cards = select_tasks(workspace, cards, config)
    pretrained_methods = [m for m in methods if m != SCRATCH and m not in imported]
    pretraining_cards = (
        [c for c in expand(cards, config.pretrain_datasets) if config.phantom or is_prepared(workspace, c)]
        if pretrained_methods
        else []
    )
    everything = list({c.id: c for c in [*task_cards, *pretraining_cards]}.values())
    if config.jobs > 1:
        preload("mvp_bench.finetuning.segmentation", "mvp_bench.finetuning.classification")
    if config.phantom:
        for card in everything:
            prepare_dataset(
                workspace, card, source=None, phantom=config.phantom_config, seed=config.seed, workers=config.jobs
            )
    with worker_pool(config.jobs) as pool:
        seen_cards = cards_seen(workspace, cards, imported.values())
        shared = audit(workspace, [*everything, *seen_cards], config.overlap, pool)
        print_audit(shared)
        planned = {c.id: plan_dataset(workspace, c, spec, config.planning, pool) for c in everything}
        refuse_mixture([(p.card, p.block.source) for p in planned.values()])
        for name, own in imported.items():
            refuse_other_source(name, own, planned[task_cards[0].id].block.source)
        print_plans(list(planned.values()))
        tasks = [task for card in task_cards for task in make_tasks(workspace, planned[card.id], config)]
        refuse_divided(shared, tasks)
        sources = [planned[c.id] for c in pretraining_cards]
        left_out = {
            c.id: patients_of_tasks(shared, c.dataset_name, task_cards) if config.exclude_overlap else frozenset()
            for c in pretraining_cards
        }
        if config.exclude_overlap and imported:
            log.warning("--exclude-overlap leaves nobody out of what %s has seen", ", ".join(imported))
        cells: list[tuple[Cell, PretrainJob | None]] = []
        leaks: list[tuple[Cell, Sequence[Leak]]] = []
        for task in tasks:
            for method in methods:
                job, record = None, imported.get(method)
                if method in pretrained_methods:
                    job = _pretraining(workspace, config, profile, method, task, sources, left_out, pool)
                    job = replace(job, leaks=_leaks(shared, tasks, seen_patients(job.sources)))
                seen = patients_seen(record, shared) if record else None
                known = job.leaks if job else _leaks(shared, [task], seen) if seen is not None else ()
                for seed in seeds:
                    cell = _cell(workspace, task, method, config, profile, seed, job, record)
                    cells.append((cell, job))
                    leaks += [(cell, known)] if known else []
        outcome = _run_grid(workspace, cells, pool)
    write_leaks(workspace, leaks)
    return outcome


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
    """The task with each fold and label fraction asked for."""
    splits = load_splits(workspace, planned.card)
    fewest = max(1, len(planned.card.classes))
    for index in check_folds(planned.card, config.folds, len(splits.folds)):
        fold = splits.folds[index]
        for fraction in check_fractions(config.label_fractions):
            train = training_part(fold, splits.patients, fraction, fewest)
            yield Task(planned, index, fold.model_copy(update={"train": train}), splits_hash(splits), fraction)


def _pretraining(
    workspace: Workspace,
    config: BenchmarkConfig,
    profile: str,
    method: str,
    task: Task,
    sources: list[Planned],
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
    collected = collect_sources(workspace, sources, config.pretrain, pool, excluded)
    settings = replace(config.pretrain, method=method)
    return make_job(workspace, collected, settings, config.encoder, config.runtime, config.seed, profile)


def _leaks(shared: Audit, tasks: Sequence[Task], seen: Mapping[str, Iterable[str]]) -> tuple[Leak, ...]:
    """How many of each task's test patients, by fold, are among those seen (dataset -> patients) in pre-training."""
    folds = {(task.card.dataset_name, task.fold_index): task.patients("test") for task in tasks}
    return tuple(shared.leak(name, fold, test, seen) for (name, fold), test in folds.items())


def _cell(
    workspace: Workspace,
    task: Task,
    method: str,
    config: BenchmarkConfig,
    profile: str,
    seed: int,
    job: PretrainJob | None,
    record: EncoderRecord | None,
) -> Cell:
    """A cell of the grid; ``job`` pre-trains its weights, ``record`` is of imported ones."""
    return Cell(
        task=task,
        method=method,
        encoder=config.encoder,
        seed=seed,
        profile=profile,
        config=config,
        pretrained=job.folder if job else run_folder(workspace, method) if record else None,
        pretraining_hash=job.hash if job else record.weights_sha256 if record else None,
    )


def _cell_job(workspace: Workspace, cell: Cell) -> CellJob:
    planned, fold = cell.task.planned, cell.task.fold
    files = case_files(workspace, planned.card, planned.block)
    tune = FineTuneJob(
        task=planned.card.dataset_name,
        key=cell.hash,
        plan=planned.plan,
        cases_folder=planned.cases,
        arrays=planned.store.key,
        regions=dict(planned.block.regions),
        classes=list(planned.block.classes),
        fold=fold,
        encoder=cell.encoder,
        pretrained=cell.pretrained,
        stem=cell.config.stem,
        seed=cell.seed,
        config=cell.tuning,
        runtime=cell.config.runtime,
        folder=cell.folder(workspace),
    )
    patients = {case: planned.block.cases[case].patient for case in fold.test}
    images = {case: next(str(path) for path in files[case].images if path) for case in fold.test}
    return CellJob(workspace.root, tune, cell.record(), patients, images)


def _run_grid(workspace: Workspace, cells: list[tuple[Cell, PretrainJob | None]], pool: Executor) -> BenchmarkRun:
    """Submit pre-training and all cells whose weights are there (or none) at once, each other one when they are."""
    outcome = BenchmarkRun()
    waiting: dict[Path, list[CellJob]] = {}
    running: dict[Future, Path | None] = {}
    open_cells = []
    for cell, job in cells:
        if is_finished(cell.folder(workspace)):
            outcome.reused += 1
        else:
            open_cells.append((_cell_job(workspace, cell), job))
    runs = {job.folder: job for _, job in open_cells if job}
    for folder, job in runs.items():
        if (folder / RECORD_FILE).is_file():
            _checked_run(folder, job.encoder)
    with progress("benchmark", len(open_cells) + len(runs)) as advance:
        for folder, job in runs.items():
            waiting[folder] = [c for c, j in open_cells if j and j.folder == folder]
            running[pool.submit(run_job, job)] = folder
        for cell_job, job in open_cells:
            if job is None:
                running[pool.submit(run_cell, cell_job)] = None
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                folder_or_none = running.pop(future)
                advance(1)
                try:
                    if folder_or_none is None:
                        _note(outcome, future.result())
                        continue
                    future.result()
                    for cell_job in waiting.pop(folder_or_none):
                        running[pool.submit(run_cell, cell_job)] = None
                except BrokenProcessPool as error:
                    raise worker_died("benchmark") from error
                except Exception as error:  # a failed pre-training fails its cells, not the others
                    log.error("pre-training %s failed: %s", folder_or_none, error)
                    for cell_job in waiting.pop(folder_or_none, []):  # type: ignore[arg-type]
                        _note(outcome, pretraining_failed(cell_job, f"pre-training failed: {error}"))
                        advance(1)
    return outcome


def _checked_run(folder: Path, encoder: str) -> EncoderRecord:
    """The record of a finished run; damaged or foreign weights are refused before anything runs.

    Raises:
        InputError: if the weights cannot be read whole, or are of another encoder.
    """
    _, record = load_pretrained(folder)
    check_encoder(record, encoder, folder)
    return record


def _note(outcome: BenchmarkRun, result: CellResult) -> None:
    if result.error:
        outcome.failed.append(result)
        log.error("cell %s failed: %s", result.folder, result.error)
        return
    outcome.finished += 1
    log.debug("cell %s done", result.folder)


def summary(outcome: BenchmarkRun, started: float) -> None:
    """One line at the end, and one per failed cell."""
    console.print(
        f"{outcome.finished} cells run, {outcome.reused} kept, {len(outcome.failed)} failed, "
        f"{time.monotonic() - started:.0f} s"
    )
    for result in outcome.failed:
        console.print(f"[red]failed[/red] {result.folder}: {result.error}", highlight=False)
