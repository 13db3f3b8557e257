"""The grid of cells: tasks x methods x seeds x folds, each with the key of everything its result depends on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from mvp_bench.benchmark.cell_job import CellRun
from mvp_bench.benchmark.imported import is_imported, run_folder, unknown_run
from mvp_bench.cells.spec import CellNeeds, CellSpec
from mvp_bench.config.groups import ClassificationConfig, SegmentationConfig
from mvp_bench.config.verbs import BenchmarkConfig
from mvp_bench.datasets.schema import Card, Fold
from mvp_bench.errors import InputError
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.identity import counted
from mvp_bench.models.record import EncoderRecord
from mvp_bench.planning.plan import Planned, case_files
from mvp_bench.pretraining.job import PretrainJob
from mvp_bench.registry import IMPORTED, METHODS, SCRATCH, unknown_name
from mvp_bench.training.machine import resolved_runtime
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class Task:
    """A planned downstream dataset with one fold of its split, ``train`` cut down to the label budget."""

    planned: Planned
    fold_index: int
    fold: Fold
    splits: str
    """Key of the splits."""
    label_budget: float = 1.0

    @property
    def card(self) -> Card:
        return self.planned.card

    def patients(self, part: Literal["train", "val", "test"]) -> frozenset[str]:
        """The patients of a part of the fold."""
        return frozenset(self.planned.block.cases[case].patient for case in getattr(self.fold, part))


@dataclass(frozen=True)
class Weights:
    """What a cell starts from: a run that is to be made, one that is there, or nothing."""

    job: PretrainJob | None = None
    imported: EncoderRecord | None = None
    folder: Path | None = None
    data: Mapping[str, str] = field(default_factory=dict)
    """Dataset that ``job`` trains on -> its key."""

    @property
    def key(self) -> str | None:
        """Key of the run; of imported weights their hash; None: from scratch."""
        if self.job is not None:
            return self.job.key
        return self.imported.weights_sha256 if self.imported is not None else None

    @property
    def seed(self) -> int | None:
        """Seed of the pre-training; None where there is none, or where it is unknown."""
        if self.job is not None:
            return self.job.seed
        return self.imported.seed if self.imported is not None and self.imported.origin is None else None


def weights_of(
    workspace: Workspace,
    method: str,
    job: PretrainJob | None,
    data: Iterable[Planned],
    imported: EncoderRecord | None,
) -> Weights:
    """Weights of a method: those that ``job`` makes of ``data``, those of an imported run, or none."""
    if job is not None:
        return Weights(job=job, folder=job.folder, data={p.card.dataset_name: p.block.key for p in data})
    return Weights(imported=imported, folder=run_folder(workspace, method)) if imported is not None else Weights()


def cell_of(
    workspace: Workspace, task: Task, method: str, weights: Weights, config: BenchmarkConfig, seed: int
) -> CellRun:
    """One cell of the grid, as a job."""
    spec = spec_of(task, method, weights, config, seed)
    planned, fold = task.planned, task.fold
    files = case_files(workspace, planned.card, planned.block)
    tune = FineTuneJob(
        task=spec.task,
        key=spec.key,
        plan=planned.plan,
        cases_folder=planned.cases,
        arrays=planned.arrays,
        regions=spec.regions,
        classes=spec.classes,
        fold=fold,
        encoder=spec.encoder,
        pretrained=weights.folder,
        stem=config.stem,
        seed=seed,
        config=tuning_of(task.card, config),
        runtime=config.runtime,
        folder=spec.folder(workspace),
    )
    images = {case: next(str(path) for path in files[case].images if path) for case in fold.test}
    return CellRun(workspace.root, spec, tune, images, config.keep_models)


def spec_of(task: Task, method: str, weights: Weights, config: BenchmarkConfig, seed: int) -> CellSpec:
    """What a cell is: its coordinates, and the keys of all that it is made from."""
    planned, block, fold = task.planned, task.planned.block, task.fold
    return CellSpec(
        task=task.card.dataset_name,
        kind=task.card.kind,  # type: ignore[arg-type]
        source=block.source,
        method=method,
        encoder=config.encoder,
        label_budget=task.label_budget,
        stem=config.stem,
        fold=task.fold_index,
        seed=seed,
        pretrain_seed=weights.seed,
        recipe=weights.job.recipe if weights.job is not None else None,
        profile=config.profile,
        regions=dict(block.regions),
        classes=list(block.classes),
        metrics=list(task.card.metrics),
        tested={case: block.cases[case].patient for case in fold.test},
        n_train=len(fold.train),
        n_val=len(fold.val),
        n_test=len(fold.test),
        needs=CellNeeds(
            dataset=block.key,
            splits=task.splits,
            plan=planned.key,
            arrays=planned.arrays,
            encoder=weights.key,
            pretraining=dict(weights.data),
        ),
        settings={**counted(tuning_of(task.card, config)), **resolved_runtime(config.runtime)},
    )


def tuning_of(card: Card, config: BenchmarkConfig) -> SegmentationConfig | ClassificationConfig:
    """The fine-tuning settings of a task's kind."""
    return config.segmentation if card.kind == "segmentation" else config.classification


def check_methods(names: tuple[str, ...], runs: Collection[str] = ()) -> list[str]:
    """Methods without duplicates; ``all`` stands for scratch and every registered one.

    Args:
        names: from the command line, several in one with commas or blanks between them.
        runs: the finished runs that ``imported:NAME`` may name.

    Raises:
        InputError: for an unknown method, with the nearest names, or an unknown run, with those there are.
    """
    known = [SCRATCH, *METHODS]
    wanted = [part for name in names for part in re.split(r"[,\s]+", name) if part]
    for name in wanted:
        if is_imported(name):
            if name.removeprefix(IMPORTED) not in runs:
                raise unknown_run(name, runs)
        elif name not in (*known, "all"):
            raise unknown_name("method", name, [*known, f"{IMPORTED}NAME"])
    return list(dict.fromkeys(part for name in wanted for part in (known if name == "all" else [name])))


def check_folds(card: Card, folds: tuple[int, ...], available: int) -> tuple[int, ...]:
    """The folds to run of a task.

    Raises:
        InputError: if a split has no such fold.
    """
    for fold in folds:
        if not 0 <= fold < available:
            raise InputError(
                "--folds",
                found=fold,
                expected=f"0 to {available - 1} for {card.dataset_name} (split scheme {card.split.scheme})",
                fix="Use the leave_one_out or k_fold scheme on the dataset's card for more folds.",
            )
    return folds
