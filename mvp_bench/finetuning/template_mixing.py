"""BrainMVP's augmentation for fine-tuning: some channels of a case are replaced by their modalities' templates.

n channels are replaced, n uniform in 0..3 but never all of them, so that each of four channels is replaced with
probability 3/8 (Rui et al., CVPR 2025, as released). Two copies of one case, replaced independently, are what a
consistency loss compares. (The released code duplicated channel by channel and then cut in the middle: of four
modalities, either copy saw two.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

MOST_REPLACED = 3
"""Channels replaced at most, as released."""


def draw_replaced(
    modalities: Sequence[str], with_template: Sequence[str], rng: np.random.Generator, most: int = MOST_REPLACED
) -> tuple[str, ...]:
    """Which modalities to replace: a uniform number of distinct ones, each set of that size equally likely.

    Args:
        modalities: of the case's channels.
        with_template: those that have a template; others are never replaced.
        rng: source of the draw.
        most: largest number; one channel stays in any case.
    """
    candidates = [modality for modality in modalities if modality in with_template]
    number = int(rng.integers(0, min(most, len(modalities) - 1, len(candidates)) + 1))
    return tuple(candidates[i] for i in rng.permutation(len(candidates))[:number])


def mixed(
    images: np.ndarray,
    modalities: Sequence[str],
    fillers: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    most: int = MOST_REPLACED,
) -> np.ndarray:
    """A copy of a case with some channels replaced whole.

    Args:
        images: float32 (C, z, y, x).
        modalities: of each channel.
        fillers: modality -> (z, y, x), e.g. :func:`mvp_bench.models.templates.laid_over`, cut like ``images``.
        rng, most: see :func:`draw_replaced`.
    """
    result = np.array(images)
    for modality in draw_replaced(modalities, list(fillers), rng, most):
        result[list(modalities).index(modality)] = fillers[modality]
    return result


def mixed_pair(
    images: np.ndarray,
    modalities: Sequence[str],
    fillers: Mapping[str, np.ndarray],
    rng: np.random.Generator,
    most: int = MOST_REPLACED,
) -> np.ndarray:
    """Two copies with independent draws: (2, C, z, y, x), the channels of either in their own order."""
    return np.stack([mixed(images, modalities, fillers, rng, most) for _ in range(2)])
