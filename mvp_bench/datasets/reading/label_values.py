"""Which label values the masks of a whole release hold: one mask alone cannot tell a label convention."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mvp_bench.datasets.geometry.derive import Reader
from mvp_bench.datasets.geometry.volumes import read_volume
from mvp_bench.errors import InputError

THREADS = min(4, os.cpu_count() or 1)
"""Masks read at a time; decompression and comparison run outside Python's lock."""


def held_values(masks: Sequence[Path], readers: Mapping[Path, Reader] | None = None) -> dict[Path, frozenset[int]]:
    """Mask -> the label values in it, background left out and rounded; every mask is read to its end.

    Masks that cannot be read are absent: a faulty file is found, with all others, by the check of the cases.

    Args:
        readers: of masks that are no plain NIfTI files.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        held = list(pool.map(lambda path: _held(path, (readers or {}).get(path, read_volume)), masks))
    return {path: values for path, values in zip(masks, held, strict=True) if values is not None}


def _held(path: Path, read: Reader) -> frozenset[int] | None:
    try:
        data = read(path).data
    except InputError:
        return None
    labelled = data[data > 0.5]  # few voxels: sorting all of them would take ten times as long
    return frozenset(np.unique(np.rint(labelled[np.isfinite(labelled)])).astype(int).tolist())
