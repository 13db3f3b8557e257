"""Images that nnU-Net's NIfTI reader cannot read (NRRD, MetaImage): read with SimpleITK, to be written anew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mvp_bench.datasets.geometry.volumes import Grid, Volume
from mvp_bench.errors import InputError
from mvp_bench.identity import checksum_file

if TYPE_CHECKING:
    import SimpleITK as sitk

ITK_ENDINGS = (".nrrd", ".mha")
"""Formats with header and voxels in one file."""
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_itk(path: Path) -> Volume:
    """Read a file to its end; axes are as ITK orders them (first index fastest), the affine leads to RAS mm.

    Raises:
        InputError: if it is missing, damaged, not three-dimensional or not scalar.
    """
    import SimpleITK as sitk  # slow to import, and used here only

    read_itk_grid(path)
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    data = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return Volume(data, _grid(image), checksum_file(path), path.stat().st_size)


def read_itk_grid(path: Path) -> Grid:
    """Shape and affine (voxel index to RAS mm) from the header alone.

    Raises:
        InputError: as :func:`read_itk`, for faults of the header.
    """
    import SimpleITK as sitk  # slow to import, and used here only

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise _unreadable(path, error) from error
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(
            path,
            found=f"{reader.GetDimension()} dimensions and {reader.GetNumberOfComponents()} values per voxel",
            expected="a 3-D volume of single values",
        )
    return _grid(reader)


def _grid(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    shape = tuple(int(n) for n in image.GetSize())
    return Grid(shape, _LPS_TO_RAS @ affine)  # type: ignore[arg-type]


def _unreadable(path: Path, error: RuntimeError) -> InputError:
    reason = str(error).strip().splitlines()[-1].strip()
    return InputError(path, found=f"a file that cannot be read ({reason})", expected="an image that SimpleITK can read")
