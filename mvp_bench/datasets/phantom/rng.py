"""Random streams that depend on what is drawn, never on the order in which cases are made."""

from __future__ import annotations

from zlib import crc32

import numpy as np


def stream(seed: int, dataset: int, subject: int, purpose: str) -> np.random.Generator:
    """Generator for one purpose ("shape", "noise", ...) of one subject.

    Purposes have streams of their own, so that drawing one more number for the noise does not move the lesion.

    Args:
        seed: the user's seed, >= 0.
        dataset: dataset id.
        subject: index of the subject in its dataset, from 0.
        purpose: any name.
    """
    return np.random.default_rng([seed, dataset, subject, crc32(purpose.encode())])
