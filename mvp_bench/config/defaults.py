"""What a verb's options are where they are not given, and the configuration with nothing left open."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from mvp_bench.config.profiles import PROFILES, resolve_profile
from mvp_bench.config.verbs import BenchmarkConfig, CommonConfig, WorkConfig

C = TypeVar("C", bound=CommonConfig)


def defaults(kind: type[C], profile: str) -> C:
    """A verb's configuration under a profile (``full``, ``mini`` or ``smoke``)."""
    values = PROFILES[profile]
    if not issubclass(kind, WorkConfig):
        return kind()
    names = {field.name for field in dataclasses.fields(kind)}
    given = {name: getattr(values, name) for name in GIVEN if name in names}
    if "phantom_config" in names:
        given["phantom_config"] = values.phantom
    if kind is BenchmarkConfig:
        given["pretrain"] = values.pretrain.loop
    return kind(**given)


GIVEN = ("workers", "encoder", "planning", "pretrain", "segmentation", "classification", "runtime", "statistics")
"""Fields that a profile fills."""


def resolved(config: C) -> C:
    """The configuration with the profile's name instead of ``auto``, and with the seeds that it stands for."""
    if not isinstance(config, WorkConfig):
        return config
    profile = resolve_profile(config.profile)
    changes: dict[str, Any] = {"profile": profile}
    if isinstance(config, BenchmarkConfig) and not config.seeds:
        changes["seeds"] = tuple(range(config.seed, config.seed + PROFILES[profile].seeds))
    return dataclasses.replace(config, **changes)
