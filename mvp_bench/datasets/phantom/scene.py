"""A head on a voxel grid while it is being built: what is in each voxel, and tools to put lesions there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from mvp_bench.datasets.phantom.anatomy import CHANNELS, REGIONS, Atlas
from mvp_bench.datasets.phantom.deformation import HeadMap
from mvp_bench.datasets.phantom.grids import VoxelGrid
from mvp_bench.datasets.phantom.spline import Array, Axes, SmoothField
from mvp_bench.datasets.phantom.tissue import INDEX, NAMES, NORMAL


@dataclass
class Scene:
    """Tissue in the n voxels in and near the head (or the brain, if stripped) of a crop of the grid.

    Attributes:
        grid: the whole grid.
        crop: slices of the crop in the grid.
        axes: voxel centres of the crop in mm.
        rows: (n,) flat indices in the crop.
        position: (n, 3) image position in mm.
        template: (n, 3) MNI position in mm.
        fractions: (n, tissues) partial volumes, in the order of tissue.NAMES.
        regions: name -> (n,) membership 0 to 1 (anatomy.REGIONS).
        labels: (n,) mask values.
        age: years.
    """

    grid: VoxelGrid
    crop: tuple[slice, slice, slice]
    axes: Axes
    rows: npt.NDArray[np.intp]
    position: Array
    template: Array
    fractions: Array
    regions: dict[str, Array]
    age: float
    labels: npt.NDArray[np.uint8]
    inside: npt.NDArray[np.bool_]
    """(n,) voxels that the image shows; it is 0 in the others."""
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of the crop."""
        return len(self.axes[0]), len(self.axes[1]), len(self.axes[2])

    def of(self, tissue: str) -> Array:
        """(n,) partial volume of a tissue; a view, not to be changed."""
        return self.fractions[:, INDEX[tissue]]

    @property
    def parenchyma(self) -> Array:
        """(n,) part of the voxel that is brain tissue, healthy or not."""
        names = ("gm", "wm", "deep", "iron", "wmh", "oedema", "tumour", "enhancing", "infarct", "infarct_late")
        return self.fractions[:, [INDEX[n] for n in names]].sum(axis=1)

    def compartment(self, template: Sequence[float]) -> float:
        """1 if the voxel nearest to a template point lies below the tentorium, else 0."""
        offset = self.template - np.array(template, np.float32)
        return float(self.regions["infratentorial"][int(np.argmin(np.einsum("ij,ij->i", offset, offset)))] > 0.5)

    def noise(self, rng: np.random.Generator, knot_mm: float) -> Array:
        """(n,) values of a new smooth random field, mean 0, variance 1."""
        smooth = SmoothField(rng, [a[0] for a in self.axes], [a[-1] for a in self.axes], knot_mm)
        return smooth.on_grid(self.axes).reshape(-1)[self.rows]

    def local(self, centre: Array, radius: float) -> Local:
        """The voxels in a cube around a point."""
        near = np.flatnonzero(np.all(np.abs(self.position - np.asarray(centre, np.float32)) < radius, axis=1))
        return Local(self, near)

    def replace(self, amount: Array, tissue: str, voxels: npt.NDArray[np.intp] | None = None) -> None:
        """Replace a part (0 to 1) of what each voxel holds by a tissue.

        Args:
            amount: (n,) or, with ``voxels``, (len(voxels),).
            tissue: name.
            voxels: positions in 0..n-1; default all.
        """
        touched = np.flatnonzero(amount > 0.004)
        part = np.clip(amount[touched], 0, 1)[:, None]
        where = touched if voxels is None else voxels[touched]
        block = self.fractions[where] * (1 - part)
        block[:, INDEX[tissue]] += part[:, 0]
        self.fractions[where] = block

    def volume_ml(self, value: int) -> float:
        """Volume of a mask value."""
        return float(np.count_nonzero(self.labels == value)) * self.grid.voxel_ml

    def amount_ml(self, amount: Array) -> float:
        """Volume of a partial-volume map."""
        return float(amount.sum(dtype=np.float64)) * self.grid.voxel_ml

    def dense(self, values: Array) -> Array:
        """(n,) values as an array of the crop's shape, 0 elsewhere."""
        out = np.zeros(int(np.prod(self.shape)), values.dtype)
        out[self.rows] = values
        return out.reshape(self.shape)


