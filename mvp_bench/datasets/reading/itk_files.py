"""Images that nnU-Net's NIfTI reader cannot read (NRRD, MetaImage): read with SimpleITK, to be written anew."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mvp_bench.datasets.geometry.packed import RULES
from mvp_bench.datasets.geometry.volumes import Grid, Volume
from mvp_bench.edges import reading, require_regular
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
        InputError: if it is missing, no ordinary file, damaged, not three-dimensional or not scalar, or if its header
            speaks of more than it can hold.
    """
    import SimpleITK as sitk  # slow to import, and used here only

    read_itk_grid(path)
    with _damage(path):
        image = sitk.ReadImage(str(path))
    data = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return Volume(data, _grid(image), checksum_file(path), path.stat().st_size)


def read_itk_grid(path: Path) -> Grid:
    """Shape and affine (voxel index to RAS mm) from the header alone.

    Raises:
        InputError: as :func:`read_itk`, for faults of the header.
    """
    import SimpleITK as sitk  # slow to import, and used here only

    size = require_regular(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    with _damage(path):
        reader.ReadImageInformation()
    if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1:
        raise InputError(
            path,
            found=f"{reader.GetDimension()} dimensions and {reader.GetNumberOfComponents()} values per voxel",
            expected="a 3-D volume of single values",
        )
    edge = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    spoken = math.prod(int(n) for n in reader.GetSize()) * edge
    if spoken > RULES.believed(size, packed=True):
        raise InputError(
            path,
            found=f"a header that speaks of {spoken} bytes in a file of {size}",
            expected="no more than it can hold",
            fix="Download or copy it again.",
        )
    return _grid(reader)


def _grid(image: sitk.Image | sitk.ImageFileReader) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    shape = tuple(int(n) for n in image.GetSize())
    return Grid(shape, _LPS_TO_RAS @ affine)  # type: ignore[arg-type]


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    with reading(path):
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].strip()
            raise InputError(
                path, found=f"a file that cannot be read ({reason})", expected="an image that SimpleITK can read"
            ) from error
