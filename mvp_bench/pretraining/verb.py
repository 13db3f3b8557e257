"""``mvp_pretrain``: collect the prepared data, plan what is not planned, run one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.config.verbs import PretrainVerbConfig
from mvp_bench.datasets.catalog import expand, load_cards
from mvp_bench.datasets.overlap.audit import Audit, Leak, audit, print_audit
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import is_prepared, load_block, load_splits
from mvp_bench.datasets.schema import Card
from mvp_bench.parallel import worker_pool
from mvp_bench.planning.plan import plan_dataset
from mvp_bench.pretraining import distributed
from mvp_bench.pretraining.collect import (
    PretrainJob,
    collect_sources,
    make_job,
    patients_of_tasks,
    run_job,
    seen_patients,
)
from mvp_bench.pretraining.estimate import estimate
from mvp_bench.pretraining.method import resolve_options
from mvp_bench.pretraining.run import check_settings
from mvp_bench.progress import console, log
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace


def run_pretraining(
    workspace: Workspace, config: PretrainVerbConfig, profile: str, phantom: PhantomConfig, options: Any = None
) -> Path | None:
    """Pre-train; returns the run's folder. The same command goes on where a killed run was.

    With ``estimate``, what the run would take is printed instead. Under torchrun every process makes this call; the
    first prepares the data while the others wait. Of downstream datasets only training patients (of fold 0) are used;
    with ``exclude_overlap`` nobody who is in a prepared task.

    Raises:
        InputError: for unknown names, unprepared data, or settings that cannot work.
    """
    loop = config.pretrain
    options = resolve_options(loop.method, loop.preset, profile) if options is None else options
    with distributed.joined(config.runtime) as processes:
        check_settings(loop, options, config.encoder, config.runtime)
        job = processes.from_first(lambda: _collect(workspace, config, profile, phantom, options))
        if not config.estimate:
            return run_job(job)
        found = estimate(job)
        if processes.first:
            console.print(found.text(), highlight=False)
        return None


def _collect(
    workspace: Workspace, config: PretrainVerbConfig, profile: str, phantom: PhantomConfig, options: Any
) -> PretrainJob:
    """Prepare and plan what is missing; the run on it."""
    spec = ENCODERS[config.encoder]
    known = load_cards(workspace.root)
    cards = expand(known, config.datasets)
    if config.phantom:
        for card in cards:
            prepare_dataset(
                workspace, card, source=None, phantom=phantom, seed=config.seed, workers=config.planning.workers
            )
    named = [c for c in cards if config.datasets != ("520",) or is_prepared(workspace, c)]
    with worker_pool(config.planning.workers) as pool:
        tasks = prepared_tasks(workspace, known, named)
        shared = audit(workspace, [*named, *tasks], config.overlap, pool)
        print_audit(shared)
        planned = [plan_dataset(workspace, card, spec, config.planning, pool) for card in named]
        excluded = {p.card.id: unseen_patients(workspace, p.card) for p in planned}
        if config.exclude_overlap:
            excluded = {
                p.card.id: excluded[p.card.id] | patients_of_tasks(shared, p.card.dataset_name, tasks) for p in planned
            }
        sources = collect_sources(workspace, planned, config.pretrain, pool, excluded)
    for source in sources:
        if source.duplicates:
            left = len(source.included())
            log.info("%s: %d near-duplicate cases left out, %d left", source.dataset, len(source.duplicates), left)
    job = make_job(workspace, sources, config.pretrain, spec.name, config.runtime, config.seed, profile, options)
    seen = seen_patients(sources)
    return replace(job, leaks=tuple(_leak(workspace, shared, task, seen) for task in tasks))


def prepared_tasks(workspace: Workspace, cards: Mapping[int, Card], data: Sequence[Card]) -> list[Card]:
    """The prepared downstream datasets of the same source, real or phantom, as the pre-training data."""
    sources = {load_block(workspace, card).source for card in data}
    candidates = [c for c in cards.values() if c.kind != "pretraining" and is_prepared(workspace, c)]
    return [c for c in candidates if load_block(workspace, c).source in sources]


def _leak(workspace: Workspace, shared: Audit, task: Card, seen: Mapping[str, frozenset[str]], fold: int = 0) -> Leak:
    splits = load_splits(workspace, task)
    test = [splits.patients[case] for case in splits.folds[fold].test]
    return shared.leak(task.dataset_name, fold, test, seen)


def unseen_patients(workspace: Workspace, card: Card, fold: int = 0) -> frozenset[str]:
    """Validation and test patients of a downstream dataset; none of a pre-training one."""
    if card.kind == "pretraining":
        return frozenset()
    splits = load_splits(workspace, card)
    chosen = splits.folds[fold]
    return frozenset(splits.patients[case] for case in [*chosen.val, *chosen.test])
