"""One pre-training run: from preprocessed cases to a folder with weights, templates, log and record."""

from __future__ import annotations

import contextlib
import json
import math
import resource
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mvp_bench.config.check import check
from mvp_bench.config.groups import PretrainConfig, RuntimeConfig
from mvp_bench.datasets.overlap.audit import Leak
from mvp_bench.edges import writing
from mvp_bench.identity import code_version
from mvp_bench.io import lock, write_json, write_text
from mvp_bench.models.record import RECORD_FILE, WEIGHTS_FILE, EncoderRecord, PretrainingCost, read_record
from mvp_bench.models.weights import save_encoder
from mvp_bench.pretraining import distributed
from mvp_bench.pretraining.case_table import CaseTable
from mvp_bench.pretraining.census import Census, take_census
from mvp_bench.pretraining.engine import Engine, TrainingOutcome
from mvp_bench.pretraining.identity import run_identity, run_key
from mvp_bench.pretraining.method import Context, Method, resolve_options
from mvp_bench.pretraining.model_card import model_card
from mvp_bench.pretraining.sampling import PatchSampler
from mvp_bench.pretraining.source import PretrainSource
from mvp_bench.pretraining.tensorboard import require_tensorboard
from mvp_bench.progress import log
from mvp_bench.registry import ENCODERS, METHODS
from mvp_bench.training.checkpoint import Identity, require_same
from mvp_bench.training.machine import check_machine
from mvp_bench.training.runtime import Runtime


def pretrain(
    stores: Sequence[PretrainSource],
    config: PretrainConfig,
    options: Any | None,
    encoder: str,
    runtime: RuntimeConfig,
    seed: int,
    profile: str,
    out_dir: Path,
    leaks: Sequence[Leak] = (),
) -> EncoderRecord:
    """Pre-train an encoder, or return the record of the run that has been done already.

    Killed at any moment, the same call goes on from the last checkpoint and ends, on a CPU with the same number of
    threads, with the same bytes in encoder.safetensors. ``encoder.json`` is written last. Under torchrun every process
    makes this call; the first one writes.

    Args:
        stores: the datasets, all at the same spacing or nearly so.
        config: the training loop; ``config.method`` is a registered method. What concerns the data (``spacing``,
            ``deduplicate``) has been done to ``stores`` (``cohort.collect_sources``).
        options: the method's own fields; ``None``: those of ``config.preset``, or of the preset named like the
            profile, or the defaults.
        encoder: registered preset.
        runtime: device, precision; ``threads`` is the caller's business (``torch.set_num_threads``).
        seed: of everything random.
        profile: name, for the record.
        out_dir: folder of the run.
        leaks: of the tasks' test patients, for the model card.

    Raises:
        InputError: for unknown names, data or sizes the method cannot work with, a folder that holds a run of another
            configuration, a GPU asked for and absent, losses that are not finite, a full disk.
    """
    options = resolve_options(config.method, config.preset, profile) if options is None else options
    check_settings(config, options, encoder, runtime)
    with distributed.joined(runtime) as processes, writing(out_dir):
        table = CaseTable.of(stores)
        census = take_census(stores, table)
        identity = run_identity(stores, config, options, encoder, runtime, seed, profile, processes.world)
        with lock(out_dir / RECORD_FILE) if processes.first else contextlib.nullcontext():
            record = processes.from_first(lambda: _finished(out_dir, identity))
            if record is not None:
                log.info("%s is done already", out_dir)
                return record
            with assembled(stores, config, options, encoder, runtime, seed, table, census, identity, out_dir) as engine:
                outcome = engine.train()
                return processes.from_first(lambda: _write(engine, outcome, census, identity, profile, out_dir, leaks))


