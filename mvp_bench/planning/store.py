"""Preprocessed cases, read by patch: blosc2 arrays as nnU-Net writes them, beside an index that needs no unpickling."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvp_bench.errors import InputError
from mvp_bench.io import read_json

Size = tuple[int, int, int]
INDEX = Path("index", "index.json")  # in a folder of its own: nnU-Net wants nothing but arrays beside the arrays
MOST_OPEN = 128
"""Files held open at once: each takes a mapping and some memory, and systems allow about a thousand."""


@dataclass(frozen=True)
class CaseInfo:
    """What is known about a preprocessed case without reading its voxels."""

    case: str
    patient: str
    present: tuple[str, ...]
    """Modalities the case has."""
    shape: Size
    """Voxels (z, y, x)."""
    affine: np.ndarray
    """4 x 4, voxel index (x, y, z) -> RAS world position in mm."""
    class_name: str | None
    middle: np.ndarray | None = None
    """RAS position (x, y, z) in mm of the middle of the image before it was cropped; ``None``: not known."""


class CaseStore:
    """Read-only view of a folder of preprocessed cases.

    Arrays are (channel, z, y, x), z-scored inside the brain, 0 outside; a missing modality is all zeros. The index
    and the files are opened on first use and do not travel, so that the object is cheap to send to worker processes.

    Raises:
        InputError: if the folder has no index, i.e. preprocessing has not finished.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        if not (self.folder / INDEX).is_file():
            raise InputError(
                self.folder,
                found=f"no {INDEX}",
                expected="a folder of preprocessed cases",
                fix="Run mvp_plan for the dataset first.",
            )
        self._known: dict[str, Any] | None = None
        self._open: OrderedDict[str, Any] = OrderedDict()

    @property
    def _index(self) -> dict[str, Any]:
        if self._known is None:
            self._known = read_json(self.folder / INDEX)
        return self._known

    def forget(self) -> None:
        """Free the index (some kilobytes a case); it is read again when it is asked for. ``read`` does not need it."""
        self._known = None

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel edges (z, y, x) in mm."""
        return tuple(self._index["spacing"])

    @property
    def modalities(self) -> list[str]:
        """Modality of each channel."""
        return list(self._index["modalities"])

    @property
    def cases(self) -> list[str]:
        """Case ids, sorted."""
        return sorted(self._index["cases"])

    @property
    def hash(self) -> str:
        """Changes with the data, the plan and the preprocessing."""
        return str(self._index["hash"])

    def info(self, case: str) -> CaseInfo:
        entry = self._index["cases"][case]
        return CaseInfo(
            case=case,
            patient=entry["patient"],
            present=tuple(entry["present"]),
            shape=tuple(entry["shape"]),
            affine=np.asarray(entry["affine"], dtype=np.float64),
            class_name=entry["class"],
            middle=np.asarray(entry["middle"], dtype=np.float64) if "middle" in entry else None,
        )

    def read(self, case: str, channels: Sequence[int], start: Size, size: Size) -> np.ndarray:
        """A window of some channels: float32 (len(channels), *size), 0 where it leaves the volume.

        Args:
            start: first voxel (z, y, x) of the window; may be negative.
            size: voxels (z, y, x) of the window.
        """
        array = self._array(case, "")
        window = np.zeros((len(channels), *size), dtype=np.float32)
        source, target = _overlap(array.shape[1:], start, size)
        if source is not None:
            for position, channel in enumerate(channels):
                window[position][target] = array[tuple([channel, *source])]
        return window

    def read_seg(self, case: str, start: Size, size: Size) -> np.ndarray:
        """The same window of the label map: int16 of shape ``size``, -1 outside the volume (and outside the brain)."""
        array = self._array(case, "_seg")
        window = np.full(size, -1, dtype=np.int16)
        source, target = _overlap(array.shape[1:], start, size)
        if source is not None:
            window[target] = array[tuple([0, *source])]
        return window

    def _array(self, case: str, suffix: str) -> Any:
        import blosc2

        key = case + suffix
        if key in self._open:
            self._open.move_to_end(key)
        else:
            if len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)
            self._open[key] = blosc2.open(
                urlpath=str(self.folder / f"{key}.b2nd"), mode="r", dparams={"nthreads": 1}, mmap_mode="r"
            )
        return self._open[key]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None, "_open": OrderedDict()}


def _overlap(shape: Sequence[int], start: Size, size: Size) -> tuple[tuple[slice, ...] | None, tuple[slice, ...]]:
    """Slices of the volume and of the window where the two meet; ``None`` where they do not."""
    source, target = [], []
    for length, first, extent in zip(shape, start, size, strict=True):
        low, high = max(first, 0), min(first + extent, length)
        if low >= high:
            return None, ()
        source.append(slice(low, high))
        target.append(slice(low - first, high - first))
    return tuple(source), tuple(target)
