"""Facts on every case of a run as arrays in memory-mapped files: workers share the pages and copy nothing.

A case takes some hundred bytes; a million of them fit a file of about 0.1 GB that no process holds privately.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mvp_bench.io import atomic_path
from mvp_bench.pretraining.source import CaseInfoLike, PretrainSource

CASES_FILE, NAMES_FILE, RANGES_FILE = "cases.npy", "names.npy", "ranges.npy"


@dataclass(frozen=True)
class CaseRow:
    """One case."""

    source: int
    """Number of its dataset."""
    name: str
    channels: tuple[int, ...]
    """Channels of its images in the store, in the order of ``CaseInfo.present``."""
    shape: tuple[int, int, int]
    """Voxels (z, y, x)."""
    origin: np.ndarray
    """float64 (3,): RAS position of voxel (0, 0, 0), mm, (z, y, x)."""
    steps: np.ndarray
    """float64 (3,): from a voxel to the next, mm, (z, y, x)."""
    middle: np.ndarray
    """float64 (3,): RAS position of the middle of the uncropped image, mm, (z, y, x); NaN: not known."""


FACTS: tuple[tuple[Any, ...], ...] = (
    ("source", "<i4"),
    ("shape", "<i4", 3),
    ("origin", "<f8", 3),
    ("steps", "<f8", 3),
    ("middle", "<f8", 3),
    ("end", "<i8"),
)
"""Fields of a row; the channels follow, as many as the best-equipped case has."""


@dataclass
class _Gathered:
    """Facts on the cases so far, on their way into arrays."""

    facts: list[tuple[Any, ...]] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    channels: list[list[int]] = field(default_factory=list)
    measured: list[np.ndarray | None] = field(default_factory=list)
    end: int = 0

    def add(self, source: int, case: str, info: CaseInfoLike, channels: list[int]) -> None:
        """Take a case of dataset ``source`` whose images are at ``channels`` of its store."""
        affine, name = info.affine, case.encode()
        self.end += len(name)
        self.names.append(name)
        self.channels.append(channels)
        self.measured.append(info.ranges)
        origin = (affine[2][3], affine[1][3], affine[0][3])
        steps = (affine[2][2], affine[1][1], affine[0][0])
        middle = (np.nan,) * 3 if info.middle is None else tuple(info.middle[::-1])
        self.facts.append((source, info.shape, origin, steps, middle, self.end))

    def rows(self) -> np.ndarray:
        """``CaseTable.rows``."""
        width = max((len(c) for c in self.channels), default=1)
        rows = np.zeros(len(self.facts), np.dtype([*FACTS, ("channels", "<i2", (width,))]))
        given = np.array(self.facts, np.dtype(list(FACTS)))
        for name, *_ in FACTS:
            rows[name] = given[name]
        if self.facts:
            rows["channels"] = [c + [-1] * (width - len(c)) for c in self.channels]
        return rows

    def text(self) -> np.ndarray:
        """``CaseTable.names``."""
        return np.frombuffer(b"".join(self.names), np.uint8)

    def ranges(self) -> np.ndarray:
        """``CaseTable.ranges``, where preprocessing measured them."""
        most = max((max(c) + 1 for c in self.channels), default=1)
        ranges = np.full((len(self.facts), most, 2), np.nan)
        for row, known in zip(ranges, self.measured, strict=True):
            if known is not None:
                row[: len(known)] = known[:most]
        return ranges


@dataclass
class CaseTable:
    """The included cases of all datasets, in the order of the datasets and of their stores.

    Sent to another process, a table that lies in files travels as the folder's name.
    """

    rows: np.ndarray
    """Structured (N,): source, shape, origin, steps, middle, channels (-1: none), end of the name in ``names``."""
    names: np.ndarray
    """uint8: the cases' names, UTF-8, one after the other."""
    ranges: np.ndarray
    """float64 (N, channels, 2): intensities that become 0 and 1, as preprocessing measured them. NaN where the store
    knows none, until someone has measured them: workers write to the same pages, who comes second the same numbers."""
    folder: Path | None = None
    """Where the arrays lie, if they do."""
    patients: list[list[str]] = field(default_factory=list)
    """Per dataset, each included case's patient (only where the table was made: it is not passed on)."""
    left_out: list[list[str]] = field(default_factory=list)
    """Per dataset, the excluded patients that it has (likewise)."""

    @classmethod
    def of(cls, sources: Sequence[PretrainSource]) -> CaseTable:
        """Look at every case once; no voxels are read. The stores may forget their own indices afterwards."""
        gathered = _Gathered()
        patients: list[list[str]] = []
        left_out: list[list[str]] = []
        for number, source in enumerate(sources):
            order = {modality: channel for channel, modality in enumerate(source.store.modalities)}
            own: list[str] = []
            out: set[str] = set()
            for case in source.store.cases:
                info = source.store.info(case)
                if info.patient in source.excluded:
                    out.add(info.patient)
                elif info.present and case not in source.duplicates:
                    own.append(info.patient)
                    gathered.add(number, case, info, [order[modality] for modality in info.present])
            patients.append(own)
            left_out.append(sorted(out))
        return cls(gathered.rows(), gathered.text(), gathered.ranges(), None, patients, left_out)

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, index: int) -> CaseRow:
        """The case at ``index``."""
        row = self.rows[index]
        shape = row["shape"]
        return CaseRow(
            source=int(row["source"]),
            name=self.name(index),
            channels=tuple(int(c) for c in row["channels"] if c >= 0),
            shape=(int(shape[0]), int(shape[1]), int(shape[2])),
            origin=np.array(row["origin"]),
            steps=np.array(row["steps"]),
            middle=np.array(row["middle"]),
        )

    def name(self, index: int) -> str:
        """Its name in its dataset."""
        start = int(self.rows["end"][index - 1]) if index else 0
        return self.names[start : int(self.rows["end"][index])].tobytes().decode()

    def moved_to(self, folder: Path) -> CaseTable:
        """The same table in memory-mapped files of ``folder`` (made if absent).

        Raises:
            InputError: if the folder cannot be written to.
        """
        for file, array in ((CASES_FILE, self.rows), (NAMES_FILE, self.names), (RANGES_FILE, self.ranges)):
            with atomic_path(folder / file) as temporary:
                np.save(temporary, array)
        return _opened(folder)

    def remove_files(self) -> None:
        """Delete the files; who has them open may go on reading."""
        if self.folder is None:
            return
        for file in (CASES_FILE, NAMES_FILE, RANGES_FILE):
            (self.folder / file).unlink(missing_ok=True)
        self.folder.rmdir()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:
            return _opened, (self.folder,)
        return CaseTable, (self.rows, self.names, self.ranges)


def _opened(folder: Path) -> CaseTable:
    return CaseTable(
        np.load(folder / CASES_FILE, mmap_mode="r"),
        np.load(folder / NAMES_FILE, mmap_mode="r"),
        np.load(folder / RANGES_FILE, mmap_mode="r+"),
        folder,
    )
