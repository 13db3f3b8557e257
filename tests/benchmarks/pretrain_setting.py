"""What the benchmark of a pre-training step measures, and the cases it makes for that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
from scipy.ndimage import gaussian_filter

from mvp_bench.config.groups import PretrainConfig, RuntimeConfig
from mvp_bench.identity import checksum_file
from mvp_bench.planning.preprocess import save_array
from mvp_bench.planning.store import INDEX, entry_file
from mvp_bench.pretraining.methods.brainmvp import BrainMvpOptions
from mvp_bench.sealed import write_sealed

MODALITIES = ("flair", "t1", "t1c", "t2", "mra", "pd", "dwi", "adc")
"""One template each."""
PRESENT = MODALITIES[:4]
"""Of every case."""
SEED = 0
WARM_UP = 1
"""Steps that are not timed."""


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    encoder: str
    patch: int
    batch: int
    steps: int
    volume: tuple[int, int, int]
    """Voxels (x, y, z) of the images and of the templates."""
    runtime: RuntimeConfig
    """Of ours; the naive loop takes its threads only."""

    @property
    def all_steps(self) -> int:
        """With those that are not timed."""
        return WARM_UP + self.steps

    def config(self) -> PretrainConfig:
        """The training loop, that of the preset in so few steps."""
        loop = {k: v for k, v in BrainMvpOptions.loops()["paper"].items() if k not in ("encoder", "spacing")}
        size = {"steps": self.all_steps, "batch_size": self.batch, "patch_size": (self.patch,) * 3}
        return PretrainConfig(**{**loop, **size, "method": "brainmvp", "loaders": 0})

    def options(self) -> BrainMvpOptions:
        """The preset's losses, every one on."""
        paper = BrainMvpOptions.presets()["paper"]
        x, y, z = self.volume
        return replace(paper, target="sample", cross_modal_start=0.0, contrastive_start=0.0, template_shape=(z, y, x))


def noise_in_a_ball(volume: tuple[int, int, int], number: int) -> tuple[np.ndarray, np.ndarray]:
    """Images int16 (modality, x, y, z), 0 outside a ball that is not in the middle, and the ball's box (3, 2)."""
    rng = np.random.default_rng([SEED, number])
    radius = 0.47 * min(volume)
    middle = [n / 2 + rng.integers(-1, 2) for n in volume]
    ball = sum((a - m) ** 2 for a, m in zip(np.ogrid[tuple(map(slice, volume))], middle, strict=True)) < radius**2
    images = np.zeros((len(PRESENT), *volume), np.int16)
    for image in images:
        smooth = gaussian_filter(rng.standard_normal(volume, dtype=np.float32), 1.5, truncate=2.0)
        image[ball] = (1000 + 200 * smooth[ball] / smooth.std() + 20 * rng.standard_normal(ball.sum())).clip(1, 3000)
    return images, content_box(ball)


def content_box(inside: np.ndarray) -> np.ndarray:
    """First voxel of the content and the one after the last, per axis: (3, 2)."""
    found = [np.flatnonzero(inside.any(axis=tuple(b for b in range(3) if b != a)))[[0, -1]] for a in range(3)]
    return np.array(found) + np.array([0, 1])


def write_cases(folder: Path, setting: Setting) -> None:
    """``nifti/<case>/<modality>.nii.gz``, and the store that nnU-Net's preprocessing would make of them."""
    entries = {}
    for number in range(setting.batch):
        case = f"case{number:03d}"
        images, box = noise_in_a_ball(setting.volume, number)
        for modality, image in zip(PRESENT, images, strict=True):
            path = folder / "nifti" / case / f"{modality}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(image, np.eye(4)), path)
        cut = images[(slice(None), *(slice(low, high) for low, high in box))].transpose(0, 3, 2, 1).astype(np.float32)
        brain = cut > 0
        data = np.zeros((len(MODALITIES), *cut.shape[1:]), np.float32)
        for channel, (image, mask) in enumerate(zip(cut, brain, strict=True)):
            data[channel][mask] = (image[mask] - image[mask].mean()) / image[mask].std()
        store, name = folder / "store", f"{case}.b2nd"
        store.mkdir(parents=True, exist_ok=True)
        save_array(store / name, data, (setting.patch,) * 3)
        write_sealed(entry_file(store, case), {"key": "", "files": {name: checksum_file(store / name)}})
        affine = np.eye(4)
        affine[:3, 3] = box[:, 0]
        entries[case] = {
            "patient": case,
            "present": PRESENT,
            "shape": cut.shape[1:],
            "affine": affine.tolist(),
            "class": None,
        }
    index = {"spacing": [1.0, 1.0, 1.0], "modalities": MODALITIES, "cases": entries, "key": ""}
    write_sealed(folder / "store" / INDEX, index)
