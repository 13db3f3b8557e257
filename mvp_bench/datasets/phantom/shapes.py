"""Soft-edged shapes on regular grids: ellipsoids, tubes, clefts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import cKDTree

from mvp_bench.datasets.phantom.landmarks import Ellipsoid, Tube
from mvp_bench.datasets.phantom.spline import Array, Axes


@dataclass(frozen=True)
class AtlasGrid:
    """Regular grid: voxel centres along x, y, z in mm, with one edge length."""

    axes: Axes
    edge: float

    @classmethod
    def box(cls, low: Sequence[float], high: Sequence[float], edge: float) -> AtlasGrid:
        """Grid from ``low`` to ``high`` (inclusive)."""
        x, y, z = (np.arange(a, b + edge / 2, edge, dtype=np.float32) for a, b in zip(low, high, strict=True))
        return cls((x, y, z), edge)

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.axes[0]), len(self.axes[1]), len(self.axes[2])

    def mesh(self) -> Axes:
        """x, y, z broadcastable against each other."""
        x, y, z = self.axes
        return x[:, None, None], y[None, :, None], z[None, None, :]

    def window(self, point: Sequence[float], radius: float) -> tuple[slice, slice, slice]:
        """Slices of the cube of half edge ``radius`` mm around a point."""
        return self.span([p - radius for p in point], [p + radius for p in point])

    def span(self, low: Sequence[float], high: Sequence[float]) -> tuple[slice, slice, slice]:
        """Slices of the box between two corners in mm (clipped to the grid)."""
        pairs = [
            slice(int(np.searchsorted(axis, a - 1e-3)), int(np.searchsorted(axis, b + 1e-3, side="right")))
            for axis, a, b in zip(self.axes, low, high, strict=True)
        ]
        return pairs[0], pairs[1], pairs[2]


def mirrored(shapes: Iterable[Ellipsoid]) -> list[Ellipsoid]:
    """Ellipsoids of both sides."""
    both = []
    for shape in shapes:
        both.append(shape)
        if shape.mirrored:
            x, y, z = shape.centre
            both.append(shape._replace(centre=(-x, y, z)))
    return both


def ellipsoids(grid: AtlasGrid, shapes: Iterable[Ellipsoid], softness: float | None = None) -> Array:
    """Membership 0 to 1 of the union; the edge is ``softness`` mm wide (default: one voxel)."""
    width = grid.edge if softness is None else softness
    out = np.zeros(grid.shape, np.float32)
    for shape in mirrored(shapes):
        reach = [r + 2 * width for r in shape.radii]
        low = [c - r for c, r in zip(shape.centre, reach, strict=True)]
        high = [c + r for c, r in zip(shape.centre, reach, strict=True)]
        box = grid.span(low, high)
        parts = [
            ((axis[s] - c) / r) ** 2 for axis, s, c, r in zip(grid.axes, box, shape.centre, shape.radii, strict=True)
        ]
        distance = np.sqrt(parts[0][:, None, None] + parts[1][None, :, None] + parts[2][None, None, :])
        depth = (1 - distance) * float(np.mean(shape.radii))
        out[box] = np.maximum(out[box], np.clip(0.5 + depth / width, 0, 1))
    return out


def tubes(grid: AtlasGrid, courses: Iterable[Tube], softness: float | None = None) -> Array:
    """Partial volume 0 to 1 of vessels; one thinner than a voxel fills only part of it."""
    width = grid.edge if softness is None else softness
    out = np.zeros(grid.shape, np.float32)
    for tube in courses:
        for side in (1, -1) if tube.mirrored else (1,):
            knots = np.array(tube.points, float) * (side, 1, 1)
            lengths = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
            along = np.arange(0, lengths[-1], 0.7)
            line = np.stack([np.interp(along, lengths, knots[:, i]) for i in range(3)], axis=1)
            reach = tube.radius + width
            box = grid.span(line.min(0) - reach, line.max(0) + reach)
            nodes = np.stack(np.meshgrid(*[a[s] for a, s in zip(grid.axes, box, strict=True)], indexing="ij"), -1)
            distance, _ = cKDTree(line).query(nodes.reshape(-1, 3), distance_upper_bound=reach)
            distance = np.minimum(distance, reach).reshape(nodes.shape[:3])
            fill = np.clip(0.5 + (tube.radius - distance) / width, 0, 1)
            thin = min(1.0, (2 * tube.radius / width) ** 2)
            out[box] = np.maximum(out[box], thin * fill)
    return out


def cleft(one: npt.NDArray[np.bool_], other: npt.NDArray[np.bool_]) -> Array:
    """1 on the voxels of either mask that touch the other one: where a fold of dura lies between them."""
    touch = (ndimage.binary_dilation(one) & other) | (ndimage.binary_dilation(other) & one)
    return touch.astype(np.float32)


def signed_distance(mask: npt.NDArray[np.bool_], edge: float) -> Array:
    """Distance in mm to the border of a mask, positive outside."""
    outside = ndimage.distance_transform_edt(~mask)
    inside = ndimage.distance_transform_edt(mask)
    return ((outside - inside) * edge).astype(np.float32)


def band(distance: Array, low: float, high: float, width: float) -> Array:
    """1 where ``low`` < distance < ``high`` (mm), with linear edges ``width`` mm wide."""
    rise = np.clip(0.5 + (distance - low) / width, 0, 1)
    fall = np.clip(0.5 + (high - distance) / width, 0, 1)
    return np.minimum(rise, fall).astype(np.float32)
