"""The data of one command, by one path for both verbs: made where missing, audited, planned, and cut down to who may
be seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from mvp_bench.config.groups import OverlapConfig, PhantomConfig, PlanningConfig, PretrainConfig
from mvp_bench.datasets.overlap.audit import Audit, Leak, audit, print_audit
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.datasets.schema import Card, Fold
from mvp_bench.errors import InputError
from mvp_bench.planning.plan import Planned, plan_dataset, preprocess_for_pretraining
from mvp_bench.pretraining.duplicates import without_duplicates
from mvp_bench.pretraining.source import PretrainSource
from mvp_bench.progress import log
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class GatheredData:
    """Prepared datasets of one source, real or phantom: who is who in them, and their plans."""

    workspace: Workspace
    planned: Mapping[int, Planned]
    """Dataset id -> its plan."""
    shared: Audit
    """Who is who, over the planned datasets and those that were only audited."""

    def sources(
        self, cards: Iterable[Card], config: PretrainConfig, pool: Executor, excluded: Mapping[int, frozenset[str]]
    ) -> tuple[PretrainSource, ...]:
        """Pre-training sources on some of the datasets, see :func:`collect_sources`."""
        return collect_sources(self.workspace, [self.planned[card.id] for card in cards], config, pool, excluded)

    def patients_of(self, tasks: Iterable[Card], data: Card) -> frozenset[str]:
        """The patients of a dataset who are, as people, in any part of any of the tasks."""
        names = [task.dataset_name for task in tasks]
        return frozenset().union(*(self.shared.patients_in(name, of=data.dataset_name) for name in names))

    def leak(self, task: Card, index: int, fold: Fold, seen: Mapping[str, Iterable[str]]) -> Leak:
        """How many of a fold's test patients are among those seen (dataset -> patients) in pre-training."""
        splits = load_splits(self.workspace, task)
        return self.shared.leak(task.dataset_name, index, [splits.patients[case] for case in fold.test], seen)


def gather(
    workspace: Workspace,
    to_plan: Sequence[Card],
    to_audit: Sequence[Card],
    encoder: str,
    planning: PlanningConfig,
    overlap: OverlapConfig,
    pool: Executor,
) -> GatheredData:
    """Audit and plan prepared datasets.

    Args:
        to_plan: datasets to pre-train or fine-tune on.
        to_audit: further ones whose patients matter.
        encoder: preset to plan for.

    Raises:
        InputError: if one is not prepared, or phantom and real data would be mixed.
    """
    shared = audit(workspace, [*to_plan, *to_audit], overlap, pool)
    print_audit(shared)
    planned = {card.id: plan_dataset(workspace, card, ENCODERS[encoder], planning, pool) for card in to_plan}
    refuse_mixture([(p.card, p.block.source) for p in planned.values()])
    return GatheredData(workspace, planned, shared)


def make_phantoms(workspace: Workspace, cards: Iterable[Card], size: PhantomConfig, seed: int, workers: int) -> None:
    """Make the phantom of every dataset that is not prepared yet.

    Raises:
        InputError: if real data are prepared under one of the names.
    """
    for card in cards:
        prepare_dataset(workspace, card, source=None, phantom=size, seed=seed, workers=workers)


def collect_sources(
    workspace: Workspace,
    planned: Sequence[Planned],
    config: PretrainConfig,
    pool: Executor,
    excluded: Mapping[int, frozenset[str]] | None = None,
) -> tuple[PretrainSource, ...]:
    """Pre-training sources at one spacing: the configured one, or the median of the datasets' planned spacings.

    With ``config.deduplicate``, each source names its near-duplicate cases, which are left out.

    Args:
        excluded: dataset id -> patients that must not be seen.

    Raises:
        InputError: if there is no dataset, or phantom and real data would be mixed.
    """
    if not planned:
        raise InputError(
            "pre-training data",
            found="no prepared dataset",
            expected="at least one of 521-525, or datasets named with -d",
            fix="Prepare one with mvp_prepare -d ID --source FOLDER, or use --phantom.",
        )
    refuse_mixture([(p.card, p.block.source) for p in planned])
    if config.spacing:
        spacing = (config.spacing,) * 3
    else:
        median = np.median([p.configuration["spacing"] for p in planned], axis=0)
        spacing = (round(float(median[0]), 3), round(float(median[1]), 3), round(float(median[2]), 3))
    sources = []
    for p in planned:
        store = preprocess_for_pretraining(workspace, p, spacing, pool)
        source = PretrainSource(
            dataset=p.card.dataset_name,
            store=store,
            source=p.block.source,
            excluded=(excluded or {}).get(p.card.id, frozenset()),
            licence=p.card.licence,
            data_hash=store.key,
        )
        if config.deduplicate is not None:
            source = without_duplicates(source, config.deduplicate, pool)
            if source.duplicates:
                counts = len(source.duplicates), len(source.included())
                log.info("%s: %d near-duplicate cases left out, %d left", source.dataset, *counts)
        sources.append(source)
    return tuple(sources)


def seen_patients(sources: Iterable[PretrainSource]) -> dict[str, frozenset[str]]:
    """Dataset -> the patients that a run on these sources sees."""
    return {s.dataset: frozenset(s.store.info(case).patient for case in s.included()) for s in sources}


def refuse_mixture(parts: Sequence[tuple[Card, str]]) -> None:
    """Phantom and real data never meet in one experiment.

    Raises:
        InputError: naming a dataset of either kind.
    """
    by_source = {source: card for card, source in parts}
    if len(by_source) > 1:
        raise InputError(
            "data sources",
            found=f"{by_source['phantom'].dataset_name} is phantom, {by_source['real'].dataset_name} is real",
            expected="all phantom or all real",
            fix="Use another --root for the phantom cohort, or name the datasets to use.",
        )
