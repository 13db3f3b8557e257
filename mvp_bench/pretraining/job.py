"""A pre-training run as it travels to a worker process."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mvp_bench.config.groups import PretrainConfig, RuntimeConfig
from mvp_bench.datasets.overlap.audit import Leak
from mvp_bench.identity import SHORT
from mvp_bench.pretraining import distributed
from mvp_bench.pretraining.identity import recipe_key, run_identity, run_key
from mvp_bench.pretraining.run import pretrain
from mvp_bench.pretraining.source import PretrainSource
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class PretrainJob:
    """A pre-training run."""

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

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Everything that the weights depend on."""
        world = distributed.current().world
        return run_identity(
            self.sources, self.config, self.options, self.encoder, self.runtime, self.seed, self.profile, world
        )

    @cached_property
    def key(self) -> str:
        """Key of the run."""
        return run_key(self.identity)

    @cached_property
    def recipe(self) -> str:
        """Key of how the run is made, but for its seed and for whom it leaves out."""
        return recipe_key(self.identity, self.sources)

    @property
    def folder(self) -> Path:
        """results/pretraining/<method>-<encoder>-<key>."""
        return Workspace(self.root).pretraining / f"{self.config.method}-{self.encoder}-{self.key[:SHORT]}"


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
