"""MRBrainS13: training and test folders that both count from 1."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel import Nifti1Image

GRID = np.array([[-0.958, 0, 0, 4], [0, 0.958, 0, -5], [0, 0, 3.0, -9], [0, 0, 0, 1]])
SHAPE = (8, 9, 10)
FOLDERS = ("TrainingData/1", "TrainingData/2", "TestData/1", "TestData/15")


def labels(values: int) -> np.ndarray:
    """Four voxels of every value from 1 to ``values``."""
    data = np.zeros(SHAPE, np.uint8)
    for value in range(1, values + 1):
        data[value % 8, 2:4, 2:4] = value
    return data


def mrbrains13(
    root: Path,
    top: str = "MRBrainS13DataNii",
    ending: str = ".nii",
    testing_labels: tuple[str, ...] = FOLDERS[:2],
    training_labels: tuple[str, ...] = FOLDERS[:2],
) -> Path:
    """Write the four FOLDERS below ``top``; returns the folder to point at."""
    for number, folder in enumerate(FOLDERS):
        rng = np.random.default_rng(number)
        for name in ("T1", "T1_IR", "T2_FLAIR"):
            _save(root / top / folder / f"{name}{ending}", rng.uniform(1, 900, SHAPE).astype(np.float32), GRID)
        _save(root / top / folder / f"T1_1mm{ending}", rng.uniform(1, 9, (9, 9, 30)).astype(np.float32), np.eye(4))
        if folder in training_labels:
            _save(root / top / folder / f"LabelsForTraining{ending}", labels(8), GRID)
        if folder in testing_labels:
            _save(root / top / folder / f"LabelsForTesting{ending}", labels(3), GRID)
    return root / top


def _save(path: Path, data: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".mhd":
        nib.save(Nifti1Image(data, affine), path)
        return
    image = sitk.GetImageFromArray(data.T)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    image.SetSpacing(edges.tolist())
    image.SetDirection((np.diag([-1, -1, 1]) @ affine[:3, :3] / edges).ravel().tolist())
    image.SetOrigin((affine[:3, 3] * (-1, -1, 1)).tolist())
    sitk.WriteImage(image, str(path))  # with a .raw file beside it