@dataclass
class Local:
    """Some voxels of a scene."""

    scene: Scene
    voxels: npt.NDArray[np.intp]

    @property
    def position(self) -> Array:
        return self.scene.position[self.voxels]

    @property
    def template(self) -> Array:
        return self.scene.template[self.voxels]

    def of(self, tissue: str) -> Array:
        """Partial volume of a tissue."""
        return self.scene.fractions[self.voxels, INDEX[tissue]]

    def region(self, name: str) -> Array:
        """Membership of a region."""
        return self.scene.regions[name][self.voxels]

    def noise(self, rng: np.random.Generator, knot_mm: float) -> Array:
        """A new smooth random field at these voxels."""
        if not len(self.voxels):
            return np.zeros(0, np.float32)
        index = np.unravel_index(self.scene.rows[self.voxels], self.scene.shape)
        spans = [slice(int(i.min()), int(i.max()) + 1) for i in index]
        axes = tuple(a[s] for a, s in zip(self.scene.axes, spans, strict=True))
        smooth = SmoothField(rng, [a[0] for a in axes], [a[-1] for a in axes], knot_mm)
        values = smooth.on_grid((axes[0], axes[1], axes[2]))
        return values[tuple(i - s.start for i, s in zip(index, spans, strict=True))]

    def replace(self, amount: Array, tissue: str) -> None:
        """See :meth:`Scene.replace`."""
        self.scene.replace(amount, tissue, self.voxels)

    def label(self, where: npt.NDArray[np.bool_], value: int) -> None:
        """Set mask values."""
        self.scene.labels[self.voxels[where]] = value


def build_scene(grid: VoxelGrid, head: HeadMap, atlas: Atlas, mask: str, edge: float, age: float) -> Scene:
    """Look every voxel of the head up in the atlas.

    Args:
        grid: output grid.
        head: map from image to template.
        atlas: the average head.
        mask: region that limits the image, "strip" (skull-stripped) or "head".
        edge: membership of the mask from which on the image shows a voxel (a lower one strips less).
        age: years.
    """
    low, high = (head.image_position(p) for p in _corners(atlas, mask))
    crop_list = []
    for axis, a, b in zip(grid.axes, low, high, strict=True):
        first = int(np.searchsorted(axis, min(a, b) - 12.0))
        last = int(np.searchsorted(axis, max(a, b) + 12.0))
        crop_list.append(slice(min(first, len(axis) - 2), max(last, 2)))
    crop = (crop_list[0], crop_list[1], crop_list[2])
    axes = tuple(axis[s] for axis, s in zip(grid.axes, crop, strict=True))
    template = head.on_grid((axes[0], axes[1], axes[2])).reshape(-1, 3)
    rows = np.flatnonzero(atlas.is_near(mask, template))
    template = np.ascontiguousarray(template[rows])
    values = atlas.sample(template)
    fractions = np.zeros((len(rows), len(NAMES)), np.float32)
    fractions[:, : len(NORMAL)] = values[:, : len(NORMAL)]
    regions = {name: np.ascontiguousarray(values[:, CHANNELS.index(name)]) for name in REGIONS}
    index = np.unravel_index(rows, [len(a) for a in axes])
    position = np.stack([a[i] for a, i in zip(axes, index, strict=True)], axis=1)
    labels = np.zeros(len(rows), np.uint8)
    return Scene(
        grid,
        crop,
        (axes[0], axes[1], axes[2]),
        rows,
        position,
        template,
        fractions,
        regions,
        age,
        labels,
        regions[mask] > edge,
    )


def _corners(atlas: Atlas, mask: str) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Bounding box in MNI mm of the mask, or all of the atlas for heads (the field of view cuts them)."""
    axes = atlas.axes()
    if mask == "head":
        low, high = [float(a[0]) for a in axes], [float(a[-1]) for a in axes]
    else:
        low, high = [-80.0, -115.0, -82.0], [80.0, 82.0, 92.0]
    return (low[0], low[1], low[2]), (high[0], high[1], high[2])
