"""The voxel grid of a release at any voxel size, and the way from RAS arrays to arrays as they are stored."""

from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from mvp_bench.datasets.phantom.spline import Axes


@dataclass(frozen=True)
class GridRule:
    """Field of view and voxel edges of a release; all triples are (left-right, posterior-anterior, inferior-superior).

    Attributes:
        native: voxel edges of the real release in mm; never finer.
        ratio: edges as multiples of the configured spacing.
        cap: slice thickness in mm that is not exceeded, unless the spacing itself is larger.
        extent: field of view in mm.
        centre: MNI point in mm (of a head that isn't moved) at the middle of the field of view.
        orientation: axis codes of the stored array.
        origin: world position in mm of the first stored voxel; None: the head's own coordinates.
    """

    native: tuple[float, float, float]
    ratio: tuple[float, float, float]
    extent: tuple[float, float, float]
    cap: float = 6.0
    centre: tuple[float, float, float] = (0.0, -17.0, 6.0)
    orientation: str = "LPS"
    origin: tuple[float, float, float] | None = None

    def grid(self, spacing_mm: float) -> VoxelGrid:
        """The grid at a configured in-plane spacing."""
        edges = [
            max(native, min(ratio * spacing_mm, max(self.cap, spacing_mm)))
            for native, ratio in zip(self.native, self.ratio, strict=True)
        ]
        shape = [max(1, round(extent / edge)) for extent, edge in zip(self.extent, edges, strict=True)]
        return VoxelGrid(
            (shape[0], shape[1], shape[2]), (edges[0], edges[1], edges[2]), self.centre, self.orientation, self.origin
        )


@dataclass(frozen=True)
class VoxelGrid:
    """A grid in the scanner's RAS frame, whose origin is the MNI origin of an unmoved head."""

    shape: tuple[int, int, int]
    edges: tuple[float, float, float]
    centre: tuple[float, float, float]
    orientation: str
    origin: tuple[float, float, float] | None

    @property
    def axes(self) -> Axes:
        """Voxel centres in mm along R, A, S."""
        x, y, z = (
            (c + e * (np.arange(n) - (n - 1) / 2)).astype(np.float32)
            for n, e, c in zip(self.shape, self.edges, self.centre, strict=True)
        )
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in mL."""
        return float(np.prod(self.edges)) / 1000

    def image(self, array: npt.NDArray) -> nib.Nifti1Image:
        """NIfTI image of a RAS array, stored in the release's orientation."""
        start = [float(axis[0]) for axis in self.axes]
        affine = np.diag([*self.edges, 1.0])
        affine[:3, 3] = start
        change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(self.orientation))
        stored = np.ascontiguousarray(apply_orientation(array, change))
        affine = affine @ inv_ornt_aff(change, array.shape)
        if self.origin is not None:
            affine[:3, 3] = self.origin
        affine = np.round(affine, 6) + 0.0  # no negative zeros
        image = nib.Nifti1Image(stored, affine)
        image.header.set_xyzt_units("mm", "sec")
        image.set_sform(affine, code=1)
        image.set_qform(affine, code=1)
        return image


BRATS = GridRule((1, 1, 1), (1, 1, 1), (240, 240, 155), orientation="LPS", origin=(0, 239, 0))
"""SRI24 grid of the BraTS family, UPENN-GBM and UCSF-PDGM."""
ISLES_THIN = GridRule((2, 2, 2), (1, 1, 1), (224, 224, 146), orientation="LAS")
ISLES_THICK = GridRule((1.8, 1.8, 4.8), (0.9, 0.9, 2.4), (230, 230, 144), orientation="LAS")
MRBRAINS = GridRule((0.958, 0.958, 3.0), (0.958, 0.958, 3.0), (230, 230, 144), orientation="LPS")
VS = GridRule((0.4, 0.4, 1.5), (1.0, 1.0, 1.6), (180, 216, 120), centre=(0, -17, -16), orientation="LPS")
SAGITTAL_T1 = GridRule((1.2, 1.0, 1.0), (1.2, 1, 1), (192, 240, 240), centre=(0, -10, -12), orientation="PIR")
IXI = GridRule((1.2, 0.9375, 0.9375), (1.2, 1, 1), (180, 240, 240), centre=(0, -10, -12), orientation="PIR")
