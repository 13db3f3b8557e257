"""IXI in the ways its four archives get unpacked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel import Nifti1Image

NAMES = {"t1": "T1", "t2": "T2", "pd": "PD", "mra": "MRA"}
TREES = {
    "archives": "IXI-{name}/{case}-{name}",
    "short": "{name}/{case}-{name}",
    "flat": "{case}-{name}",
    "subjects": "{case}/{case}-{name}",
    "xnat": "{subject}_{site}/{name}/NIfTI/{case}-{name}",
}
"""Tree -> path without ending."""
GRIDS = {
    "t1": (np.array([[0, 0, 1.2, -5], [-0.9, 0, 0, 6], [0, -0.9, 0, 7], [0, 0, 0, 1]]), (9, 8, 6)),
    "t2": (np.array([[-0.9, 0, 0, 5], [0, 0.9, 0, -5], [0, 0, 1.3, -4], [0, 0, 0, 1]]), (10, 9, 7)),
    "pd": (np.array([[-0.9, 0, 0, 5], [0, 0.9, 0, -5], [0, 0, 1.3, -4], [0, 0, 0, 1]]), (10, 9, 7)),
    "mra": (np.array([[-0.5, 0, 0, 4], [0, -0.5, 0, 4], [0, 0, 0.8, -1], [0, 0, 0, 1]]), (16, 17, 5)),
}
"""Modality -> affine and shape: three grids and orientations, as in the release."""


def small_subject(seed: int, modalities: str = "t1 t2 pd mra") -> dict[str, Nifti1Image]:
    """Noise on the grids of GRIDS."""
    rng = np.random.default_rng(seed)
    return {
        modality: Nifti1Image(rng.uniform(1, 100, shape).astype(np.float32), affine)
        for modality, (affine, shape) in GRIDS.items()
        if modality in modalities.split()
    }


def ixi(root: Path, tree: str, subjects: Mapping[str, Mapping[str, Nifti1Image]]) -> Path:
    """Write subjects (``IXI002-Guys-0828`` -> images) as one of the TREES, each with a diffusion direction and a table
    that lists everybody twice; returns the folder to point at."""
    rng = np.random.default_rng(0)
    for case, images in subjects.items():
        subject, site, _ = case.split("-")
        named = {NAMES[modality]: image for modality, image in images.items()}
        named["DTI-00"] = Nifti1Image(rng.uniform(1, 9, (4, 4, 4)).astype(np.float32), np.eye(4))
        for name, image in named.items():
            path = root / "ixi" / (TREES[tree].format(name=name, case=case, subject=subject, site=site) + ".nii.gz")
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(image, path)
    (root / "ixi" / "IXI.xls").write_text("IXI_ID\n" + "".join(f"{case}\n{case}\n" for case in subjects))
    return root / "ixi"
