"""One pre-training run: from preprocessed cases to a folder with weights, templates, log and record."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvp_bench.datasets.overlap.audit import Leak
from mvp_bench.datasets.schema import MODALITIES
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.record import RECORD_FILE, WEIGHTS_FILE, Cost, EncoderRecord, TrainingData, read_record
from mvp_bench.models.runtime import Runtime
from mvp_bench.models.weights import save_encoder
from mvp_bench.pretraining.checkpoint import Identity, require_same
from mvp_bench.pretraining.engine import Engine, Outcome
from mvp_bench.pretraining.method import Context, Method, resolve_options
from mvp_bench.pretraining.model_card import model_card
from mvp_bench.pretraining.sampling import PatchSampler, PretrainSource, Size
from mvp_bench.progress import log
from mvp_bench.registry import ENCODERS, METHODS
from mvp_bench.settings import PretrainConfig, RuntimeConfig
from mvp_bench.workspace import code_version, hash_of, lock, write_json, write_text

NOT_IDENTITY = ("workers", "log_every", "checkpoint_every")
"""Fields of the configuration that change nothing of the result."""
AGREEMENT = 1e-2
"""Relative difference below which the datasets' spacings agree."""


@dataclass(frozen=True)
class Census:
    """What the cases to be trained on are like."""

    data: tuple[TrainingData, ...]
    modalities: tuple[str, ...]
    most_modalities: int
    spacing: tuple[float, float, float]
    largest: tuple[float, float, float]
    world_box: tuple[tuple[float, float, float], tuple[float, float, float]]


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
    threads, with the same bytes in encoder.safetensors. ``encoder.json`` is written last.

    Args:
        stores: the datasets, all at the same spacing or nearly so.
        config: the training loop; ``config.method`` is a registered method.
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
            configuration, a GPU asked for and absent, losses that are not finite.
    """
    kind = METHODS[config.method]
    spec: EncoderSpec = ENCODERS[encoder]
    options = resolve_options(config.method, config.preset, profile) if options is None else options
    place = Runtime.resolve(runtime)
    census = take_census(stores)
    patch = config.patch_size
    identity = _identity(config, options, spec, seed, profile, census)
    out_dir.mkdir(parents=True, exist_ok=True)
    with lock(out_dir / RECORD_FILE):
        if (out_dir / RECORD_FILE).is_file():
            record = read_record(out_dir)
            require_same(out_dir / RECORD_FILE, record.config, identity)
            log.info("%s is done already", out_dir)
            return record
        context = Context(
            encoder=spec,
            patch=patch,
            modalities=census.modalities,
            spacing=census.spacing,
            largest=census.largest,
            world_box=census.world_box,
            most_modalities=census.most_modalities,
            batch_size=config.batch_size,
            steps=config.steps,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # layers initialise themselves from the global state
            method: Method[Any] = kind(options, context)
        sampler = PatchSampler(
            stores, census.modalities, patch, config.batch_size, method.sampling(), seed, config.steps
        )
        if place.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(place.device)
        engine = Engine(method, sampler, config, place, seed, identity, out_dir)
        outcome = engine.train()
        return _write(engine, outcome, census, identity, profile, patch, out_dir, leaks)


def take_census(stores: Sequence[PretrainSource]) -> Census:
    """Look at every case's facts (no voxels are read).

    Raises:
        InputError: if no case is left, or the datasets' spacings differ.
    """
    data, low, high, extents = [], [], [], []
    seen: set[str] = set()
    most = 0
    for source in stores:
        spacing = np.asarray(source.store.spacing, dtype=np.float64)
        infos = {case: source.store.info(case) for case in source.included()}
        for info in infos.values():
            steps, origin = np.diag(info.affine)[:3][::-1], np.asarray(info.affine)[:3, 3][::-1]
            low.append(origin)
            high.append(origin + (np.asarray(info.shape) - 1) * steps)
            extents.append(np.asarray(info.shape) * spacing)
            seen.update(info.present)
            most = max(most, len(info.present))
        if infos:
            everyone = {source.store.info(case).patient for case in source.store.cases}
            data.append(
                TrainingData(
                    dataset=source.dataset,
                    source=source.source,
                    licence=source.licence,
                    data_hash=source.data_hash,
                    patients=sorted({info.patient for info in infos.values()}),
                    cases=sorted(infos),
                    excluded_patients=sorted(everyone & source.excluded),
                )
            )
    if not data:
        raise InputError(
            "pre-training data",
            found="no case" + (" (all patients are excluded)" if stores else ""),
            expected="at least one prepared and planned dataset",
            fix="Run mvp_prepare and mvp_plan for a pre-training dataset, or use --phantom.",
        )
    spacings = np.asarray([s.store.spacing for s in stores], dtype=np.float64)
    spacing = np.median(spacings, axis=0)
    if (np.abs(spacings / spacing - 1) > AGREEMENT).any():
        listed = ", ".join(f"{s.dataset} {tuple(s.store.spacing)}" for s in stores)
        raise InputError(
            "spacing of the pre-training data",
            found=listed,
            expected="one spacing for all",
            fix="Preprocess them together with one --spacing.",
        )
    known = [m for m in MODALITIES if m in seen]
    return Census(
        data=tuple(data),
        modalities=(*known, *sorted(seen.difference(known))),
        most_modalities=most,
        spacing=_triple(spacing),
        largest=_triple(np.max(extents, axis=0)),
        world_box=(_triple(np.min(low, axis=0)), _triple(np.max(high, axis=0))),
    )


def _triple(values: Any) -> tuple[float, float, float]:
    return float(values[0]), float(values[1]), float(values[2])


def _identity(
    config: PretrainConfig, options: Any, spec: EncoderSpec, seed: int, profile: str, census: Census
) -> Identity:
    """Everything that decides the result: the configuration, the encoder, and a digest of the data."""
    return {
        "pretrain": {k: v for k, v in asdict(config).items() if k not in (*NOT_IDENTITY, "preset")},
        "options": asdict(options),
        "encoder": asdict(spec),
        "seed": seed,
        "profile": profile,
        "data": {d.dataset: hash_of(d) for d in census.data},
    }


def _write(
    engine: Engine,
    outcome: Outcome,
    census: Census,
    identity: Identity,
    profile: str,
    patch: Size,
    out_dir: Path,
    leaks: Sequence[Leak],
) -> EncoderRecord:
    """Weights, templates, card, and at the very end the record."""
    method, config, place = engine.method, engine.config, engine.runtime
    spec = method.context.encoder
    checksum = save_encoder(method.encoder, out_dir / WEIGHTS_FILE, spec.name)
    templates = method.save_templates(out_dir)
    voxels = config.steps * config.batch_size * engine.sampler.world * patch[0] * patch[1] * patch[2]
    record = EncoderRecord(
        encoder=spec.name,
        modalities=list(census.modalities),
        method=config.method,
        config=json.loads(json.dumps(identity)),
        config_hash=hash_of(identity),
        spacing=census.spacing,
        patch_size=patch,
        intensity=engine.sampler.spec.intensity,
        data=list(census.data),
        source="phantom" if any(d.source == "phantom" for d in census.data) else "real",
        licences=sorted({d.licence for d in census.data if d.licence}),
        templates=templates,
        profile=profile,
        seed=engine.seed,
        versions={"mvp_bench": code_version(), "torch": version("torch"), "python": sys.version.split()[0]},
        weights_sha256=checksum,
        cost=Cost(
            wall_time_s=outcome.wall_time_s,
            peak_memory_mb=_peak_memory(place.device),
            parameters=sum(p.numel() for p in method.parameters() if p.requires_grad),
            voxels_seen=voxels,
            device=str(place.device),
            precision=place.precision_name,
        ),
        final_losses=outcome.last_row,
    )
    write_text(out_dir / "model_card.md", model_card(record, method.declaration, engine.log.rows, leaks))
    write_json(out_dir / RECORD_FILE, record)
    return record


def _peak_memory(device: torch.device) -> float:
    """Megabytes: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
