"""ISLES 2022 in its four trees; patients are numbers, sessions are 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image

DWI_GRID = np.array([[-2.0, 0, 0, 7], [0, 2, 0, -8], [0, 0, 2, 3], [0, 0, 0, 1]])
FLAIR_GRID = np.array([[0, 0, 4.8, -30], [-0.9, 0, 0, 20], [0, -0.9, 0, 15], [0, 0, 0, 1]])
SHAPE = (8, 9, 10)
UNITS = {"mm2/s": 1e-6, "1e-3 mm2/s": 1e-3, "1e-6 mm2/s": 1.0}
"""Unit of an ADC map -> what 1e-6 mm2/s are in it."""
TREES = {
    "zenodo": {
        "dwi": "ISLES-2022/{sub}/{ses}/dwi/{sub}_{ses}_dwi",
        "adc": "ISLES-2022/{sub}/{ses}/dwi/{sub}_{ses}_adc",
        "flair": "ISLES-2022/{sub}/{ses}/anat/{sub}_{ses}_FLAIR",
        "label": "ISLES-2022/derivatives/{sub}/{ses}/{sub}_{ses}_msk",
    },
    "grand-challenge": {
        "dwi": "dataset/rawdata/{sub}/{ses}/{sub}_{ses}_dwi",
        "adc": "dataset/rawdata/{sub}/{ses}/{sub}_{ses}_adc",
        "flair": "dataset/rawdata/{sub}/{ses}/{sub}_{ses}_flair",
        "label": "dataset/derivatives/{sub}/{ses}/{sub}_{ses}_msk",
    },
    "renamed": {
        "dwi": "ISLES-2022/images/{sub}/{ses}/dwi/{sub}_{ses}_dwi",
        "adc": "ISLES-2022/images/{sub}/{ses}/dwi/{sub}_{ses}_adc",
        "flair": "ISLES-2022/images/{sub}/{ses}/anat/{sub}_{ses}_FLAIR",
        "label": "ISLES-2022/labels_derivatives/{sub}/{ses}/{sub}_{ses}_msk",
    },
    "flat": {
        role: "isles2022/{sub}_{ses}/{sub}_{ses}_" + name
        for role, name in (("dwi", "dwi"), ("adc", "adc"), ("flair", "FLAIR"), ("label", "msk"))
    },
}
"""Tree -> role -> path without ending."""


def small_case(number: int, unit: str = "1e-6 mm2/s", empty: bool = False) -> dict[str, Nifti1Image]:
    """A brain of 8 x 9 x 10 voxels, and FLAIR with fewer, thicker and turned slices."""
    rng = np.random.default_rng(number)
    brain = np.zeros(SHAPE)
    brain[1:-1, 1:-1, 1:-1] = 1
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[3:5, 3:6, 4:6] = not empty
    return {
        "dwi": Nifti1Image((brain * rng.uniform(100, 300, SHAPE)).astype(np.float32), DWI_GRID),
        "adc": Nifti1Image((brain * rng.uniform(600, 1200, SHAPE) * UNITS[unit]).astype(np.float32), DWI_GRID),
        "flair": Nifti1Image(rng.uniform(50, 90, (30, 28, 5)).astype(np.float32), FLAIR_GRID),
        "label": Nifti1Image(lesion, DWI_GRID),
    }


def isles(root: Path, tree: str, cases: Mapping[int, Mapping[str, Nifti1Image]], ending: str = ".nii.gz") -> Path:
    """Write the cases as one of the TREES, with what lies beside them; returns the folder to point at."""
    for number, images in cases.items():
        sub, ses = f"sub-strokecase{number:04d}", "ses-0001"
        for role, image in images.items():
            path = root / (TREES[tree][role].format(sub=sub, ses=ses) + ending)
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, path)
            if tree == "zenodo" and role != "label":
                path.with_name(path.name.replace(ending, ".json")).write_text("{}")
            elif tree == "zenodo":
                path.with_name(path.name.replace(ending, "_snp.png")).write_bytes(b"\x89PNG")
    top = root / next(iter(TREES[tree].values())).split("/")[0]
    (top / "participants.tsv").write_text("participant_id\tage\n")
    (top / "LICENSE").write_text("CC")
    return top