@contextlib.contextmanager
def assembled(
    stores: Sequence[PretrainSource],
    config: PretrainConfig,
    options: Any,
    encoder: str,
    runtime: RuntimeConfig,
    seed: int,
    table: CaseTable,
    census: Census,
    identity: Identity,
    folder: Path,
) -> Iterator[Engine]:
    """The engine of a run, ready to start; for the arguments see :func:`pretrain`.

    Args:
        table: the stores' cases; laid into memory-mapped files below ``folder`` meanwhile, if there are workers.
        census: of the same.
        identity: what makes this run this run.
        folder: of the run.
    """
    processes = distributed.current()
    place = Runtime.resolve(distributed.own_device(runtime))
    context = Context.of(census, ENCODERS[encoder], config.patch_size, config.batch_size, config.steps, processes.world)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers initialise themselves from the global state
        method: Method[Any] = METHODS[config.method](options, context)
    if config.loaders:
        table = table.moved_to(folder / f"index-{processes.rank}")
    try:
        sampler = PatchSampler(
            stores,
            census.modalities,
            config.patch_size,
            config.batch_size,
            method.sampling(),
            seed,
            config.steps * config.accumulation,
            rank=processes.rank,
            world=processes.world,
            table=table,
        )
        for source in stores:
            source.store.forget()  # else every worker would inherit it
        if place.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place.device)
        yield Engine(method, sampler, config, place, seed, identity, folder)
    finally:
        table.remove_files()


def check_settings(
    config: PretrainConfig, options: Any, encoder: str, runtime: RuntimeConfig, memory_gb: float | None = None
) -> None:
    """Refuse what cannot work on any data, or on this machine, before any data are touched.

    Args:
        memory_gb: what batches are planned for; more than there is is warned of.

    Raises:
        InputError: for unknown names, numbers out of range, a patch that does not fit the encoder, a batch that is too
            small, a GPU asked for and absent.
    """
    check(config, runtime)
    kind, spec = METHODS[config.method], ENCODERS[encoder]
    kind.check_settings(options, spec, config.patch_size, config.batch_size, distributed.current().world)
    check_machine(distributed.own_device(runtime), memory_gb)
    if config.tensorboard:
        require_tensorboard()


def _finished(out_dir: Path, identity: Identity) -> EncoderRecord | None:
    """The record of the same run, if it is done."""
    if not (out_dir / RECORD_FILE).is_file():
        return None
    record = read_record(out_dir)
    require_same(out_dir / RECORD_FILE, record.config, identity)
    return record


def _write(
    engine: Engine,
    outcome: TrainingOutcome,
    census: Census,
    identity: Identity,
    profile: str,
    out_dir: Path,
    leaks: Sequence[Leak],
) -> EncoderRecord:
    """Weights, templates, card, and at the very end the record."""
    method, config, place, patch = engine.trained, engine.config, engine.runtime, engine.config.patch_size
    spec = method.context.encoder
    checksum = save_encoder(method.encoder, out_dir / WEIGHTS_FILE, spec.name)
    templates = method.save_templates(out_dir)
    samples = config.steps * config.accumulation * config.batch_size * engine.processes.world
    record = EncoderRecord(
        encoder=spec.name,
        modalities=list(census.modalities),
        method=config.method,
        config=json.loads(json.dumps(identity)),
        config_hash=run_key(identity),
        spacing=census.spacing,
        patch_size=patch,
        intensity=engine.sampler.spec.intensity,
        data=list(census.data),
        source="phantom" if any(d.source == "phantom" for d in census.data) else "real",
        licences=sorted({d.licence for d in census.data if d.licence}),
        templates=templates,
        template_frame=method.template_frame if templates else None,
        profile=profile,
        seed=engine.seed,
        versions={"mvp_bench": code_version(), "torch": version("torch"), "python": sys.version.split()[0]},
        weights_sha256=checksum,
        cost=PretrainingCost(
            wall_time_s=outcome.wall_time_s,
            peak_memory_mb=peak_memory(place.device),
            parameters=sum(p.numel() for p in method.parameters() if p.requires_grad),
            voxels_seen=samples * math.prod(patch),
            device=str(place.device),
            precision=place.precision_name,
        ),
        final_losses=outcome.last_row,
    )
    write_text(out_dir / "model_card.md", model_card(record, method.declaration, engine.log.rows, leaks))
    write_json(out_dir / RECORD_FILE, record)
    return record


def peak_memory(device: torch.device) -> float:
    """Megabytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
