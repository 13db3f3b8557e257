"""Near-duplicate cases, left out of pre-training: redundant data slow it down and can make it worse.

After Wolf et al., "Less is More: Selective reduction of CT data for self-supervised pre-training of deep learning
models with contrastive learning improves downstream classification performance" (2024): images are hashed to 64 bits by
differences of neighbours; the first that is left is an exemplar, and what lies within a Hamming distance of it (6, as
published) is dropped. There, the images are the slices of a CT volume; here they are the volumes of a dataset.

The hash is that of a low-resolution volume, not of a slice, and is read from the preprocessed store: the brain's box is
averaged to 5 x 4 x 4 cells, over brain voxels only, and neighbours along z are compared. Neither position and size of
the brain nor gain and offset of the intensities matter. (:mod:`mvp_bench.datasets.geometry.perceptual` answers another
question, whether two scans are of one person: it registers scans to a template, is a hundred times slower, and its
2048 bits are meant to differ between people.) Measured on images of six real patients: different ones 15 to 31 bits
apart, one image with noise, shifted by half a voxel or resampled to 3/4 of its resolution 2 on average and 12 at most.
Phantoms are drawn from one template: different ones are 4 bits apart and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mvp_bench.errors import InputError
from mvp_bench.parallel import run_all
from mvp_bench.planning.store import INDEX
from mvp_bench.pretraining.source import PretrainSource, Size, StoreLike
from mvp_bench.progress import log
from mvp_bench.sealed import read_sealed, write_sealed

CELLS = (5, 4, 4)
"""Along (z, y, x)."""
HASH_BITS = (CELLS[0] - 1) * CELLS[1] * CELLS[2]
"""64."""
HASHES_FILE = "difference_hashes.json"
"""Beside the store's index: hashes are computed once."""
_POPCOUNT = np.array([number.bit_count() for number in range(256)], np.uint8)

Hashes = Mapping[str, str]
"""Modality -> hash, of one case."""


def check_threshold(threshold: int) -> None:
    """Refuse a distance that is none.

    Raises:
        InputError: if it is not in 0..64.
    """
    if not 0 <= threshold <= HASH_BITS:
        raise InputError(
            "--deduplicate",
            found=threshold,
            expected=f"a number of differing bits from 0 (equal hashes only) to {HASH_BITS} (one case is left)",
        )


def difference_hash(volume: np.ndarray) -> str:
    """16 hexadecimal digits: whether the cells' means rise from one to the next along z.

    Args:
        volume: (z, y, x), background 0.

    Returns:
        The hash; empty if the brain is smaller than the cells are many (or absent).
    """
    brain = volume != 0
    inside = [np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis}))) for axis in range(3)]
    if any(len(i) == 0 or i[-1] - i[0] + 1 < cells for i, cells in zip(inside, CELLS, strict=True)):
        return ""
    box = tuple(slice(i[0], i[-1] + 1) for i in inside)
    total, count = volume[box], brain[box]
    for axis, cells in enumerate(CELLS):
        edges = np.linspace(0, total.shape[axis], cells, endpoint=False).round().astype(int)
        total = np.add.reduceat(total, edges, axis=axis, dtype=np.float64)
        count = np.add.reduceat(count, edges, axis=axis, dtype=np.int64)
    rising = np.diff(total / np.maximum(count, 1), axis=0) > 0
    return np.packbits(rising).tobytes().hex()


