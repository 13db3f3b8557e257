"""``mvp_pretrain``: collect the prepared data, plan what is not planned, run one method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mvp_bench.config.check import check
from mvp_bench.config.verbs import PretrainVerbConfig
from mvp_bench.datasets.catalog import expand, load_cards
from mvp_bench.datasets.prepared import is_prepared, load_block, load_splits
from mvp_bench.datasets.schema import Card
from mvp_bench.parallel import worker_pool
from mvp_bench.pretraining import distributed
from mvp_bench.pretraining.cohort import gather, make_phantoms, seen_patients
from mvp_bench.pretraining.estimate import estimate
from mvp_bench.pretraining.job import PretrainJob, run_job
from mvp_bench.pretraining.method import resolve_options
from mvp_bench.pretraining.run import check_settings
from mvp_bench.progress import console
from mvp_bench.workspace import Workspace


def run_pretraining(workspace: Workspace, config: PretrainVerbConfig, options: Any = None) -> Path | None:
    """Pre-train; returns the run's folder. The same command goes on where a killed run was.

    With ``estimate``, what the run would take is printed instead. Under torchrun every process makes this call; the
    first prepares the data while the others wait. Of downstream datasets only training patients (of fold 0) are used;
    with ``exclude_overlap`` nobody who is in a prepared task.

    Raises:
        InputError: for unknown names, unprepared data, or settings that cannot work.
    """
    check(config)
    loop = config.pretrain
    options = resolve_options(loop.method, loop.preset, config.profile) if options is None else options
    with distributed.joined(config.runtime) as processes:
        check_settings(loop, options, config.encoder, config.runtime, config.planning.memory_gb)
        job = processes.from_first(lambda: _collect(workspace, config, options))
        if not config.estimate:
            return run_job(job)
        found = estimate(job)
        if processes.first:
            console.print(found.text(), highlight=False)
        return None


def _collect(workspace: Workspace, config: PretrainVerbConfig, options: Any) -> PretrainJob:
    """Prepare and plan what is missing; the run on it."""
    known = load_cards(workspace.root)
    cards = expand(known, config.datasets)
    if config.phantom:
        make_phantoms(workspace, cards, config.phantom_config, config.seed, config.workers)
    named = [c for c in cards if config.datasets != ("520",) or is_prepared(workspace, c)]
    with worker_pool(config.workers) as pool:
        tasks = prepared_tasks(workspace, known, named)
        cohort = gather(workspace, named, tasks, config.encoder, config.planning, config.overlap_config, pool)
        excluded = {c.id: unseen_patients(workspace, c) for c in named}
        if config.exclude_overlap:
            excluded = {c.id: excluded[c.id] | cohort.patients_of(tasks, c) for c in named}
        sources = cohort.sources(named, config.pretrain, pool, excluded)
    seen = seen_patients(sources)
    leaks = (cohort.leak(task, 0, load_splits(workspace, task).folds[0], seen) for task in tasks)
    return PretrainJob(
        workspace.root,
        sources,
        config.pretrain,
        options,
        config.encoder,
        config.runtime,
        config.seed,
        config.profile,
        tuple(leaks),
    )


def prepared_tasks(workspace: Workspace, cards: Mapping[int, Card], data: Sequence[Card]) -> list[Card]:
    """The prepared downstream datasets of the same source, real or phantom, as the pre-training data."""
    sources = {load_block(workspace, card).source for card in data}
    candidates = [c for c in cards.values() if c.kind != "pretraining" and is_prepared(workspace, c)]
    return [c for c in candidates if load_block(workspace, c).source in sources]


def unseen_patients(workspace: Workspace, card: Card, fold: int = 0) -> frozenset[str]:
    """Validation and test patients of a downstream dataset; none of a pre-training one."""
    if card.kind == "pretraining":
        return frozenset()
    splits = load_splits(workspace, card)
    chosen = splits.folds[fold]
    return frozenset(splits.patients[case] for case in [*chosen.val, *chosen.test])
