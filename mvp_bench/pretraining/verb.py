"""``mvp_pretrain``: collect the prepared data, plan what is not planned, run one method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.table import Table

from mvp_bench.config import PhantomConfig, PretrainVerbConfig
from mvp_bench.datasets.catalog import expand, load_cards
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import is_prepared, load_splits
from mvp_bench.datasets.schema import Card
from mvp_bench.parallel import worker_pool
from mvp_bench.planning.plan import plan_dataset
from mvp_bench.pretraining.collect import collect_sources, make_job, run_job
from mvp_bench.progress import console
from mvp_bench.registry import ENCODERS, METHODS
from mvp_bench.workspace import Workspace


def run_pretraining(
    workspace: Workspace, config: PretrainVerbConfig, profile: str, phantom: PhantomConfig, options: Any = None
) -> Path:
    """Pre-train; returns the run's folder. The same command goes on where a killed run was.

    Of downstream datasets only training patients (of fold 0) are used.

    Raises:
        InputError: for unknown names, unprepared data, or settings that cannot work.
    """
    METHODS[config.pretrain.method]  # fail early on an unknown name
    spec = ENCODERS[config.encoder]
    cards = expand(load_cards(workspace.root), config.datasets)
    if config.phantom:
        for card in cards:
            prepare_dataset(
                workspace, card, source=None, phantom=phantom, seed=config.seed, workers=config.planning.workers
            )
    named = [c for c in cards if config.datasets != ("520",) or is_prepared(workspace, c)]
    with worker_pool(config.planning.workers) as pool:
        planned = [plan_dataset(workspace, card, spec, config.planning, pool) for card in named]
        excluded = {p.card.id: unseen_patients(workspace, p.card) for p in planned}
        sources = collect_sources(workspace, planned, config.pretrain, pool, excluded)
    job = make_job(workspace, sources, config.pretrain, spec.name, config.runtime, config.seed, profile, options)
    return run_job(job)


def unseen_patients(workspace: Workspace, card: Card, fold: int = 0) -> frozenset[str]:
    """Validation and test patients of a downstream dataset; none of a pre-training one."""
    if card.kind == "pretraining":
        return frozenset()
    splits = load_splits(workspace, card)
    chosen = splits.folds[fold]
    return frozenset(splits.patients[case] for case in [*chosen.val, *chosen.test])


def list_methods() -> None:
    """The registered methods, one line each."""
    table = Table(title="Pre-training methods")
    for name in ("method", "what", "modalities"):
        table.add_column(name)
    for name in METHODS:
        declaration = METHODS[name].declaration
        table.add_row(name, METHODS.summary(name), declaration.modalities)
    console.print(table)
