"""Volumes as SimpleITK images, and brought onto other grids.

NIfTI's world is RAS (x to the right, y to the front), ITK's is LPS: the first two axes change sign on the way.
"""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from mvp_bench.datasets.geometry.volumes import Grid

LPS = np.diag([-1.0, -1.0, 1.0])
"""RAS world millimetres -> LPS world millimetres, and back."""


def to_itk(data: NDArray, grid: Grid) -> sitk.Image:
    """A volume in the file's axis order as a SimpleITK image at the same place.

    Args:
        data: numbers of shape ``grid.shape``.
    """
    image = sitk.GetImageFromArray(np.ascontiguousarray(data.T))
    image.SetSpacing(grid.voxel_mm.tolist())
    image.SetDirection((LPS @ (grid.affine[:3, :3] / grid.voxel_mm)).ravel().tolist())
    image.SetOrigin((LPS @ grid.affine[:3, 3]).tolist())
    return image


def resample(
    image: sitk.Image, onto: sitk.Image, transform: sitk.Transform | None = None, nearest: bool = False
) -> sitk.Image:
    """``image`` on the grid of ``onto``: linear interpolation in single precision, 0 outside the field of view.

    Args:
        transform: from points of ``onto`` to points of ``image`` (LPS mm); default: the two headers are trusted.
        nearest: take the nearest voxel instead, and keep the type.
    """
    resampler = sitk.ResampleImageFilter()
    resampler.SetNumberOfThreads(1)  # several files are made at a time
    resampler.SetReferenceImage(onto)
    resampler.SetTransform(transform or sitk.Transform(3, sitk.sitkIdentity))
    resampler.SetInterpolator(sitk.sitkNearestNeighbor if nearest else sitk.sitkLinear)
    resampler.SetOutputPixelType(image.GetPixelID() if nearest else sitk.sitkFloat32)
    resampler.SetDefaultPixelValue(0.0)
    return resampler.Execute(image)


def from_itk(image: sitk.Image) -> NDArray:
    """The voxels of a SimpleITK image in the file's axis order (x, y, z)."""
    return sitk.GetArrayFromImage(image).T
