"""What spoils echo-planar images: air nearby, and slices that do not fit together."""

from __future__ import annotations

import numpy as np

from mvp_bench.datasets.phantom.scene import Scene
from mvp_bench.datasets.phantom.spline import Array

_PILE_UP = 0.9
_DROPOUT = 1.1
_FINE_MM = 7.0


def distort_echo_planar(scene: Scene, strength: float, rng: np.random.Generator) -> Array:
    """(n,) factor on the signal: bright pile-up and dark drop-out beside the air of sinuses and petrous bones."""
    fine = scene.noise(rng, _FINE_MM)
    near = scene.regions["susceptibility"] * strength * float(rng.uniform(0.4, 1.3))
    return np.clip(1 + near * (_PILE_UP * np.maximum(fine, 0) ** 1.5 - _DROPOUT * np.maximum(-fine - 0.3, 0)), 0.05, 3)


def slice_gaps(scene: Scene, spread: float, rng: np.random.Generator) -> Array:
    """(n,) gain of each axial slice: interleaved acquisition leaves odd and even slices unequal."""
    count = scene.shape[2]
    gain = 1 + spread * rng.standard_normal(count) + 0.6 * spread * (np.arange(count) % 2 - 0.5)
    return gain.astype(np.float32)[scene.rows % count]
