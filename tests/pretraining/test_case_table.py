"""Facts on many cases, in memory-mapped files that workers share."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvp_bench.errors import InputError
from mvp_bench.pretraining.case_table import CaseTable
from mvp_bench.pretraining.census import take_census
from mvp_bench.pretraining.sampling import PatchSampler, SamplingSpec, batches
from tests.pretraining.conftest import MODALITIES, source
from tests.pretraining.fake_store import FakeInfo, FakeStore, Size, brains

MANY = 100_000
ALLOWANCE = 2e7
"""Bytes that a worker may hold privately for 100,000 cases beyond what it holds for 100 (an index of Python objects
would take some hundred megabytes)."""


class EndlessStore:
    """Any number of cases without volumes; remembers them as a store that has parsed its index would."""

    spacing = (2.0, 2.0, 2.0)

    def __init__(self, cases: int) -> None:
        self.number = cases
        self.modalities = list(MODALITIES)
        self._index: dict[str, FakeInfo] = {}

    def _known(self) -> dict[str, FakeInfo]:
        if not self._index:
            affine = np.diag([2.0, 2.0, 2.0, 1.0])
            for i in range(self.number):
                name = f"case{i:07d}"
                self._index[name] = FakeInfo(name, f"patient{i:07d}", MODALITIES, (24, 28 + i % 5, 24), affine)
        return self._index

    @property
    def cases(self) -> list[str]:
        return sorted(self._known())

    def info(self, case: str) -> FakeInfo:
        return self._known()[case]

    def forget(self) -> None:
        self._index = {}

    def read(self, case: str, channels: Sequence[int], start: Size, size: Size) -> np.ndarray:
        return np.ones((len(channels), *size), np.float32)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_index": {}}


def sampled(cases: int, folder: Path, intensity: Any = "zscore") -> PatchSampler:
    data = [source(EndlessStore(cases))]  # type: ignore[arg-type]
    table = CaseTable.of(data)
    census = take_census(data, table)
    table = table.moved_to(folder)
    sampler = PatchSampler(
        data, census.modalities, (8, 8, 8), 2, SamplingSpec(2, intensity=intensity), 0, 10**6, table=table
    )
    data[0].store.forget()
    return sampler


def test_rows_say_what_the_store_says(tmp_path: Path) -> None:
    store = brains(4, MODALITIES)
    store._present = {"case01": ("flair", "t1"), "case02": ()}
    store._origins = {"case03": (1.0, 2.0, 3.0)}
    data = [source(store, excluded=frozenset({"patient-case00"})), source(brains(2, ("t2",)), dataset="Other")]
    for table in (CaseTable.of(data), CaseTable.of(data).moved_to(tmp_path)):
        assert [(table.row(i).source, table.row(i).name) for i in range(len(table))] == [
            (0, "case01"),
            (0, "case03"),
            (1, "case00"),
            (1, "case01"),
        ]
        assert [table.row(i).channels for i in range(4)] == [(2, 0), (0, 1, 2), (0,), (0,)]
        assert table.row(1).shape == (24, 28, 24)
        assert table.row(1).origin.tolist() == [3.0, 2.0, 1.0] and table.row(1).steps.tolist() == [2.0, 2.0, 2.0]
    assert CaseTable.of(data).patients == [["patient-case01", "patient-case03"], ["patient-case00", "patient-case01"]]
    assert CaseTable.of(data).left_out == [["patient-case00"], []]


def test_names_of_any_length_and_alphabet() -> None:
    names = ["a", "Fälle_Ω", "b" * 300]
    shape = np.zeros((1, 8, 8, 8), np.float32)
    table = CaseTable.of([source(FakeStore({n: shape for n in names}, ["t1"]))])
    assert [table.name(i) for i in range(3)] == sorted(names)


def test_a_table_in_files_travels_as_their_name(tmp_path: Path) -> None:
    sampler = sampled(5_000, tmp_path / "index")
    assert len(pickle.dumps(sampler)) < 4_000
    again = pickle.loads(pickle.dumps(sampler))
    assert again[3].cases == sampler[3].cases
    assert len(pickle.dumps(sampled(10, tmp_path / "other"))) > 100
    sampler.table.remove_files()
    assert not (tmp_path / "index").exists() and sampler[4].cases  # who has them open reads on


def test_percentiles_are_measured_once_for_all_workers(tmp_path: Path) -> None:
    sampler = sampled(3, tmp_path / "index", intensity="unit")
    assert np.isnan(sampler.table.ranges).all()
    for _ in zip(range(6), batches(sampler, 0, workers=2), strict=False):
        pass
    seen = ~np.isnan(sampler.table.ranges).any(axis=2)
    assert seen.any()  # written by the workers, seen here
    assert not any("_ranges" in name for name in vars(sampler))


def test_a_disk_without_room_for_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    table = CaseTable.of([source(EndlessStore(10))])  # type: ignore[arg-type]
    monkeypatch.setattr(np, "save", full)
    with pytest.raises(InputError, match=r"cases\.npy: .*No space left.*--root"):
        table.moved_to(tmp_path / "index")


def test_memory_of_a_worker_and_start_up_are_flat_in_the_number_of_cases(tmp_path: Path) -> None:
    private = {}
    for cases in (100, MANY):
        began = time.process_time()
        sampler = sampled(cases, tmp_path / str(cases))
        stream = batches(sampler, 0, workers=1)
        next(stream)
        started = time.process_time() - began
        (worker,) = multiprocessing.active_children()
        for _ in range(50):
            next(stream)
        private[cases] = memory(worker.pid)
        stream.close()
    assert started < 5.0  # seconds of this process, however busy the machine
    assert private[MANY] - private[100] < ALLOWANCE


def memory(process: int | None) -> int:
    """Bytes that a process holds for itself alone (pages of mapped files are the system's to take back)."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty"))
