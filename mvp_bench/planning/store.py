"""Preprocessed cases, read by patch: blosc2 arrays as nnU-Net writes them, beside an index with their checksums.

A folder of arrays bears its key in its name and is never changed once its index is there. Every file is compared with
its checksum when it is first opened.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mvp_bench.errors import InputError
from mvp_bench.identity import SHORT
from mvp_bench.planning.properties import read_properties
from mvp_bench.planning.verify import verify_file
from mvp_bench.sealed import read_sealed

Size = tuple[int, int, int]
INDEX = Path("index", "index.json")
"""File of the index, in a folder of its own: nnU-Net wants nothing but arrays beside the arrays."""
PROPERTIES, REFERENCE = "properties/{}.msgpack", "reference/{}.b2nd"
"""nnU-Net's properties of a case, and its mask on the source's grid in RAS, which predictions are compared with."""
ENTRIES = "entries"
"""Folder of the cases' records."""
RANGE_PERCENTILES = (5.0, 95.0)
"""Percentiles of an image's brain voxels: the intensities that become 0 and 1 where methods want unit intensities."""
AGAIN = "Delete the folder and start the same command again: it is made anew."
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
    ranges: np.ndarray | None = None
    """float64 (channels, 2): :data:`RANGE_PERCENTILES` of each channel's brain voxels; ``None``: not known."""


class CaseStore:
    """Read-only view of a folder of preprocessed cases.

    Arrays are (channel, z, y, x), z-scored inside the brain, 0 outside; a missing modality is all zeros. The index
    and the files are opened on first use and do not travel, so that the object is cheap to send to worker processes.

    Args:
        folder: of the arrays.
        key: that the arrays must have; empty: any, as long as the folder bears it.

    Raises:
        InputError: if the folder has no index, i.e. preprocessing has not finished; later, when they are first read, if
            index or files are not what was written.
    """

    def __init__(self, folder: Path, key: str = "") -> None:
        self.folder = Path(folder)
        self._expected = key
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
            path = self.folder / INDEX
            content = read_sealed(path, AGAIN)
            key = str(content.get("key"))
            if (self._expected and key != self._expected) or not self.folder.name.endswith(key[:SHORT]):
                wanted = self._expected or f"...{self.folder.name[-SHORT:]}"
                raise InputError(path, found=f"arrays with the key {key[:SHORT]}", expected=wanted, fix=AGAIN)
            self._known = content
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
    def key(self) -> str:
        """Changes with the data, the spacing and the preprocessing."""
        return str(self._index["key"])

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
            ranges=np.asarray(entry["ranges"], dtype=np.float64) if "ranges" in entry else None,
        )

    def read(self, case: str, channels: Sequence[int], start: Size, size: Size) -> np.ndarray:
        """A window of some channels: float32 (len(channels), *size), 0 where it leaves the volume.

        Args:
            start: first voxel (z, y, x) of the window; may be negative.
            size: voxels (z, y, x) of the window.
        """
        array = self.array(case)
        window = np.zeros((len(channels), *size), dtype=np.float32)
        source, target = _overlap(array.shape[1:], start, size)
        if source is not None:
            for position, channel in enumerate(channels):
                window[position][target] = array[tuple([channel, *source])]
        return window

    def read_seg(self, case: str, start: Size, size: Size) -> np.ndarray:
        """The same window of the label map: int16 of shape ``size``, -1 outside the volume (and outside the brain)."""
        array = self.array(case, "_seg")
        window = np.full(size, -1, dtype=np.int16)
        source, target = _overlap(array.shape[1:], start, size)
        if source is not None:
            window[target] = array[tuple([0, *source])]
        return window

    def array(self, case: str, ending: str = "") -> Any:
        """The stored images (ending "") or label map ("_seg") of a case, (channel, z, y, x), read piece by piece.

        Raises:
            InputError: if the file is not what was written.
        """
        return self._opened(case, f"{case}{ending}.b2nd")

    def reference(self, case: str) -> np.ndarray:
        """The prepared mask of a case on its source's grid in RAS, (z, y, x), whole numbers.

        Raises:
            InputError: if the file is not what was written.
        """
        return np.asarray(self._opened(case, REFERENCE.format(case))[:])

    def properties(self, case: str) -> dict[str, Any]:
        """nnU-Net's properties of a case, as preprocessing left them.

        Raises:
            InputError: if the file is not what was written.
        """
        name = PROPERTIES.format(case)
        self._verify(case, name)
        return read_properties(self.folder / name)

    def _verify(self, case: str, name: str) -> None:
        """Compare a file with its checksum in the case's own entry, so that ``read`` does not need the whole index."""
        entry = read_sealed(entry_file(self.folder, case), AGAIN)
        verify_file(self.folder / name, str(entry["files"][name]), AGAIN)

    def _opened(self, case: str, name: str) -> Any:
        import blosc2

        if name in self._open:
            self._open.move_to_end(name)
            return self._open[name]
        if len(self._open) >= MOST_OPEN:
            self._open.popitem(last=False)
        self._verify(case, name)
        array = blosc2.open(urlpath=str(self.folder / name), mode="r", dparams={"nthreads": 1}, mmap_mode="r")
        self._open[name] = array
        return array

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_known": None, "_open": OrderedDict()}


def entry_file(folder: Path, case: str) -> Path:
    """The record of one case in a folder of arrays; it is there once the case's files are."""
    return folder / ENTRIES / f"{case}.json"


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
