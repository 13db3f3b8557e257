"""Random smooth fields: cubic B-splines with random coefficients, evaluated on rectilinear grids.

One primitive for everything that varies smoothly: deformation, coil shading, texture, ragged lesion borders. A field
is a function of position in mm, so the same subject looks the same at every voxel size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating[Any]]
"""Real numbers; float32 wherever there are many."""
Axes = tuple[Array, Array, Array]
"""Voxel centres along x, y, z in mm."""

_STD_PER_AXIS = float(np.sqrt(151.0 / 315.0))
"""Root mean square of the four cubic B-spline weights, averaged over a knot interval."""


def basis(positions: Array, first_knot: float, knot_mm: float, count: int) -> Array:
    """Matrix (len(positions), count) of uniform cubic B-spline weights; its rows sum to 1 inside the lattice."""
    t = (np.asarray(positions, np.float64) - first_knot) / knot_mm
    distance = np.abs(t[:, None] - np.arange(count)[None, :])
    near = 2.0 / 3.0 - distance**2 + distance**3 / 2.0
    far = np.clip(2.0 - distance, 0.0, None) ** 3 / 6.0
    return np.where(distance < 1.0, near, far).astype(np.float32)


def separable(coefficients: Array, matrices: Sequence[Array]) -> Array:
    """Apply one matrix (n_out, n_in) per leading axis to an array (x, y, z[, components])."""
    result = coefficients
    for axis, matrix in enumerate(matrices):
        result = np.moveaxis(np.tensordot(matrix, result, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(result, dtype=np.float32)


class SmoothField:
    """Gaussian random field of unit variance with correlation over about one knot spacing.

    Args:
        rng: source of the coefficients.
        low: lower corner in mm of the box where the field is wanted.
        high: upper corner in mm.
        knot_mm: distance of the knots; features are about twice as long.
        components: 1 gives arrays (x, y, z), more give (x, y, z, components).
        bound: coefficients are clipped to +-bound standard deviations.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        low: Sequence[float],
        high: Sequence[float],
        knot_mm: float,
        components: int = 1,
        bound: float = 3.0,
    ) -> None:
        self.knot_mm = float(knot_mm)
        self._first = [float(a) - 2.0 * knot_mm for a in low]
        counts = [int(np.ceil((b - a) / knot_mm)) + 5 for a, b in zip(low, high, strict=True)]
        shape = (*counts, components) if components > 1 else tuple(counts)
        values = rng.standard_normal(shape, dtype=np.float32)
        self.coefficients: Array = np.clip(values, -bound, bound)

    def on_grid(self, axes: Axes) -> Array:
        """Values at every node of the grid, mean 0, variance about 1."""
        matrices = [
            basis(axis, first, self.knot_mm, count)
            for axis, first, count in zip(axes, self._first, self.coefficients.shape, strict=False)
        ]
        return separable(self.coefficients, matrices) / np.float32(_STD_PER_AXIS**3)

    def raw_on_grid(self, axes: Axes) -> Array:
        """Spline of the coefficients as they are: bounded by the largest of them."""
        return self.on_grid(axes) * np.float32(_STD_PER_AXIS**3)


def linear_matrix(positions: Array, nodes: Array) -> Array:
    """Matrix (len(positions), len(nodes)) of linear interpolation between equidistant nodes, constant outside."""
    step = float(nodes[1] - nodes[0])
    t = np.clip((np.asarray(positions, np.float64) - float(nodes[0])) / step, 0.0, len(nodes) - 1.0)
    return np.clip(1.0 - np.abs(t[:, None] - np.arange(len(nodes))[None, :]), 0.0, None).astype(np.float32)
