"""A factory of made-up cells: what a finished benchmark of 10 tasks leaves behind, without training anything."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvp_bench.benchmark.metrics import SEGMENTATION_COLUMNS, aggregate, classification_rows, write_per_case
from mvp_bench.identity import hash_of
from mvp_bench.io import write_json
from mvp_bench.workspace import Workspace

SEGMENTATION = {
    "Dataset501_BraTS2023-PED": ("WT", "TC", "ET"),
    "Dataset502_BraTS2023-MET": ("WT", "TC", "ET"),
    "Dataset503_ISLES22": ("lesion",),
    "Dataset504_MRBrainS13": ("CSF", "GM", "WM"),
    "Dataset505_UPENN-GBM": ("WT", "TC", "ET"),
    "Dataset506_VSseg": ("tumour",),
}
CLASSIFICATION = {
    "Dataset511_BraTS2018": ("HGG", "LGG"),
    "Dataset512_ADNI": ("AD", "MCI", "CN"),
    "Dataset513_ADHD-200": ("control", "adhd"),
    "Dataset514_ABIDE-I": ("control", "autism"),
}
TASKS = SEGMENTATION | CLASSIFICATION
SKILL = {"scratch": 0.0, "mae": 0.02, "brainmvp": 0.08}


@dataclass(frozen=True)
class CellFactory:
    """Writes cells into a workspace. Everything follows from the arguments."""

    workspace: Workspace
    patients: int = 12

    def write(self, task: str, method: str, seed: int = 0, **changes: object) -> Path:
        """Write one finished cell; ``changes`` replace fields of cell.json (``hashes`` are merged)."""
        record = self.record(task, method, seed, **changes)
        folder = self.folder(record)
        rows = self._segmentation(record) if record["kind"] == "segmentation" else self._classification(record)
        write_json(folder / "cell.json", record)
        write_per_case(folder / "per_case.csv", rows)
        write_json(folder / "metrics.json", aggregate(rows, record["kind"]))
        return folder

    def fail(self, task: str, method: str, seed: int = 0, with_record: bool = True, **changes: object) -> Path:
        """Write one failed cell."""
        record = self.record(task, method, seed, **changes)
        folder = self.folder(record)
        if with_record:
            write_json(folder / "cell.json", record)
        write_json(folder / "failure.json", {"type": "RuntimeError", "error": "out of memory\nin step 7"})
        return folder

    def write_all(self, seeds: tuple[int, ...] = (0, 1), methods: tuple[str, ...] = tuple(SKILL)) -> None:
        """10 tasks x methods x seeds."""
        for task in TASKS:
            for method in methods:
                for seed in seeds:
                    self.write(task, method, seed)

    def folder(self, record: dict) -> Path:
        cell_id = f"s{record['seed']}_f{record['fold']}_{hash_of(record)[:8]}"
        return self.workspace.cells / record["task"] / record["method"] / cell_id

    def record(self, task: str, method: str, seed: int = 0, **changes: object) -> dict:
        kind = "segmentation" if task in SEGMENTATION else "classification"
        hashes = {name: hash_of([task, name]) for name in ("data", "splits", "plan")}
        hashes |= {"config": hash_of(kind), "encoder": None if method == "scratch" else hash_of(method)}
        cost = {"wall_time_s": 61.5 + seed, "peak_memory_mb": 900.25, "parameters": 1_000_000, "voxels_seen": 5_000_000}
        record = {
            "task": task,
            "kind": kind,
            "method": method,
            "encoder": "resenc-mini",
            "mode": "full",
            "label_fraction": 1.0,
            "stem": "reinit",
            "seed": seed,
            "fold": 0,
            "profile": "mini",
            "source": "phantom",
            "classes": list(TASKS[task]) if kind == "classification" else [],
            "regions": list(TASKS[task]) if kind == "segmentation" else [],
            "n_train": 12,
            "n_val": 2,
            "n_test": self.patients,
            "hashes": hashes | changes.pop("hashes", {}),
            "versions": {"mvp_bench": "0.1.0", "torch": "2.4"},
            "cost": cost,
        }
        assert set(changes) <= {*record, "metrics"}
        return record | changes

    def _cases(self, record: dict) -> tuple[list[tuple[str, str]], np.random.Generator]:
        """(case, patient) pairs and the task's own random state: the cases are as hard for every method."""
        task = np.random.default_rng([zlib.crc32(record["task"].encode()), 1])
        fold = record["fold"]
        pairs = []
        for number in range(self.patients):
            patient = f"{fold}{number:03d}"  # looks like a number, must stay text
            pairs += [(f"{patient}-{visit}", patient) for visit in range(1 + number % 2)]
        return pairs, task

    def _noise(self, record: dict) -> np.random.Generator:
        name = f"{record['task']} {record['method']}".encode()
        return np.random.default_rng([zlib.crc32(name), record["seed"], record["fold"]])

    def _segmentation(self, record: dict) -> pd.DataFrame:
        pairs, task = self._cases(record)
        noise, rows = self._noise(record), []
        base = task.uniform(0.5, 0.7)
        for index, (case, patient) in enumerate(pairs):
            for region in record["regions"]:
                score = base + task.normal(0, 0.09) + SKILL.get(record["method"], 0.0) + noise.normal(0, 0.02)
                reference, predicted = int(task.integers(100, 5000)), int(noise.integers(100, 5000))
                if region == "ET" and index % 5 == 0:  # no enhancing tumour: undefined, or 0 after a false alarm
                    alarm = noise.random() < 0.3
                    score, reference, predicted = (0.0 if alarm else np.nan), 0, (17 if alarm else 0)
                rows.append((case, patient, region, min(score, 1.0), reference, predicted))
        return pd.DataFrame(rows, columns=list(SEGMENTATION_COLUMNS))

    def _classification(self, record: dict) -> pd.DataFrame:
        pairs, task = self._cases(record)
        noise, classes = self._noise(record), record["classes"]
        truth = [index % len(classes) for index in range(len(pairs))]
        logits = task.normal(0, 1, (len(pairs), len(classes))) + noise.normal(0, 0.5, (len(pairs), len(classes)))
        logits[np.arange(len(pairs)), truth] += 0.8 + 8 * SKILL.get(record["method"], 0.0)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        cases, patients = zip(*pairs, strict=True)
        return classification_rows(cases, patients, [classes[i] for i in truth], probabilities, classes)


@pytest.fixture(scope="session")
def cells_in() -> Callable[..., CellFactory]:
    """Make a factory for a folder: ``cells_in(root, patients=12)``."""
    return lambda root, patients=12: CellFactory(Workspace(root), patients)


@pytest.fixture
def cells(tmp_path: Path) -> CellFactory:
    """An empty workspace and the means to fill it."""
    return CellFactory(Workspace(tmp_path))
