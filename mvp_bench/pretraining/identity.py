"""What a pre-training run is known by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mvp_bench.config.groups import PretrainConfig, RuntimeConfig
from mvp_bench.identity import counted, key_of
from mvp_bench.pretraining.source import PretrainSource
from mvp_bench.registry import ENCODERS
from mvp_bench.training.machine import resolved_runtime

DATA = "data"
"""Field of an identity that holds the keys of the datasets."""


def run_identity(
    sources: Sequence[PretrainSource],
    config: PretrainConfig,
    options: Any,
    encoder: str,
    runtime: RuntimeConfig,
    seed: int,
    profile: str,
    world: int = 1,
) -> dict[str, Any]:
    """Everything that the weights depend on: every setting, resolved, and under ``data`` the keys of the data.

    Args:
        options: the method's own fields.
        world: number of processes that share a step.
    """
    return {
        "pretrain": counted(config),
        "options": counted(options),
        "encoder": asdict(ENCODERS[encoder]),
        "runtime": resolved_runtime(runtime),
        "seed": seed,
        "profile": profile,
        **({"processes": world} if world > 1 else {}),
        DATA: {source.dataset: _seen_key(source) for source in sources},
    }


def run_key(identity: Mapping[str, Any]) -> str:
    """Key of a run."""
    settings = {name: value for name, value in identity.items() if name != DATA}
    return key_of("pretrain", settings, identity[DATA])


def recipe_key(identity: Mapping[str, Any], sources: Sequence[PretrainSource]) -> str:
    """Key of how a run is made, but for its seed and for whom it leaves out: runs of one recipe may be averaged."""
    shared = {name: value for name, value in identity.items() if name not in (DATA, "seed")}
    return key_of("pretrain", {"recipe": shared}, {source.dataset: source.data_hash for source in sources})


def _seen_key(source: PretrainSource) -> str:
    """Key of the cases of a dataset that are seen: those of the arrays, but for who is left out."""
    left_out = {"excluded": sorted(source.excluded), "duplicates": dict(source.duplicates), "source": source.source}
    return key_of("pretrain", left_out, {"arrays": source.data_hash})
