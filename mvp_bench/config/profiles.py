"""Profiles: bundles of values.

``full`` is the paper's scale and needs a GPU; ``mini`` runs the whole benchmark on two CPU cores in minutes; ``smoke``
is for tests and measures nothing.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import Literal

from mvp_bench.config.groups import (
    ClassificationConfig,
    PhantomConfig,
    PlanningConfig,
    PretrainConfig,
    RuntimeConfig,
    SegmentationConfig,
    StatisticsConfig,
)
from mvp_bench.config.options import Profile


@dataclass(frozen=True)
class ProfileValues:
    """What a profile sets."""

    encoder: str
    phantom: PhantomConfig
    planning: PlanningConfig
    pretrain: PretrainConfig
    segmentation: SegmentationConfig
    classification: ClassificationConfig
    runtime: RuntimeConfig
    statistics: StatisticsConfig
    seeds: int
    workers: int


FULL = ProfileValues(
    "resenc-l",
    PhantomConfig(),
    PlanningConfig(),
    PretrainConfig(),
    SegmentationConfig(),
    ClassificationConfig(),
    RuntimeConfig(threads=4),
    StatisticsConfig(),
    seeds=3,
    workers=4,
)
MINI = ProfileValues(
    "resenc-mini",
    PhantomConfig(spacing_mm=2.5, segmentation_patients=20, classification_patients=100, pretraining_patients=10),
    PlanningConfig(memory_gb=0.04, max_patch_edge=48, foreground_samples=1_000_000),
    PretrainConfig(
        steps=1600,
        batch_size=2,
        patch_size=(32, 40, 32),
        learning_rate=1.6e-2,
        warmup_fraction=0.05,
        checkpoint_every=50,
        log_every=25,
        loaders=0,
    ),
    SegmentationConfig(
        epochs=10,
        iterations_per_epoch=20,
        validation_iterations=1,
        learning_rate=5e-2,
        momentum=0.9,
        mirror=False,
        checkpoint_every=5,
        loaders=0,
    ),
    ClassificationConfig(epochs=13, batch_size=4, learning_rate=5e-3, shift_voxels=2),
    RuntimeConfig(threads=1),
    StatisticsConfig(),
    seeds=1,
    workers=2,
)
SMOKE = ProfileValues(
    "resenc-smoke",
    PhantomConfig(spacing_mm=5.0, segmentation_patients=5, classification_patients=10, pretraining_patients=3),
    replace(MINI.planning, memory_gb=0.02, max_patch_edge=32, foreground_samples=10_000),
    replace(MINI.pretrain, steps=4, batch_size=2, patch_size=(16, 16, 16), checkpoint_every=2, log_every=1),
    replace(MINI.segmentation, epochs=2, iterations_per_epoch=2, checkpoint_every=1),
    replace(MINI.classification, epochs=2, checkpoint_every=1),
    RuntimeConfig(threads=1),
    StatisticsConfig(bootstrap_samples=100),
    seeds=1,
    workers=2,
)
PROFILES = {"full": FULL, "mini": MINI, "smoke": SMOKE}


def resolve_profile(profile: Profile) -> Literal["full", "mini", "smoke"]:
    """``auto`` becomes ``full`` where a CUDA driver finds a device, else ``mini`` (without importing torch)."""
    if profile != "auto":
        return profile
    try:
        return "full" if ctypes.CDLL("libcuda.so.1").cuInit(0) == 0 else "mini"
    except OSError:
        return "mini"
