"""Seeds of the sources of randomness."""

from __future__ import annotations

import numpy as np

INITIALISATION = 2**31 - 1
"""Stands for the epoch in the seed of the initial weights."""


def epoch_seeds(seed: int, epoch: int, count: int = 1) -> list[int]:
    """Independent 32-bit seeds for the sources of randomness of one epoch.

    They depend on (seed, epoch) alone, so that a run resumed at an epoch's start equals the uninterrupted one.
    """
    return [int(s) for s in np.random.SeedSequence([seed, epoch]).generate_state(count)]
