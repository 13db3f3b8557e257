"""From planned datasets to pre-training sources at one common spacing, and the folder a run lives in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvp_bench.config.groups import PretrainConfig, RuntimeConfig
from mvp_bench.datasets.overlap.audit import Audit, Leak
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.identity import hash_of
from mvp_bench.planning.plan import Planned, preprocess_for_pretraining
from mvp_bench.pretraining.duplicates import without_duplicates
from mvp_bench.pretraining.method import resolve_options
from mvp_bench.pretraining.run import NOT_IDENTITY, pretrain
from mvp_bench.pretraining.sampling import PretrainSource
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class PretrainJob:
    """A pre-training run as it travels to a worker process."""

    root: Path
    sources: tuple[PretrainSource, ...]
    config: PretrainConfig
    options: Any
    encoder: str
    runtime: RuntimeConfig
    seed: int
    profile: str
    leaks: tuple[Leak, ...] = ()
    """What is known of the tasks' test patients among the data; for the model card only."""

    @property
    def hash(self) -> str:
        """Of everything that the weights depend on."""
        settings = {k: v for k, v in asdict(self.config).items() if k not in NOT_IDENTITY}
        data = [(s.dataset, s.data_hash, sorted(s.excluded)) for s in self.sources]
        return hash_of(
            [settings, asdict(self.options), self.encoder, asdict(self.runtime), self.seed, self.profile, data]
        )

    @property
    def folder(self) -> Path:
        """results/pretraining/<method>-<encoder>-<hash>."""
        return Workspace(self.root).pretraining / f"{self.config.method}-{self.encoder}-{self.hash[:10]}"


def collect_sources(
    workspace: Workspace,
    planned: Sequence[Planned],
    config: PretrainConfig,
    pool: Executor,
    excluded: Mapping[int, frozenset[str]] | None = None,
) -> tuple[PretrainSource, ...]:
    """Pre-training sources at one spacing: the configured one, or the median of the datasets' planned spacings.

    Args:
        excluded: dataset id -> patients that must not be seen.

    With ``config.deduplicate``, each source names its near-duplicate cases, which are left out.

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
        sources.append(source)
    return tuple(sources)


def make_job(
    workspace: Workspace,
    sources: tuple[PretrainSource, ...],
    config: PretrainConfig,
    encoder: str,
    runtime: RuntimeConfig,
    seed: int,
    profile: str,
    options: Any = None,
) -> PretrainJob:
    """A run of ``config.method``; ``options`` default to those of the configured preset."""
    chosen = options if options is not None else resolve_options(config.method, config.preset, profile)
    return PretrainJob(workspace.root, sources, config, chosen, encoder, runtime, seed, profile)


def run_job(job: PretrainJob) -> Path:
    """Run (or resume, or find finished) a pre-training run; returns its folder. For worker processes."""
    import torch

    torch.set_num_threads(job.runtime.threads)
    pretrain(
        job.sources,
        job.config,
        job.options,
        job.encoder,
        job.runtime,
        job.seed,
        job.profile,
        job.folder,
        leaks=job.leaks,
    )
    return job.folder


def seen_patients(sources: Iterable[PretrainSource]) -> dict[str, frozenset[str]]:
    """Dataset -> the patients that a run on these sources sees."""
    return {s.dataset: frozenset(s.store.info(case).patient for case in s.included()) for s in sources}


def patients_of_tasks(audit: Audit, dataset: str, tasks: Iterable[Card]) -> frozenset[str]:
    """The patients of a dataset who are, as people, in any part of any of the tasks."""
    return frozenset().union(*(audit.patients_in(task.dataset_name, of=dataset) for task in tasks))


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