def near_duplicates(cases: Sequence[Hashes], threshold: int) -> dict[int, int]:
    """Which cases are redundant: place in the list -> place of its exemplar, the first that it resembles.

    A case resembles an earlier one that has all of its modalities, each with a hash that differs in at most
    ``threshold`` bits: no modality is lost. An image without a hash resembles none. Which case stays depends on the
    order, that one stays does not.

    Raises:
        InputError: from :func:`check_threshold`.
    """
    check_threshold(threshold)
    modalities = sorted({modality for case in cases for modality in case})
    shape = (len(cases), len(modalities))
    has = np.array([modality in case for case in cases for modality in modalities], bool).reshape(shape)
    known = np.array([bool(case.get(m)) for case in cases for m in modalities], bool).reshape(shape)
    nothing = "0" * (HASH_BITS // 4)
    text = "".join(case.get(modality) or nothing for case in cases for modality in modalities)
    bits = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(*shape, HASH_BITS // 8)
    candidates = (has == known).all(axis=1) & has.any(axis=1)
    found: dict[int, int] = {}
    left = np.arange(len(cases))
    while len(left) > 1:
        exemplar, left = int(left[0]), left[1:]
        distance = _POPCOUNT[bits[left] ^ bits[exemplar]].sum(axis=2, dtype=np.int64)
        within = ~has[left] | (known[exemplar] & (distance <= threshold))
        twin = within.all(axis=1) & candidates[left]
        found.update({int(place): exemplar for place in left[twin]})
        left = left[~twin]
    return dict(sorted(found.items()))


def without_duplicates(source: PretrainSource, threshold: int, pool: Executor) -> PretrainSource:
    """The source with ``duplicates`` filled in, found among the cases of patients that are not excluded.

    Args:
        source: one dataset; others are not compared with it.
        threshold: of the Hamming distance, 0 to 64.
        pool: for hashes that are not known yet.

    Raises:
        InputError: for a threshold out of range, or a damaged file.
    """
    check_threshold(threshold)
    cases = source.included()
    hashes = hashes_of(source, cases, pool)
    found = near_duplicates([hashes[case] for case in cases], threshold)
    for place, exemplar in found.items():
        log.debug("%s: %s is left out, near-duplicate of %s", source.dataset, cases[place], cases[exemplar])
    return replace(source, duplicates={cases[place]: cases[exemplar] for place, exemplar in found.items()})


@dataclass(frozen=True)
class HashJob:
    """All a worker needs to hash one case."""

    dataset: str
    store: StoreLike
    case: str
    channels: Mapping[str, int]
    """Modality -> channel of the store."""
    shape: Size


def hashes_of(source: PretrainSource, cases: Sequence[str], pool: Executor) -> dict[str, Hashes]:
    """The hashes of the cases' images; kept beside the store's index, if it has a folder."""
    store = source.store
    folder: Path | None = getattr(store, "folder", None)
    file = (folder / INDEX).with_name(HASHES_FILE) if folder else None
    known: dict[str, Hashes] = {}
    if file is not None and file.is_file():
        known = _kept(file, source.data_hash)
    order = {modality: channel for channel, modality in enumerate(store.modalities)}
    jobs = []
    for case in cases:
        if case not in known:
            info = store.info(case)
            channels = {modality: order[modality] for modality in info.present}
            jobs.append(HashJob(source.dataset, store, case, channels, info.shape))
    if jobs:
        made = run_all(pool, hash_case, jobs, f"hash {source.dataset}")
        known = {**known, **{job.case: hashes for job, hashes in zip(jobs, made, strict=True)}}
        if file is not None:
            write_sealed(file, {"data": source.data_hash, "cases": known})
    return {case: known[case] for case in cases}


def _kept(file: Path, key: str) -> dict[str, Hashes]:
    """The hashes that were kept of the arrays with this key; none where the file is damaged: they are taken again."""
    try:
        content = read_sealed(file, "they are taken again")
    except InputError as error:
        log.warning("%s", error)
        return {}
    return dict(content["cases"]) if content.get("data") == key else {}


def hash_case(job: HashJob) -> dict[str, str]:
    """The hash of each image of a case. For worker processes.

    Raises:
        InputError: if the case's file is damaged.
    """
    try:
        return {
            modality: difference_hash(job.store.read(job.case, [channel], (0, 0, 0), job.shape)[0])
            for modality, channel in job.channels.items()
        }
    except (OSError, RuntimeError, ValueError) as error:  # what blosc2 raises on absent and damaged files
        raise InputError(
            f"{job.dataset}/{job.case}",
            found=f"its preprocessed images cannot be read ({type(error).__name__}: {error})",
            expected="a whole file, as mvp_plan wrote it",
            fix="Delete the dataset's folder of preprocessed cases and start the same command again.",
        ) from error
