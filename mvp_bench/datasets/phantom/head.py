"""What surrounds the brain: subarachnoid space, dura, skull, scalp, face and neck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mvp_bench.datasets.phantom import landmarks as lm
from mvp_bench.datasets.phantom.landmarks import Tube
from mvp_bench.datasets.phantom.shapes import Grid, band, ellipsoids, signed_distance, tubes
from mvp_bench.datasets.phantom.spline import Array, SmoothField

_COARSE = 2.0
_HULL_CLOSING = 14.0
_STRIP_CLOSING = 5.0
_TEXTURE_SEED = 152
_TEXTURE_MM = 5.0
_SOLID = ("dura", "bone", "marrow", "fat", "muscle")


@dataclass(frozen=True)
class Layers:
    """Depths in mm from the brain's hull outwards."""

    csf: float = 2.0
    dura: float = 3.2
    inner_table: float = 5.0
    diploe: float = 8.2
    outer_table: float = 10.0
    fat: float = 14.0
    skin: float = 16.0


@dataclass(frozen=True)
class Surroundings:
    """Tissue fractions outside the brain, and the masks made from its hull."""

    fractions: dict[str, Array]
    strip: Array
    """What a skull-stripping tool would keep (soft)."""
    head: Array
    """1 in the head, 0 in the air around it."""
    sagittal_sinus: Tube


def _closing_distance(grid: Grid, brain: npt.NDArray[np.bool_], radius: float) -> Array:
    """Signed distance in mm to the morphological closing of the brain by a ball, computed at 2 mm."""
    step = max(1, round(_COARSE / grid.edge))
    edge = grid.edge * step
    grown = signed_distance(brain[::step, ::step, ::step], edge) - radius
    closed = signed_distance(grown < 0, edge) + radius
    closed = ndimage.gaussian_filter(closed, 0.6)
    if step == 1:
        return closed
    return ndimage.zoom(closed, np.array(grid.shape) / closed.shape, order=1, grid_mode=True, mode="nearest")


def _sagittal_sinus(grid: Grid, hull: Array) -> Tube:
    """Course along the inside of the vault in the midline, from the forehead to the torcula."""
    middle = hull[np.argmin(np.abs(grid.axes[0]))]
    y0, z0 = lm.SAGITTAL_CENTRE
    points = []
    for angle in np.deg2rad(np.arange(20, 191, 6)):
        radii = np.arange(40.0, 110.0, 0.5)
        y, z = y0 + radii * np.cos(angle), z0 + radii * np.sin(angle)
        iy = np.clip(np.searchsorted(grid.axes[1], y), 0, len(grid.axes[1]) - 1)
        iz = np.clip(np.searchsorted(grid.axes[2], z), 0, len(grid.axes[2]) - 1)
        crossing = int(np.argmax(middle[iy, iz] > 1.5))
        points.append((0.0, float(y[crossing]), float(z[crossing])))
    return Tube(tuple(points), lm.SAGITTAL_SINUS_RADIUS, mirrored=False)


def extracerebral(grid: Grid, brain: npt.NDArray[np.bool_]) -> Surroundings:
    """Everything outside the template's brain mask.

    Args:
        grid: atlas grid.
        brain: the template's brain.
    """
    layers, w = Layers(), grid.edge
    z = grid.mesh()[2]
    vault = _closing_distance(grid, brain, _HULL_CLOSING)
    tight = _closing_distance(grid, brain, _STRIP_CLOSING)
    low, high = [a[0] for a in grid.axes], [a[-1] for a in grid.axes]
    rough = SmoothField(np.random.default_rng(_TEXTURE_SEED), low, high, _TEXTURE_MM).on_grid(grid.axes)

    body = np.maximum(ellipsoids(grid, lm.BODY, softness=3 * w), band(vault, -99, layers.skin, w))
    air = ellipsoids(grid, lm.AIR_SPACES)
    fractions = {name: np.zeros(grid.shape, np.float32) for name in ("csf", "wm", *_SOLID)}
    soft = np.clip(0.84 + 0.13 * rough, 0.5, 1)
    fractions["muscle"], fractions["fat"] = body * soft, body * (1 - soft)
    skin = band(signed_distance(body > 0.5, w) if w >= _COARSE else _body_distance(grid, body), -3, 0.5, w)

    def lay(name: str, amount: Array) -> None:
        touched = np.flatnonzero(amount)
        part = amount.reshape(-1)[touched]
        for other in fractions.values():
            other.reshape(-1)[touched] *= 1 - part
        if name in fractions:
            fractions[name].reshape(-1)[touched] += part

    lay("muscle", 0.8 * skin)
    lay("fat", band(vault, layers.outer_table, layers.fat, w) * (z > -30))
    lay("muscle", ellipsoids(grid, [lm.TEMPORALIS]) * (vault > layers.outer_table) * body)
    skull = band(vault, layers.dura, layers.outer_table, w) * body
    lay("bone", skull)
    lay("marrow", 0.85 * band(vault, layers.inner_table, layers.diploe, w) * np.clip(0.7 + 0.5 * rough, 0, 1))
    canal = tubes(grid, [lm.SPINAL_CORD._replace(radius=15)]) * (vault > 0)
    lay("bone", 0.5 * canal)
    lay("marrow", 0.5 * canal * (z < -85))
    orbit, globe = ellipsoids(grid, [lm.ORBIT]), ellipsoids(grid, [lm.GLOBE])
    lay("fat", orbit * (vault > layers.dura))
    lay("csf", globe * (vault > layers.dura))
    base_bone = np.maximum(ellipsoids(grid, [lm.SPHENOID_BODY]), tubes(grid, lm.PETROUS_BONE)) * (tight > 2)
    lay("bone", 0.8 * base_bone)
    lay("marrow", 0.35 * base_bone * np.clip(rough, 0, 1))
    lay("air", 0.6 * ellipsoids(grid, [lm.MASTOID]) * (vault > 2) * (rough > 0))
    lay("air", np.maximum(air, ellipsoids(grid, [lm.EAR_CANAL])) * (vault > layers.dura - 3) * (tight > 4))

    lay("csf", band(vault, -99, layers.csf, w) * (1 - base_bone))
    lay("csf", tubes(grid, [lm.AUDITORY_CANAL]))
    lay("dura", 0.7 * band(vault, layers.csf, layers.dura, w))
    lay("csf", tubes(grid, [lm.SPINAL_CORD._replace(radius=8)]))
    lay("wm", tubes(grid, [lm.SPINAL_CORD]))
    for name in fractions:
        fractions[name] = np.where(brain, 0, fractions[name]).astype(np.float32)
    head = np.maximum(body, band(vault, -99, layers.skin, w))
    strip = np.maximum(np.clip(0.5 + (1.2 - tight) / (2 * w), 0, 1), brain)
    return Surroundings(fractions, strip.astype(np.float32), head, _sagittal_sinus(grid, vault))


def _body_distance(grid: Grid, body: Array) -> Array:
    step = round(_COARSE / grid.edge)
    coarse = signed_distance(body[::step, ::step, ::step] > 0.5, _COARSE)
    return ndimage.zoom(coarse, np.array(grid.shape) / coarse.shape, order=1, grid_mode=True, mode="nearest")
