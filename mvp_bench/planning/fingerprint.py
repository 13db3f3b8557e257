"""The dataset fingerprint: nnU-Net's, extended by what multi-modal and unlabelled data need.

Shapes and intensities are taken exactly as ``DatasetFingerprintExtractor`` takes them (its own static methods do the
work), spacings from the affine. Added: modality co-occurrence, class counts, cases without a mask (intensities then
come from the non-zero voxels), and no more memory than ``foreground_samples`` voxels per channel.
"""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvp_bench.datasets.geometry.orientation import brought_to
from mvp_bench.datasets.geometry.volumes import Volume, grid_difference, read_volume
from mvp_bench.datasets.schema import Case, DatasetBlock
from mvp_bench.errors import InputError
from mvp_bench.parallel import run_all

AGAIN = "Prepare the dataset again: its files were changed."
PERCENTILES = (0.5, 50.0, 99.5)


@dataclass(frozen=True)
class CaseFiles:
    """Absolute paths of one case, in channel order; ``None`` for what it lacks."""

    images: tuple[str | None, ...]
    label: str | None


def read_case(files: CaseFiles) -> tuple[np.ndarray, np.ndarray | None, dict[str, Any]]:
    """Read a case as nnU-Net's ``NibabelIOWithReorient`` does, but with the spacing of the affine: that reader takes
    it from another field of the header, which may say something else.

    Returns:
        images: float32 (channel, z, y, x) in RAS, zeros for a missing modality.
        label: float32 (1, z, y, x), or None.
        properties: nnU-Net's (``spacing`` in mm as z, y, x, and the affines).

    Raises:
        InputError: if a file cannot be read, or the files' grids differ.
    """
    volumes = {index: read_volume(Path(path)) for index, path in enumerate(files.images) if path}
    first, *others = volumes.values()
    label = read_volume(Path(files.label)) if files.label else None
    for other in [*others, *([label] if label else [])]:
        if difference := grid_difference(other.grid, first.grid):
            where = next(path for path in files.images if path)
            raise InputError(f"the case of {where}", found=difference, expected="one grid for all files", fix=AGAIN)
    images = np.zeros((len(files.images), *_ras(first)[0].shape), dtype=np.float32)
    for index, volume in volumes.items():
        images[index] = _ras(volume)[0]
    affine = _ras(first)[1]
    properties = {
        "nibabel_stuff": {"original_affine": first.grid.affine, "reoriented_affine": affine},
        "spacing": [float(edge) for edge in np.linalg.norm(affine[:3, :3], axis=0)[::-1]],
    }
    mask = None if label is None else np.array(_ras(label)[0], dtype=np.float32)[None]
    return images, mask, properties


def _ras(volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (z, y, x) with axes along inferior-superior, posterior-anterior, left-right; and the affine (x, y, z)."""
    turned = brought_to(volume.data, volume.grid, "RAS")
    return turned[0].T, turned[1].affine


def analyse_case(job: tuple[CaseFiles, int]) -> dict[str, Any]:
    """Shape, spacing and sampled foreground intensities of one case."""
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero

    files, samples = job
    images, label, properties = read_case(files)
    cropped, mask, _ = crop_to_nonzero(images, label)
    if label is None:
        mask = (mask >= 0).astype(np.int8)
    intensities, _ = DatasetFingerprintExtractor.collect_foreground_intensities(mask, cropped, num_samples=samples)
    for index, path in enumerate(files.images):
        if path is None:
            intensities[index] = np.empty(0, dtype=np.float32)
    return {
        "shape": cropped.shape[1:],
        "spacing": properties["spacing"],
        "relative_size": float(np.prod(cropped.shape[1:]) / np.prod(images.shape[1:])),
        "intensities": intensities,
    }


def fingerprint(block: DatasetBlock, files: dict[str, CaseFiles], samples: int, pool: Executor) -> dict[str, Any]:
    """Fingerprint of a prepared dataset.

    Args:
        block: the dataset's block.
        files: its cases' files.
        samples: foreground voxels in all from which intensity statistics are taken (nnU-Net: 1e8).
        pool: where cases are read.
    """
    per_case = int(samples // len(files))
    results = run_all(pool, analyse_case, [(f, per_case) for f in files.values()], f"fingerprint {block.card_name}")
    intensities = {}
    for channel in range(len(block.modalities)):
        values = np.concatenate([np.asarray(r["intensities"][channel], dtype=np.float32) for r in results])
        if not len(values):
            raise InputError(
                f"{block.card_name}: modality {block.modalities[channel]}",
                found="no case that has it (with a labelled voxel)",
                expected="at least one",
                fix="Take it off the card's modalities, or add the files.",
            )
        intensities[str(channel)] = _statistics(values)
    return {
        "spacings": [list(map(float, r["spacing"])) for r in results],
        "shapes_after_crop": [list(map(int, r["shape"])) for r in results],
        "foreground_intensity_properties_per_channel": intensities,
        "median_relative_size_after_cropping": float(np.median([r["relative_size"] for r in results])),
        "mvp_bench": {
            "cases": list(files),
            "modality_cooccurrence": _cooccurrence(list(block.cases.values()), list(block.modalities)),
            "class_counts": dict(sorted(Counter(c.class_name for c in block.cases.values() if c.class_name).items())),
            "cases_with_mask": sum(c.label is not None for c in block.cases.values()),
            "foreground_samples": samples,
        },
    }


def _statistics(values: np.ndarray) -> dict[str, float]:
    low, median, high = np.percentile(values, PERCENTILES)
    return {
        "mean": float(np.mean(values)),
        "median": float(median),
        "std": float(np.std(values)),
        "min": float(np.min(values)),
        "max": float(np.max(values)),
        "percentile_99_5": float(high),
        "percentile_00_5": float(low),
    }


def _cooccurrence(cases: list[Case], modalities: list[str]) -> dict[str, dict[str, int]]:
    """Number of cases that have both modalities; the diagonal counts each one."""
    return {
        a: {b: sum(bool(c.images.get(a) and c.images.get(b)) for c in cases) for b in modalities}  # type: ignore[call-overload]
        for a in modalities
    }
