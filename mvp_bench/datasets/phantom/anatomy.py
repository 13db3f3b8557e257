"""The average head: tissue fractions and regions on a regular MNI grid, made from nilearn's bundled ICBM152 template.

Grey and white matter come from the template's probability maps, cerebrospinal fluid is the rest of its brain mask. The
other tissues are placed by :mod:`landmarks` and by distance from the brain's hull.

ICBM152 2009a symmetric: Fonov et al., NeuroImage 54 (2011) 313; ships inside the nilearn wheel.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.interpolate import RegularGridInterpolator

from mvp_bench.datasets.phantom import landmarks as lm
from mvp_bench.datasets.phantom.head import Surroundings, extracerebral
from mvp_bench.datasets.phantom.shapes import AtlasGrid, cleft, ellipsoids, tubes
from mvp_bench.datasets.phantom.spline import Array
from mvp_bench.datasets.phantom.tissue import NORMAL

LOW = (-92.0, -130.0, -130.0)
HIGH = (92.0, 112.0, 102.0)
"""Corners of the atlas in mm."""
REGIONS = ("ventricle", "periventricular", "infratentorial", "medial_temporal", "strip", "head", "susceptibility")
CHANNELS: tuple[str, ...] = (*NORMAL, *REGIONS)
NEAR_MM = 5.0
"""Reach around brain and head within which voxels are computed at all."""
_TEMPLATE_ORIGIN = (-98, -134, -72)


@dataclass(frozen=True)
class Atlas:
    """Tissue fractions (sum <= 1, the rest is air) and region memberships, 0 to 255, shape (x, y, z, channel)."""

    resolution: float
    data: npt.NDArray[np.uint8]
    near: dict[str, npt.NDArray[np.bool_]]
    """The mask (for "strip" and "head"), dilated by NEAR_MM."""

    def axes(self) -> tuple[Array, Array, Array]:
        """Voxel centres in MNI mm."""
        return grid_of(self.resolution).axes

    def channel(self, name: str) -> Array:
        """One channel as fractions."""
        return self.data[..., CHANNELS.index(name)].astype(np.float32) / 255

    def sample(self, points: Array, chunk: int = 1 << 14) -> Array:
        """Trilinear interpolation of all channels at once: eight gathers of whole rows.

        Args:
            points: (n, 3) MNI mm; outside the atlas is air.
            chunk: points at a time, so that the work stays in the cache.

        Returns:
            (n, channels) fractions.
        """
        shape, channels = self.data.shape[:3], self.data.shape[3]
        rows = self.data.reshape(-1, channels)
        strides = (shape[1] * shape[2], shape[2], 1)
        out = np.empty((len(points), channels), np.float32)
        gathered, weighted = np.empty((chunk, channels), np.uint8), np.empty((chunk, channels), np.float32)
        for start in range(0, len(points), chunk):
            block = points[start : start + chunk]
            n = len(block)
            base = np.zeros(n, np.int64)
            weights = []
            for axis in range(3):
                node = (block[:, axis] - np.float32(LOW[axis])) * np.float32(1 / self.resolution)
                node = np.clip(node, 0, np.float32(shape[axis] - 1.001))
                lower = node.astype(np.int64)
                base += lower * strides[axis]
                upper_weight = (node - lower) * np.float32(1 / 255 if axis == 0 else 1)
                weights.append(((1 / 255 if axis == 0 else 1) - upper_weight, upper_weight))
            result = out[start : start + n]
            result[:] = 0
            for i, j, k in product((0, 1), repeat=3):
                offset = i * strides[0] + j * strides[1] + k
                weight = (weights[0][i] * weights[1][j] * weights[2][k]).astype(np.float32)
                np.take(rows, base + offset, axis=0, out=gathered[:n], mode="clip")
                np.multiply(gathered[:n], weight[:, None], out=weighted[:n])
                result += weighted[:n]
        return out

    def sample_channel(self, name: str, points: Array) -> Array:
        """(n,) trilinear values of one channel."""
        return self.sample(points)[:, CHANNELS.index(name)]

    def is_near(self, mask: str, points: Array) -> npt.NDArray[np.bool_]:
        """(n,) whether points (n, 3) lie within NEAR_MM of a mask ("strip" or "head")."""
        shape = np.array(self.data.shape[:3], np.int32)
        nodes = np.rint((points - np.array(LOW, np.float32)) * np.float32(1 / self.resolution)).astype(np.int32)
        nodes = np.clip(nodes, 0, shape - 1)
        return self.near[mask].reshape(-1)[nodes @ np.array([shape[1] * shape[2], shape[2], 1], np.int32)]


def grid_of(resolution: float) -> AtlasGrid:
    """The atlas grid at an edge length of 1 or 2 mm."""
    return AtlasGrid.box(LOW, HIGH, resolution)


def resolution_for(edge_mm: float) -> float:
    """Atlas edge that serves images of this voxel edge: 1 mm below 1.5 mm, else 2 mm."""
    return 1.0 if edge_mm < 1.5 else 2.0


def _template(name: str, resolution: float) -> Array:
    """A bundled map (0 to 1) on the atlas grid."""
    spec = find_spec("nilearn")  # found, not imported: that takes a second
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "datasets" / "data"
    values = (
        np.asanyarray(nib.load(folder / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz").dataobj).astype(
            np.float32
        )
        / 255
    )
    step = round(resolution)
    if step > 1:
        values = ndimage.gaussian_filter(values, 0.3 * step)
    shape = tuple(round(b - a) + 1 for a, b in zip(LOW, HIGH, strict=True))
    padded = np.zeros(shape, np.float32)
    source, target = [], []
    for low, origin, size, full in zip(LOW, _TEMPLATE_ORIGIN, values.shape, shape, strict=True):
        first = max(0, round(low) - origin)
        last = min(size, round(low) - origin + full)
        source.append(slice(first, last))
        target.append(slice(first + origin - round(low), last + origin - round(low)))
    padded[tuple(target)] = values[tuple(source)]
    return np.ascontiguousarray(padded[::step, ::step, ::step])


def _infratentorial(grid: AtlasGrid, brain: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Cerebellum and brainstem: below the tentorium, or near the brainstem's axis below the midbrain's top."""
    x, y, z = grid.mesh()
    table = RegularGridInterpolator((lm.TENTORIUM_Y, lm.TENTORIUM_X), np.array(lm.TENTORIUM_Z, float))
    plane = np.stack(np.meshgrid(grid.axes[1], np.abs(grid.axes[0]), indexing="ij"), axis=-1)
    inside = np.clip(plane, (lm.TENTORIUM_Y[0], 0), (lm.TENTORIUM_Y[-1], lm.TENTORIUM_X[-1]))
    roof = table(inside).T.astype(np.float32)[:, :, None]
    heights = np.array(lm.BRAINSTEM_AXIS)[::-1]
    stem_y, stem_r = (np.interp(grid.axes[2], heights[:, 2], heights[:, i]).astype(np.float32) for i in (1, 3))
    stem = (np.hypot(x, (y - stem_y) * 1.1) < stem_r) & (z < lm.BRAINSTEM_TOP)
    cerebellum = (z < roof) & (y < -28) & ((y < -42) | (z < -22))
    return brain & (stem | cerebellum)


