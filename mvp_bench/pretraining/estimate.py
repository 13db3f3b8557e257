"""How long a run will take and how much it will need, from a few timed steps of the real thing."""

from __future__ import annotations

import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mvp_bench.edges import writing
from mvp_bench.pretraining import distributed
from mvp_bench.pretraining.case_table import CaseTable
from mvp_bench.pretraining.census import take_census
from mvp_bench.pretraining.job import PretrainJob
from mvp_bench.pretraining.run import assembled, peak_memory
from mvp_bench.training.checkpoint import CHECKPOINT_FILE

GB, MB = 1e9, 1e6


@dataclass(frozen=True)
class EstimateOptions:
    """How an estimate is made."""

    steps: int = 20
    """Steps that are timed."""
    skipped: int = 3
    """Steps before them, in which caches fill and kernels are chosen."""


@dataclass(frozen=True)
class Estimate:
    """What a whole run takes."""

    steps: int
    """Optimiser steps."""
    step_s: float
    """Median of the timed steps."""
    save_s: float
    """Seconds that writing a checkpoint takes."""
    saves: int
    checkpoint_bytes: int
    memory_mb: float
    """Peak of the training process: on the GPU where it computes there, else in main memory."""
    workers_mb: float
    """Most that all processes that read patches take together."""
    cases_bytes: int
    """Preprocessed cases, which are on disk already."""
    free_bytes: int
    """Room on the disk of the results."""
    device: str

    @property
    def hours(self) -> float:
        """Hours that the whole run takes."""
        return (self.steps * self.step_s + self.saves * self.save_s) / 3600

    @property
    def disk_bytes(self) -> int:
        """Needed at most beside the cases: two checkpoints (one being written), of which the weights are a part."""
        return 2 * self.checkpoint_bytes

    def text(self) -> str:
        """The estimate as lines for the terminal."""
        lines = [
            f"time: {self.hours:.3g} h for {self.steps} steps of {self.step_s:.3g} s on {self.device}, "
            f"and {self.saves} checkpoints of {self.save_s:.2g} s",
            f"memory: {self.memory_mb:.0f} MB for training on {self.device}, {self.workers_mb:.0f} MB for reading",
            f"disk: {self.disk_bytes / MB:.0f} MB for the run (two checkpoints at once); preprocessed cases take "
            f"{self.cases_bytes / GB:.3g} GB already; {self.free_bytes / GB:.3g} GB are free",
        ]
        if self.disk_bytes > self.free_bytes:
            lines.append("warning: the disk is too small for the run")
        return "\n".join(lines)


def estimate(job: PretrainJob, options: EstimateOptions | None = None) -> Estimate:
    """Time steps of a run, at the end of its schedule where every loss is on, and one checkpoint; nothing is kept.

    Raises:
        InputError: as the run itself would.
    """
    import torch

    options = options or EstimateOptions()
    torch.set_num_threads(job.runtime.threads)
    config = job.config
    timed = max(1, min(options.steps, config.steps - options.skipped))
    with distributed.joined(job.runtime), tempfile.TemporaryDirectory() as name, writing(Path(name)):
        table = CaseTable.of(job.sources)
        census = take_census(job.sources, table)
        arguments = (job.sources, config, job.options, job.encoder, job.runtime, job.seed)
        with assembled(*arguments, table, census, {}, Path(name)) as engine:
            taken = engine.durations(timed + options.skipped)[-timed:]
            began = time.perf_counter()
            engine.save()
            save_s = time.perf_counter() - began
            device = engine.runtime.device
            memory = peak_memory(device)
        size = (Path(name) / CHECKPOINT_FILE).stat().st_size
    reader = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**10
    return Estimate(
        steps=config.steps,
        step_s=statistics.median(taken),
        save_s=save_s,
        saves=-(-config.steps // config.checkpoint_every),
        checkpoint_bytes=size,
        memory_mb=memory,
        workers_mb=config.loaders * reader,
        cases_bytes=sum(_size(getattr(source.store, "folder", None)) for source in job.sources),
        free_bytes=shutil.disk_usage(_existing(job.folder)).free,
        device=str(device),
    )


def _size(folder: Path | None) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.b2nd")) if folder else 0


def _existing(path: Path) -> Path:
    path = path.absolute()
    return path if path.exists() else _existing(path.parent)
