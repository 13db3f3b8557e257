"""The way from the average head to a person: a folding-free map from image to template coordinates.

The map is a pull-back (for every image position, where in the template to look) and a composition of one-to-one maps:
mass effect of a tumour, affine, cubic B-spline free-form deformation, and local maps that widen the ventricles or
shrink and swell regions.

The B-spline part cannot fold: its coefficients stay below 0.4 knot spacings, the bound for injectivity of uniform cubic
B-spline deformations in three dimensions (Choi & Lee, Graphical Models 62 (2000) 411: 1 / 2.479 of the spacing).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mvp_bench.datasets.phantom.anatomy import HIGH, LOW, grid_of, load_atlas
from mvp_bench.datasets.phantom.spline import Array, Axes, SmoothField, linear_matrix, separable

INJECTIVE = 0.4
"""Largest B-spline coefficient as part of the knot spacing (Choi & Lee: 1 / 2.479)."""
LATTICE_MM = 5.0
"""Distance of the nodes at which the map is computed before linear interpolation."""
_VENTRICLE_REACH = 7.0


@dataclass(frozen=True)
class ShapeConfig:
    """Spread of normal anatomy.

    Attributes:
        scale_sd: log of the size, common to the axes.
        aspect_sd: log of each axis' size.
        rotation_deg: standard deviation of the head's rotations.
        shift_mm: standard deviation of its position.
        knots_mm: knot spacing of the free-form deformation.
        displacement_mm: standard deviation of its coefficients (bounded by 0.4 knot spacings).
        ventricle_mm: mean and standard deviation of the outward motion of the ventricles' walls.
        sulci: mean and standard deviation of sulcal widening (0: template, 1: strong atrophy).
    """

    scale_sd: float = 0.035
    aspect_sd: float = 0.02
    rotation_deg: float = 3.0
    shift_mm: float = 2.0
    knots_mm: float = 22.0
    displacement_mm: float = 6.0
    ventricle_mm: tuple[float, float] = (0.2, 1.3)
    sulci: tuple[float, float] = (0.05, 0.12)


@dataclass(frozen=True)
class Bump:
    """Local growth (positive) or shrinkage (negative) around template points; growth < 1.

    ``y <- y - growth (y - c) exp(-|y - c|^2 / (2 reach^2))`` is one-to-one for growth between -2.2 and 1, since its
    radial derivative is ``1 - growth (1 - t) exp(-t / 2)`` with t = r^2 / reach^2, and ``(1 - t) exp(-t / 2)`` lies in
    [-0.446, 1].
    """

    centres: tuple[tuple[float, float, float], ...]
    reach: float
    growth: float


@dataclass(frozen=True)
class MassEffect:
    """Tissue pushed outwards from a point (image mm): r <- r (1 - strength exp(-r^2 / (2 reach^2)))."""

    centre: tuple[float, float, float]
    reach: float
    strength: float


@dataclass
class HeadMap:
    """Image position (RAS mm) -> template position (MNI mm)."""

    matrix: Array
    shift: Array
    free_form: SmoothField
    coefficient_scale: float
    ventricle_mm: float = 0.0
    bumps: Sequence[Bump] = ()
    mass: MassEffect | None = None
    _cache: dict[str, Array] = field(default_factory=dict)

    def on_lattice(self, axes: Axes) -> Array:
        """Template positions (x, y, z, 3) at the nodes of a coarse grid."""
        x, y, z = np.meshgrid(*axes, indexing="ij")
        points = np.stack([x, y, z], axis=-1).astype(np.float32)
        if self.mass is not None:
            points = _push(points, self.mass)
        affine = (points - self.shift) @ self.matrix.T
        moved = affine + self._free_form_at(axes)
        moved = _widen(moved, self.ventricle_mm)
        for bump in self.bumps:
            moved = _bump(moved, bump)
        return moved

    def on_grid(self, axes: Axes) -> Array:
        """Template positions (x, y, z, 3) on a fine grid, linearly interpolated from a lattice of 5 mm."""
        nodes = tuple(np.arange(a[0] - LATTICE_MM, a[-1] + 2 * LATTICE_MM, LATTICE_MM, dtype=np.float32) for a in axes)
        coarse = self.on_lattice((nodes[0], nodes[1], nodes[2]))
        return separable(coarse, [linear_matrix(a, n) for a, n in zip(axes, nodes, strict=True)])

    def image_position(self, template: Sequence[float]) -> Array:
        """Image position (to 1 mm or so) of a template point."""
        target = np.array(template, np.float32)
        guess = np.linalg.solve(self.matrix, target) + self.shift
        for _ in range(6):
            axes = tuple(np.array([g, g + 1], np.float32) for g in guess)
            here = self.on_lattice((axes[0], axes[1], axes[2]))[0, 0, 0]
            guess = guess + np.linalg.solve(self.matrix, target - here)
        return guess.astype(np.float32)

    def _free_form_at(self, axes: Axes) -> Array:
        return self.free_form.raw_on_grid(axes) * np.float32(self.coefficient_scale)


def random_head(
    rng: np.random.Generator, config: ShapeConfig, ventricle_mm: float, bumps: Sequence[Bump], stature: float = 1.0
) -> HeadMap:
    """Draw a head.

    Args:
        rng: source of randomness.
        config: spread of normal anatomy.
        ventricle_mm: widening of the ventricles.
        bumps: regional growth.
        stature: factor on the size (children are smaller).
    """
    angles = rng.normal(0, config.rotation_deg, 3).clip(-2.5 * config.rotation_deg, 2.5 * config.rotation_deg)
    size = stature * np.exp(rng.normal(0, config.scale_sd) + rng.normal(0, config.aspect_sd, 3))
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    matrix = (np.diag(1 / size) @ rotation.T).astype(np.float32)
    shift = rng.normal(0, config.shift_mm, 3).astype(np.float32)
    limit = INJECTIVE * config.knots_mm / config.displacement_mm
    low, high = [a - 30 for a in LOW], [a + 30 for a in HIGH]
    spline = SmoothField(rng, low, high, config.knots_mm, components=3, bound=min(2.5, 0.9 * limit))
    return HeadMap(matrix, shift, spline, config.displacement_mm, ventricle_mm, tuple(bumps))


def _push(points: Array, mass: MassEffect) -> Array:
    offset = points - np.array(mass.centre, np.float32)
    square = np.sum(offset**2, axis=-1, keepdims=True) / (2 * mass.reach**2)
    return points - offset * (mass.strength * np.exp(-square)).astype(np.float32)


def _bump(points: Array, bump: Bump) -> Array:
    result = points
    for centre in bump.centres:
        offset = points - np.array(centre, np.float32)
        square = np.sum(offset**2, axis=-1, keepdims=True) / (2 * bump.reach**2)
        result = result - offset * (bump.growth * np.exp(-square)).astype(np.float32)
    return result


@lru_cache(maxsize=1)
def _ventricle_pull() -> Array:
    """Unit-peak vector field (x, y, z, 3) at 4 mm that points to the lateral and third ventricles."""
    atlas = load_atlas(2.0)
    mask = atlas.channel("ventricle") * (1 - atlas.channel("infratentorial"))
    smooth = ndimage.gaussian_filter(mask, _VENTRICLE_REACH / 2)[::2, ::2, ::2]
    gradient = np.stack(np.gradient(smooth), axis=-1)
    return (gradient / np.linalg.norm(gradient, axis=-1).max()).astype(np.float32)


def _widen(points: Array, amount: float) -> Array:
    """Move sampling positions towards the ventricles (away from them if negative), in steps that cannot fold."""
    if amount == 0:
        return points
    pull = _ventricle_pull()
    steps = int(np.ceil(abs(amount) / 2.0))
    low, edge = np.array(LOW, np.float32), 2 * grid_of(2.0).edge
    for _ in range(steps):
        index = np.moveaxis((points - low) / np.float32(edge), -1, 0)
        for axis in range(3):
            move = ndimage.map_coordinates(pull[..., axis], index, order=1, mode="nearest")
            points = points.copy() if axis == 0 else points
            points[..., axis] += np.float32(amount / steps) * move
    return points