def _ventricles(grid: AtlasGrid, csf: Array) -> Array:
    """Ventricular part of the CSF map (0 to 1)."""
    x, y, z = grid.mesh()
    low, high = lm.LATERAL_VENTRICLE_BOX
    lateral = (csf > 0.4) & (np.abs(x) > low[0]) & (np.abs(x) < high[0])
    lateral &= (y > low[1]) & (y < high[1]) & (z > low[2]) & (z < high[2])
    lateral &= ~((np.abs(x) < 10) & (y < -32)) & ~((np.abs(x) > 18) & (y > -20))
    labels, _ = ndimage.label(lateral)
    chosen = set()
    for seed in lm.LATERAL_VENTRICLE_SEED:
        for side in (-1, 1):
            cube = labels[grid.window((side * seed[0], seed[1], seed[2]), 3.0)]
            chosen |= set(np.unique(cube[cube > 0]).tolist())
    lateral = np.isin(labels, sorted(chosen))
    midline = ellipsoids(grid, [lm.THIRD_VENTRICLE, lm.FOURTH_VENTRICLE]) > 0.5
    mask = ndimage.binary_dilation(lateral | (midline & (csf > 0.25)), iterations=1)
    return csf * mask


_built: dict[float, Atlas] = {}


def load_atlas(resolution: float) -> Atlas:
    """The atlas at 1 or 2 mm, built once per process (about 2 s at 2 mm, 15 s at 1 mm)."""
    if resolution not in _built:
        _built[resolution] = _build(resolution)
    return _built[resolution]


def adopt(atlases: list[Atlas]) -> None:
    """Take over atlases that another process has built."""
    _built.update((atlas.resolution, atlas) for atlas in atlases)


@dataclass(frozen=True)
class _Brain:
    """The template's brain on the atlas grid: its mask, tissue fractions, and the temporal horns (all 0 to 1)."""

    mask: npt.NDArray[np.bool_]
    gm: Array
    wm: Array
    csf: Array
    horn: Array


