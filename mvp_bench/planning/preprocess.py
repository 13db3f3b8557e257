"""Preprocessing: nnU-Net's preprocessor case by case, resumable, with an index that needs no nnU-Net to read."""

from __future__ import annotations

import math
from collections.abc import Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvp_bench.datasets.schema import DatasetBlock
from mvp_bench.edges import writing
from mvp_bench.errors import InputError
from mvp_bench.identity import checksum_file
from mvp_bench.parallel import run_all
from mvp_bench.planning.fingerprint import CaseFiles, read_case
from mvp_bench.planning.properties import write_properties
from mvp_bench.planning.store import ENTRIES, INDEX, PROPERTIES, RANGE_PERCENTILES, REFERENCE, entry_file
from mvp_bench.planning.verify import verify_file
from mvp_bench.progress import log
from mvp_bench.sealed import CHECKSUM, read_sealed, write_sealed

MASK_ENDING = "_seg"
"""Stands behind a case's id in the name of its label map's file, as nnU-Net wants it."""
LEVEL = 5
"""Compression level, as nnU-Net's."""
BLOCK_BYTES = 32 * 1024
"""Size in memory of a block, the smallest piece of a stored case that is decompressed: fits a core's first cache."""


@dataclass(frozen=True)
class PreprocessJob:
    """All a worker needs to preprocess one case."""

    case: str
    files: CaseFiles
    folder: str
    key: str
    """Key of the arrays."""
    plan: dict[str, Any]
    configuration: str
    dataset_json: dict[str, Any]
    """What nnU-Net needs of dataset.json, its labels above all."""


def preprocess_dataset(
    block: DatasetBlock,
    files: dict[str, CaseFiles],
    folder: Path,
    key: str,
    plan: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    pool: Executor,
) -> Path:
    """Preprocess all cases of a dataset for one configuration of its plan; cases already done are kept.

    Args:
        folder: of the arrays; bears their key in its name.
        key: of everything the arrays depend on.

    Returns:
        The folder, with ``<case>.b2nd`` and ``<case>_seg.b2nd`` as nnU-Net has them, ``properties/<case>.msgpack``,
        ``reference/<case>.b2nd`` (segmentation) and, last, ``index/index.json``.
    """
    index_file = folder / INDEX
    if index_file.is_file() and _is_whole(index_file, key):
        return folder
    _refuse_ambiguous(files)
    for name in (f"{ENTRIES}/{{}}", PROPERTIES, REFERENCE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    jobs = [
        PreprocessJob(case, paths, str(folder), key, plan, configuration, dataset_json) for case, paths in files.items()
    ]
    entries = run_all(pool, preprocess_case, jobs, f"preprocess {block.card_name}")
    cases = {}
    for case, entry in zip(files, entries, strict=True):
        record = block.cases[case]
        cases[case] = {
            "patient": record.patient,
            "present": [m for m in block.modalities if record.images.get(m)],
            "class": record.class_name,
            **{name: value for name, value in entry.items() if name not in ("files", "key", CHECKSUM)},
        }
    spacing = plan["configurations"][configuration]["spacing"]
    write_sealed(index_file, {"key": key, "spacing": spacing, "modalities": block.modalities, "cases": cases})
    return folder


def _refuse_ambiguous(files: Collection[str]) -> None:
    for case in files:
        if case.removesuffix(MASK_ENDING) != case and case.removesuffix(MASK_ENDING) in files:
            raise InputError(
                f"case {case}",
                found=f"the name of the file that holds the label map of case {case.removesuffix(MASK_ENDING)}",
                expected=f"no two case ids of which one is the other with {MASK_ENDING} behind it",
                fix="Rename one of them in the release or the table, and prepare the dataset again.",
            )


def _is_whole(index_file: Path, key: str) -> bool:
    """Whether an index is there and right; a damaged one is made anew from the cases' entries."""
    try:
        return bool(read_sealed(index_file, "")["key"] == key)
    except InputError:
        return False


def preprocess_case(job: PreprocessJob) -> dict[str, Any]:
    """Preprocess one case unless that is done and its files are whole; returns its record for the index."""
    folder = Path(job.folder)
    known = _entry_of(job)
    if known is not None:
        return known

    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    manager = PlansManager(job.plan)
    configuration = manager.get_configuration(job.configuration)
    images, label, properties = read_case(job.files)
    data, seg, properties = DefaultPreprocessor(verbose=False).run_case_npy(
        images, label, properties, manager, configuration, job.dataset_json
    )
    for channel, path in enumerate(job.files.images):
        if path is None:
            data[channel] = 0
    data = data.astype(np.float32, copy=False)
    patch = tuple(configuration.patch_size)
    arrays = {f"{job.case}.b2nd": data, f"{job.case}_seg.b2nd": seg.astype(np.int16, copy=False)}
    if label is not None:
        arrays[REFERENCE.format(job.case)] = np.rint(label[0]).astype(np.int16)
    for name, array in arrays.items():
        save_array(folder / name, array, patch)
    write_properties(folder / PROPERTIES.format(job.case), properties)
    names = [*arrays, PROPERTIES.format(job.case)]
    entry = {
        "key": job.key,
        "shape": list(data.shape[1:]),
        "affine": _affine(properties, data.shape[1:]).tolist(),
        "middle": _middle(properties).tolist(),
        "ranges": [_range(channel) for channel in data],
        "files": {name: checksum_file(folder / name) for name in names},
    }
    write_sealed(entry_file(folder, job.case), entry)
    return entry


def _entry_of(job: PreprocessJob) -> dict[str, Any] | None:
    """The record of a case that is done and whose files are what was written; ``None``: it is to be made (again)."""
    folder = Path(job.folder)
    path = entry_file(folder, job.case)
    if not path.is_file():
        return None
    try:
        entry = read_sealed(path, "")
        for name, checksum in entry["files"].items():
            verify_file(folder / name, checksum, "")
    except InputError as error:
        log.warning("%s; the case is preprocessed again", error)
        return None
    return entry if entry["key"] == job.key else None


def save_array(path: Path, array: np.ndarray, patch: tuple[int, ...]) -> None:
    """Write an array (C, z, y, x) or (z, y, x) as nnU-Net does (blosc2, LZ4HC), for fast reading of windows ``patch``.

    Raises:
        MachineError: if the file cannot be written.
    """
    import blosc2

    stored = array if array.ndim == 4 else array[None]
    blocks, chunks = blosc2_layout(stored, patch)
    path.unlink(missing_ok=True)  # left by a killed run
    with writing(path, also=(RuntimeError,)):
        blosc2.asarray(
            np.ascontiguousarray(array),
            urlpath=str(path),
            chunks=chunks[-array.ndim :],
            blocks=blocks[-array.ndim :],
            cparams={"codec": blosc2.Codec.LZ4HC, "clevel": LEVEL, "filters": [blosc2.Filter.SHUFFLE], "nthreads": 1},
        )


def _range(volume: np.ndarray) -> list[float]:
    """Percentiles of an image's brain voxels; 0 and 1 where it has none."""
    brain = volume[volume != 0]
    return [float(v) for v in np.percentile(brain, RANGE_PERCENTILES)] if brain.size else [0.0, 1.0]


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
