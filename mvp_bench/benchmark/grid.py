"""The grid of cells: tasks x methods x seeds x folds, each with the hash of everything its result depends on."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from mvp_bench.benchmark.imported import is_imported, method_folder, unknown_run
from mvp_bench.config.groups import ClassificationConfig, SegmentationConfig
from mvp_bench.config.verbs import BenchmarkConfig
from mvp_bench.datasets.schema import Card, Fold
from mvp_bench.errors import InputError
from mvp_bench.identity import hash_of
from mvp_bench.planning.plan import Planned
from mvp_bench.registry import IMPORTED, METHODS, SCRATCH, unknown_name
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class Task:
    """A planned downstream dataset with one fold of its split, ``train`` cut down to the label fraction."""

    planned: Planned
    fold_index: int
    fold: Fold
    splits_hash: str
    label_fraction: float = 1.0

    @property
    def card(self) -> Card:
        return self.planned.card

    def patients(self, part: Literal["train", "val", "test"]) -> frozenset[str]:
        """The patients of a part of the fold."""
        return frozenset(self.planned.block.cases[case].patient for case in getattr(self.fold, part))


@dataclass(frozen=True)
class Cell:
    """One training and test. ``pretrained`` is the folder of the method's pre-training run (None for scratch)."""

    task: Task
    method: str
    encoder: str
    seed: int
    profile: str
    config: BenchmarkConfig
    pretrained: Path | None
    pretraining_hash: str | None
    """Of everything that pre-training depends on; stands in for the weights before they exist. Of imported ones: of the
    weights."""

    @cached_property
    def tuning(self) -> SegmentationConfig | ClassificationConfig:
        """The fine-tuning configuration that applies."""
        return self.config.segmentation if self.task.card.kind == "segmentation" else self.config.classification

    @cached_property
    def config_hash(self) -> str:
        """Of the fine-tuning settings that every method, seed and fold of one comparison shares."""
        tuning = {k: v for k, v in asdict(self.tuning).items() if k not in ("checkpoint_every", "keep_predictions")}
        return hash_of([tuning, asdict(self.config.runtime), self.profile])

    @cached_property
    def hash(self) -> str:
        """Of everything the cell's result depends on."""
        return hash_of(
            [
                self.config_hash,
                self.config.stem,
                self.task.planned.store.key,
                self.task.planned.key,
                self.task.splits_hash,
                self.task.fold_index,
                self.task.label_fraction,
                self.method,
                self.encoder,
                self.seed,
                self.pretraining_hash,
            ]
        )

    @property
    def name(self) -> str:
        """Id of the cell, unique within its task and method."""
        coordinates = f"labels{self.task.label_fraction:g}-fold{self.task.fold_index}-seed{self.seed}"
        return f"{self.encoder}-{self.config.stem}-{coordinates}-{self.hash[:10]}"

    def folder(self, workspace: Workspace) -> Path:
        """results/cells/<task>/<method>/<cell id>."""
        return workspace.cells / self.task.card.dataset_name / method_folder(self.method) / self.name

    def record(self) -> dict[str, Any]:
        """The part of cell.json that is known before the cell runs."""
        block, fold = self.task.planned.block, self.task.fold
        return {
            "task": self.task.card.dataset_name,
            "kind": self.task.card.kind,
            "method": self.method,
            "encoder": self.encoder,
            "mode": "full",
            "label_fraction": self.task.label_fraction,
            "stem": self.config.stem,
            "seed": self.seed,
            "fold": self.task.fold_index,
            "profile": self.profile,
            "source": block.source,
            "classes": block.classes,
            "regions": list(block.regions),
            "metrics": self.task.card.metrics,
            "n_train": len(fold.train),
            "n_val": len(fold.val),
            "n_test": len(fold.test),
            "hashes": {
                "data": block.data_hash,
                "splits": self.task.splits_hash,
                "plan": self.task.planned.key,
                "config": self.config_hash,
                "encoder": self.pretraining_hash,
                "cell": self.hash,
            },
        }


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


def check_fractions(fractions: tuple[float, ...]) -> list[float]:
    """Label fractions without duplicates.

    Raises:
        InputError: if one is not above 0 and at most 1.
    """
    for fraction in fractions:
        if not 0 < fraction <= 1:
            raise InputError("--label-fractions", found=fraction, expected="numbers above 0 and at most 1")
    return list(dict.fromkeys(fractions))