def _build(resolution: float) -> Atlas:
    grid = grid_of(resolution)
    brain = _brain(grid, resolution)
    infratentorial = _infratentorial(grid, brain.mask)
    outside = extracerebral(grid, brain.mask)
    ventricle = np.maximum(_ventricles(grid, brain.csf), brain.horn)
    fractions = _fractions(grid, brain, infratentorial, outside, ventricle)
    near_ventricle = ndimage.gaussian_filter(ventricle, 4.0 / resolution)
    regions = {
        "ventricle": ventricle,
        "periventricular": np.clip(3 * near_ventricle, 0, 1),
        "infratentorial": ndimage.gaussian_filter(infratentorial.astype(np.float32), 0.5),
        "medial_temporal": ellipsoids(grid, lm.MEDIAL_TEMPORAL),
        "strip": outside.strip,
        "head": outside.head,
        "susceptibility": ndimage.gaussian_filter(ellipsoids(grid, lm.SUSCEPTIBILITY), 4.0 / resolution),
    }
    data = np.empty((*grid.shape, len(CHANNELS)), np.uint8)
    for i, name in enumerate(CHANNELS):
        data[..., i] = np.rint(255 * np.clip(fractions[name] if name in fractions else regions[name], 0, 1))
    reach = ndimage.generate_binary_structure(3, 1)
    steps = round(NEAR_MM / resolution)
    near = {name: ndimage.binary_dilation(regions[name] > 0.3, reach, iterations=steps) for name in ("strip", "head")}
    return Atlas(resolution, data, near)


def _brain(grid: AtlasGrid, resolution: float) -> _Brain:
    t1, gm, wm = (_template(name, resolution) for name in ("t1", "gm", "wm"))
    mask = t1 > 0.1
    total = np.maximum(gm + wm, 1e-6)
    scale = np.minimum(1.0, 1.0 / total)
    gm, wm = gm * scale * mask, wm * scale * mask
    gm, wm, csf = _sharpen(gm, wm, np.clip(1 - gm - wm, 0, 1) * mask, mask)
    horn = tubes(grid, [lm.TEMPORAL_HORN]) * mask
    csf = csf + horn * (gm + wm)
    return _Brain(mask, gm * (1 - horn), wm * (1 - horn), csf, horn)


def _fractions(
    grid: AtlasGrid, brain: _Brain, infratentorial: npt.NDArray[np.bool_], outside: Surroundings, ventricle: Array
) -> dict[str, Array]:
    """Fractions of all tissues: the brain's own, what surrounds it, then the small things that are laid over both."""
    fractions: dict[str, Array] = {name: np.zeros(grid.shape, np.float32) for name in NORMAL}
    deep = ellipsoids(grid, lm.DEEP_GREY) * ~infratentorial
    iron = ellipsoids(grid, lm.IRON_RICH)
    fractions["deep"] = brain.gm * deep
    cortex = brain.gm - fractions["deep"]
    for name, part in (("gm", cortex), ("wm", brain.wm), ("deep", fractions["deep"])):
        share = 0.85 if name != "wm" else 0.6
        fractions["iron"] += share * iron * part
        fractions[name] = part * (1 - share * iron)
    fractions["csf"] = brain.csf.copy()
    for name, amount in outside.fractions.items():
        fractions[name] = fractions[name] + amount
    plexus = tubes(grid, lm.CHOROID_PLEXUS, softness=1.0)
    plexus = np.maximum(plexus, ellipsoids(grid, [lm.CHOROID_GLOMUS]))
    _insert(fractions, "choroid", 0.9 * plexus * np.clip(1.5 * ndimage.maximum_filter(ventricle, 3), 0, 1))
    arteries, veins = tubes(grid, lm.ARTERIES), tubes(grid, (*lm.VEINS, outside.sagittal_sinus))
    soft = fractions["csf"] + fractions["dura"] + 0.25 * (fractions["gm"] + fractions["wm"]) + (1 - brain.mask)
    _insert(fractions, "vein", veins * np.clip(soft, 0, 1))
    _insert(fractions, "artery", arteries * np.clip(soft + 0.2, 0, 1))
    _insert(fractions, "dura", 0.45 * cleft(infratentorial, brain.mask & ~infratentorial) * (brain.csf > 0.1))
    pituitary = np.maximum(ellipsoids(grid, [lm.PITUITARY]), tubes(grid, [lm.STALK])) * (1 - cortex - brain.wm)
    _insert(fractions, "pituitary", pituitary)
    return fractions


def _sharpen(gm: Array, wm: Array, csf: Array, brain: npt.NDArray[np.bool_], power: float = 1.7) -> list[Array]:
    """Move the probabilities of the average of 152 brains towards the partial volumes of a single one."""
    raised = [np.power(p, power) for p in (gm, wm, csf)]
    total = np.maximum(sum(raised), 1e-6)
    return [np.where(brain, p / total, 0).astype(np.float32) for p in raised]


def _insert(fractions: dict[str, Array], name: str, amount: Array) -> None:
    """Replace what is there by ``amount`` (0 to 1) of a tissue, in place."""
    touched = np.flatnonzero(amount)
    part = amount.reshape(-1)[touched]
    for other in fractions.values():
        other.reshape(-1)[touched] *= 1 - part
    fractions[name].reshape(-1)[touched] += part
