"""What surrounds the brain: subarachnoid space, dura, skull, scalp, face and neck."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from mvp_bench.datasets.phantom import landmarks as lm
from mvp_bench.datasets.phantom.landmarks import Tube
from mvp_bench.datasets.phantom.shapes import AtlasGrid, band, ellipsoids, signed_distance, tubes
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


def _closing_distance(grid: AtlasGrid, brain: npt.NDArray[np.bool_], radius: float) -> Array:
    """Signed distance in mm to the morphological closing of the brain by a ball, computed at 2 mm."""
    step = max(1, round(_COARSE / grid.edge))
    edge = grid.edge * step
    grown = signed_distance(brain[::step, ::step, ::step], edge) - radius
    closed = signed_distance(grown < 0, edge) + radius
    closed = ndimage.gaussian_filter(closed, 0.6)
    if step == 1:
        return closed
    return ndimage.zoom(closed, np.array(grid.shape) / closed.shape, order=1, grid_mode=True, mode="nearest")


def _sagittal_sinus(grid: AtlasGrid, hull: Array) -> Tube:
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


def extracerebral(grid: AtlasGrid, brain: npt.NDArray[np.bool_]) -> Surroundings:
    """Everything outside the template's brain mask.

    Args:
        grid: atlas grid.
        brain: the template's brain.
    """
    layers, w = Layers(), grid.edge
    vault = _closing_distance(grid, brain, _HULL_CLOSING)
    tight = _closing_distance(grid, brain, _STRIP_CLOSING)
    low, high = [a[0] for a in grid.axes], [a[-1] for a in grid.axes]
    rough = SmoothField(np.random.default_rng(_TEXTURE_SEED), low, high, _TEXTURE_MM).on_grid(grid.axes)
    body = np.maximum(ellipsoids(grid, lm.BODY, softness=3 * w), band(vault, -99, layers.skin, w))
    fractions = {name: np.zeros(grid.shape, np.float32) for name in ("csf", "wm", *_SOLID)}
    soft = np.clip(0.84 + 0.13 * rough, 0.5, 1)
    fractions["muscle"], fractions["fat"] = body * soft, body * (1 - soft)
    depths = _Depths(layers, body, vault, tight, rough)
    _lay_vault(fractions, grid, depths)
    _lay_base(fractions, grid, depths)
    for name in fractions:
        fractions[name] = np.where(brain, 0, fractions[name]).astype(np.float32)
    head = np.maximum(body, band(vault, -99, layers.skin, w))
    strip = np.maximum(np.clip(0.5 + (1.2 - tight) / (2 * w), 0, 1), brain)
    return Surroundings(fractions, strip.astype(np.float32), head, _sagittal_sinus(grid, vault))


@dataclass(frozen=True)
class _Depths:
    """Where tissues are laid.

    Attributes:
        body: head and neck (soft, 0 to 1).
        vault: signed distance in mm to the brain's hull.
        tight: the same to a hull that follows the brain closely.
        rough: texture, about -1 to 1.
    """

    layers: Layers
    body: Array
    vault: Array
    tight: Array
    rough: Array


def _lay(fractions: dict[str, Array], name: str, amount: Array) -> None:
    """Replace what is there by ``amount`` (0 to 1) of a tissue, in place; a tissue without fractions is air."""
    touched = np.flatnonzero(amount)
    part = amount.reshape(-1)[touched]
    for other in fractions.values():
        other.reshape(-1)[touched] *= 1 - part
    if name in fractions:
        fractions[name].reshape(-1)[touched] += part


def _lay_vault(fractions: dict[str, Array], grid: AtlasGrid, depths: _Depths) -> None:
    """Skin, fat, muscle and bone around the vault, and the canal of the spine."""
    layers, body, vault, w = depths.layers, depths.body, depths.vault, grid.edge
    z = grid.mesh()[2]
    skin = band(signed_distance(body > 0.5, w) if w >= _COARSE else _body_distance(grid, body), -3, 0.5, w)
    _lay(fractions, "muscle", 0.8 * skin)
    _lay(fractions, "fat", band(vault, layers.outer_table, layers.fat, w) * (z > -30))
    _lay(fractions, "muscle", ellipsoids(grid, [lm.TEMPORALIS]) * (vault > layers.outer_table) * body)
    skull = band(vault, layers.dura, layers.outer_table, w) * body
    _lay(fractions, "bone", skull)
    diploe = 0.85 * band(vault, layers.inner_table, layers.diploe, w) * np.clip(0.7 + 0.5 * depths.rough, 0, 1)
    _lay(fractions, "marrow", diploe)
    canal = tubes(grid, [lm.SPINAL_CORD._replace(radius=15)]) * (vault > 0)
    _lay(fractions, "bone", 0.5 * canal)
    _lay(fractions, "marrow", 0.5 * canal * (z < -85))


def _lay_base(fractions: dict[str, Array], grid: AtlasGrid, depths: _Depths) -> None:
    """Eyes, the base of the skull with its air, and last the fluid, dura and cord that lie over all that."""
    layers, vault, tight, rough, w = depths.layers, depths.vault, depths.tight, depths.rough, grid.edge
    air = ellipsoids(grid, lm.AIR_SPACES)
    orbit, globe = ellipsoids(grid, [lm.ORBIT]), ellipsoids(grid, [lm.GLOBE])
    _lay(fractions, "fat", orbit * (vault > layers.dura))
    _lay(fractions, "csf", globe * (vault > layers.dura))
    base_bone = np.maximum(ellipsoids(grid, [lm.SPHENOID_BODY]), tubes(grid, lm.PETROUS_BONE)) * (tight > 2)
    _lay(fractions, "bone", 0.8 * base_bone)
    _lay(fractions, "marrow", 0.35 * base_bone * np.clip(rough, 0, 1))
    _lay(fractions, "air", 0.6 * ellipsoids(grid, [lm.MASTOID]) * (vault > 2) * (rough > 0))
    open_to_air = np.maximum(air, ellipsoids(grid, [lm.EAR_CANAL])) * (vault > layers.dura - 3) * (tight > 4)
    _lay(fractions, "air", open_to_air)
    _lay(fractions, "csf", band(vault, -99, layers.csf, w) * (1 - base_bone))
    _lay(fractions, "csf", tubes(grid, [lm.AUDITORY_CANAL]))
    _lay(fractions, "dura", 0.7 * band(vault, layers.csf, layers.dura, w))
    _lay(fractions, "csf", tubes(grid, [lm.SPINAL_CORD._replace(radius=8)]))
    _lay(fractions, "wm", tubes(grid, [lm.SPINAL_CORD]))


def _body_distance(grid: AtlasGrid, body: Array) -> Array:
    step = round(_COARSE / grid.edge)
    coarse = signed_distance(body[::step, ::step, ::step] > 0.5, _COARSE)
    return ndimage.zoom(coarse, np.array(grid.shape) / coarse.shape, order=1, grid_mode=True, mode="nearest")
