"""A predicted label map as a NIfTI file that lies voxel for voxel on its source."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.orientations import apply_orientation, axcodes2ornt, io_orientation, ornt_transform

from mvp_bench.errors import InputError
from mvp_bench.io import atomic_path


def write_prediction(path: Path, labels: np.ndarray, source: Path) -> None:
    """Write ``labels`` with the header of ``source``: its axes, affine, orientation codes and units; only the voxel
    type is the labels' own.

    Args:
        labels: whole numbers 0 to 255, (z, y, x) of the source brought to RAS, as nnU-Net's reader gives it.
        source: NIfTI file on whose grid the labels lie.

    Raises:
        InputError: if the shapes do not agree.
    """
    image = nib.load(source)
    change = ornt_transform(axcodes2ornt("RAS"), io_orientation(image.affine))
    stored = apply_orientation(labels.transpose(2, 1, 0).astype(np.uint8), change)
    if stored.shape != image.shape[:3]:
        raise InputError(path, found=f"a prediction of {stored.shape} voxels", expected=f"{image.shape} as in {source}")
    header = image.header.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    with atomic_path(path) as temporary:
        nib.save(type(image)(stored, None, header), temporary)
