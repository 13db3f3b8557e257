"""Preprocessing: nnU-Net's preprocessor case by case, resumable, with an index that needs no nnU-Net to read."""

from __future__ import annotations

import math
import shutil
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvp_bench.datasets.schema import DatasetBlock
from mvp_bench.io import read_json, write_json, write_text
from mvp_bench.parallel import run_all
from mvp_bench.planning.fingerprint import CaseFiles, read_case
from mvp_bench.planning.store import INDEX

BLOCK_BYTES = 32 * 1024
"""Size in memory of a block, the smallest piece of a stored case that is decompressed: fits a core's first cache."""


@dataclass(frozen=True)
class CaseJob:
    """All a worker needs to preprocess one case."""

    case: str
    files: CaseFiles
    folder: str
    plan: str
    """Path of plan.json."""
    configuration: str
    label_spec: dict[str, Any]
    """dataset.json's ``labels`` and ``regions_class_order``."""


def preprocess_dataset(
    block: DatasetBlock,
    files: dict[str, CaseFiles],
    plan_folder: Path,
    configuration: str,
    label_spec: dict[str, Any],
    inputs_hash: str,
    pool: Executor,
) -> Path:
    """Preprocess all cases of a dataset for one configuration of its plan; cases already done are kept.

    Args:
        inputs_hash: of everything the arrays depend on. A folder made from other inputs is emptied first.

    Returns:
        The folder with nnU-Net's ``<case>.b2nd``, ``<case>_seg.b2nd``, ``<case>.pkl`` and, last, ``index/index.json``.
    """
    plan = read_json(plan_folder / "plan.json")
    settings = plan["configurations"][configuration]
    folder = plan_folder / settings["data_identifier"]
    index_file = folder / INDEX
    if index_file.is_file() and read_json(index_file)["hash"] == inputs_hash:
        return folder
    marker = index_file.with_name("inputs")
    if folder.exists() and not (marker.is_file() and marker.read_text() == inputs_hash):
        shutil.rmtree(folder)
    write_text(marker, inputs_hash)
    jobs = [
        CaseJob(case, paths, str(folder), str(plan_folder / "plan.json"), configuration, label_spec)
        for case, paths in files.items()
    ]
    entries = run_all(pool, preprocess_case, jobs, f"preprocess {block.card_name}")
    cases = {}
    for case, entry in zip(files, entries, strict=True):
        record = block.cases[case]
        cases[case] = {
            "patient": record.patient,
            "present": [m for m in block.modalities if record.images.get(m)],
            "class": record.class_name,
            **entry,
        }
    index = {"hash": inputs_hash, "spacing": settings["spacing"], "modalities": block.modalities, "cases": cases}
    write_json(index_file, index)
    return folder


def preprocess_case(job: CaseJob) -> dict[str, Any]:
    """Preprocess one case unless that is done; returns its shape and affine for the index."""
    folder = Path(job.folder)
    entry_file = (folder / INDEX).with_name(f"{job.case}.json")
    if entry_file.is_file():
        return read_json(entry_file)

    import blosc2
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.training.dataloading.nnunet_dataset import nnUNetDatasetBlosc2
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(job.plan)
    configuration = manager.get_configuration(job.configuration)
    images, label, properties = read_case(job.files)
    data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        images, label, properties, manager, configuration, job.label_spec
    )
    for channel, path in enumerate(job.files.images):
        if path is None:
            data[channel] = 0
    data = data.astype(np.float32, copy=False)
    seg = seg.astype(np.int16, copy=False)
    patch = tuple(configuration.patch_size)
    blocks, chunks = blosc2_layout(data, patch)
    blocks_seg, chunks_seg = blosc2_layout(seg, patch)
    target = folder / job.case
    for ending in (".b2nd", "_seg.b2nd", ".pkl"):  # left by a killed run
        Path(f"{target}{ending}").unlink(missing_ok=True)
    nnUNetDatasetBlosc2.save_case(
        data,
        seg,
        properties,
        str(target),
        chunks=chunks,
        blocks=blocks,
        chunks_seg=chunks_seg,
        blocks_seg=blocks_seg,
        filters=[blosc2.Filter.SHUFFLE],
    )
    entry = {
        "shape": list(data.shape[1:]),
        "affine": _affine(properties, data.shape[1:]).tolist(),
        "middle": _middle(properties).tolist(),
    }
    write_json(entry_file, entry)
    return entry


def blosc2_layout(array: np.ndarray, patch: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of blocks and chunks by nnU-Net's rule, with blocks a quarter as large as its default.

    Images are stored to be read fast. A window's blocks are decompressed whole: of a random 96^3 window 1.8 times its
    voxels instead of 2.3 times. And bytes are shuffled by significance always, whereas nnU-Net takes what makes the
    smaller file: on quantised images that is not to shuffle, which takes twice the time to read (real images, 96^3:
    2.7 ms instead of 1.4, files of 0.31 instead of 0.45 of their size in memory).

    Args:
        array: (C, z, y, x), as it will be stored.
        patch: voxels (z, y, x) that are read at once.
    """
    from nnunetv2.training.dataloading.nnunet_dataset import comp_blosc2_params

    return comp_blosc2_params(array.shape, patch, array.itemsize, max_block_nbytes=BLOCK_BYTES)


def _affine(properties: dict[str, Any], shape: tuple[int, ...]) -> np.ndarray:
    """Voxel index (x, y, z) of the preprocessed array -> world (RAS, mm).

    Cropping moves the origin to the box's first voxel. Resampling from n to m voxels aligns the outer faces (as
    ``skimage.transform.resize`` does): old index = (new index + 1/2) n/m - 1/2.
    """
    affine = np.array(properties["nibabel_stuff"]["reoriented_affine"], dtype=np.float64)
    first = [low for low, _ in properties["bbox_used_for_cropping"]][::-1]
    ratio = np.array(properties["shape_after_cropping_and_before_resampling"][::-1]) / np.array(shape[::-1])
    step = np.eye(4)
    step[:3, :3] = np.diag(ratio)
    step[:3, 3] = np.array(first) + ratio / 2 - 0.5
    return affine @ step


def _middle(properties: dict[str, Any]) -> np.ndarray:
    """RAS position (x, y, z) in mm of the middle of the image before it was cropped."""
    affine = np.array(properties["nibabel_stuff"]["reoriented_affine"], dtype=np.float64)
    last = np.array(properties["shape_before_cropping"][::-1], dtype=np.float64) - 1
    return affine[:3, :3] @ (last / 2) + affine[:3, 3]


def same_spacing(a: Any, b: Any) -> bool:
    """Whether two spacings (mm) agree to a hundredth of a millimetre, which no resampling would be worth."""
    return all(math.isclose(x, y, abs_tol=0.01) for x, y in zip(a, b, strict=True))
