"""Phantom heads of a few thousand voxels, for releases whose images must be registered."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel import Nifti1Image
from nibabel.orientations import axcodes2ornt, ornt_transform
from nibabel.processing import resample_from_to
from scipy.spatial.transform import Rotation

from mvp_bench.config.groups import RegistrationConfig
from mvp_bench.datasets.phantom.cohorts import COHORTS
from mvp_bench.datasets.phantom.subject import make_subject

SPACING = 6.0
QUICK = RegistrationConfig(search_degrees=(0.0,), starts=1, sampling=(0.3, 0.2), iterations=60)
"""A registration that is good enough for small movements, in a second."""
_LPS = np.diag([-1.0, -1, 1, 1])


@cache
def head(dataset: int, index: int = 0) -> dict[str, Nifti1Image]:
    """One subject: modality -> image, and ``label`` (all of it on one grid)."""
    subject = make_subject(COHORTS[dataset], SPACING, seed=3, index=index)
    arrays = {**subject.images, **({"label": subject.labels} if subject.labels is not None else {})}
    return {role: subject.grid.image(array) for role, array in arrays.items()}


def movement(degrees: Sequence[float], shift: Sequence[float]) -> np.ndarray:
    """Rigid transform of RAS world mm: turned about the axes, then shifted."""
    move = np.eye(4)
    move[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    move[:3, 3] = shift
    return move


def moved(
    image: Nifti1Image, move: np.ndarray, edges: Sequence[float] = (5.0, 5.0, 7.0), orientation: str = "LPS"
) -> Nifti1Image:
    """The same head after a movement, scanned again on another grid around its new place.

    Args:
        edges: of a voxel along R, A, S in mm.
    """
    before = nib.as_closest_canonical(image)
    head_there = Nifti1Image(np.asarray(before.dataobj), move @ before.affine)
    shape = np.ceil(np.array(before.shape) * before.header.get_zooms()[:3] / edges).astype(int)
    affine = np.diag([*edges, 1.0])
    affine[:3, 3] = nib.affines.apply_affine(head_there.affine, (np.array(before.shape) - 1) / 2)
    affine[:3, 3] -= np.multiply(edges, (shape - 1) / 2)
    scan = resample_from_to(head_there, (tuple(shape), affine), order=1)
    return scan.as_reoriented(ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(orientation)))


def undone(image: Nifti1Image, move: np.ndarray, onto: Nifti1Image) -> np.ndarray:
    """What linear interpolation gives on a grid if the movement is known; NaN at and beyond the image's border."""
    back = np.linalg.inv(move) @ image.affine

    def on_grid(data: np.ndarray) -> np.ndarray:
        return np.asarray(resample_from_to(Nifti1Image(data, back), (onto.shape, onto.affine), order=1).dataobj)

    inside = on_grid(np.ones(image.shape, np.float32)) > 0.999
    return np.where(inside, on_grid(np.asarray(image.dataobj)), np.nan)


def itk_file(path: Path, move: np.ndarray) -> Path:
    """A movement of RAS points as an ITK file, which moves LPS points."""
    lps = _LPS @ move @ _LPS
    transform = sitk.AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteTransform(transform, str(path))
    return path


def likeness(found: np.ndarray, expected: np.ndarray) -> float:
    """Correlation over the voxels that are known."""
    known = np.isfinite(expected)
    return float(np.corrcoef(np.asarray(found)[known], expected[known])[0, 1])
