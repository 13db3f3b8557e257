"""A factory of made-up cells: what a finished benchmark of 10 tasks leaves behind, without training anything."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvp_bench.cells.files import write_failure, write_result
from mvp_bench.cells.leak import leak_of, write_leak
from mvp_bench.cells.per_case import KEYS, classification_rows
from mvp_bench.cells.record import CellCost, CellRecord, Machine
from mvp_bench.cells.spec import CellSpec
from mvp_bench.identity import hash_of
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
MACHINE = Machine(processor="Made-up CPU", device="cpu", precision="fp32", threads=1)
RECORD_FIELDS = {"weights", "machine", "versions", "stages", "load_report", "cost"}


@dataclass(frozen=True)
class CellFactory:
    """Writes cells into a workspace. Everything follows from the arguments."""

    workspace: Workspace
    patients: int = 12

    def write(self, task: str, method: str, seed: int = 0, **changes: Any) -> Path:
        """Write one finished cell; ``changes`` replace fields of its record or specification (``needs`` are merged)."""
        record = self.record(task, method, seed, **changes)
        folder = record.spec.folder(self.workspace)
        write_result(folder, record, self.rows(record.spec))
        if method != "scratch":
            write_leak(folder, leak_of(len(set(record.spec.tested.values())), []))
        return folder

    def fail(self, task: str, method: str, seed: int = 0, with_record: bool = True, **changes: Any) -> Path:
        """Write one failed cell."""
        record = self.record(task, method, seed, **changes)
        folder = record.spec.folder(self.workspace)
        write_failure(folder, record, RuntimeError("out of memory\nin step 7"))
        if not with_record:
            (folder / "cell.json").unlink()
        return folder

    def write_all(self, seeds: tuple[int, ...] = (0, 1), methods: tuple[str, ...] = tuple(SKILL)) -> None:
        """10 tasks x methods x seeds."""
        for task in TASKS:
            for method in methods:
                for seed in seeds:
                    self.write(task, method, seed)

    def record(self, task: str, method: str, seed: int = 0, **changes: Any) -> CellRecord:
        """The record of a cell."""
        facts = {name: changes.pop(name) for name in RECORD_FIELDS & set(changes)}
        cost = CellCost(
            wall_time_s=61.5 + seed % 100, peak_memory_mb=900.25, parameters=1_000_000, voxels_seen=5_000_000
        )
        known: dict[str, Any] = {
            "versions": {"mvp_bench": "0.1.0", "torch": "2.4"},
            "machine": MACHINE,
            "weights": None if method == "scratch" else hash_of([method, "weights"]),
            "cost": cost,
        }
        return CellRecord.of(self.spec(task, method, seed, **changes), **known | facts)

    def spec(self, task: str, method: str, seed: int = 0, **changes: Any) -> CellSpec:
        """The specification of a cell."""
        kind = "segmentation" if task in SEGMENTATION else "classification"
        fold = changes.get("fold", 0)
        needs = {name: hash_of([task, name]) for name in ("dataset", "splits", "plan", "arrays")}
        needs |= {"encoder": None if method == "scratch" else hash_of(method)}
        tested = dict(self._cases(fold))
        fields: dict[str, Any] = {
            "task": task,
            "kind": kind,
            "source": "phantom",
            "method": method,
            "encoder": "resenc-mini",
            "stem": "reinit",
            "fold": 0,
            "seed": seed,
            "profile": "mini",
            "classes": list(TASKS[task]) if kind == "classification" else [],
            "regions": {name: [i + 1] for i, name in enumerate(TASKS[task])} if kind == "segmentation" else {},
            "tested": tested,
            "n_train": 12,
            "n_val": 2,
            "n_test": len(tested),
            "needs": needs | changes.pop("needs", {}),
            "settings": {"epochs": 3, "device": "cpu", "precision": "fp32", "threads": 1, "kind": kind},
        }
        return CellSpec(**fields | changes)

    def rows(self, spec: CellSpec) -> pd.DataFrame:
        """The per-case table of a cell."""
        return self._segmentation(spec) if spec.kind == "segmentation" else self._classification(spec)

    def _cases(self, fold: int) -> list[tuple[str, str]]:
        pairs = []
        for number in range(self.patients):
            patient = f"{fold}{number:03d}"  # looks like a number, must stay text
            pairs += [(f"{patient}-{visit}", patient) for visit in range(1, 2 + number % 2)]
        return pairs

    def _random(self, spec: CellSpec) -> tuple[np.random.Generator, np.random.Generator]:
        """The task's own random state (the cases are as hard for every method), and the cell's."""
        name = f"{spec.task} {spec.method}".encode()
        task = np.random.default_rng([zlib.crc32(spec.task.encode()), 1])
        return task, np.random.default_rng([zlib.crc32(name), spec.seed % 2**64, spec.fold])

    def _segmentation(self, spec: CellSpec) -> pd.DataFrame:
        (task, noise), rows = self._random(spec), []
        base = task.uniform(0.5, 0.7)
        for index, (case, patient) in enumerate(spec.tested.items()):
            for region in spec.regions:
                score = base + task.normal(0, 0.09) + SKILL.get(spec.method, 0.0) + noise.normal(0, 0.02)
                reference, predicted = int(task.integers(100, 5000)), int(noise.integers(100, 5000))
                if region == "ET" and index % 5 == 0:  # no enhancing tumour: undefined, or 0 after a false alarm
                    alarm = noise.random() < 0.3
                    score, reference, predicted = (0.0 if alarm else np.nan), 0, (17 if alarm else 0)
                rows.append((case, patient, region, min(score, 1.0), reference, predicted))
        return pd.DataFrame(rows, columns=[*KEYS, "dice", "reference_voxels", "predicted_voxels"])

    def _classification(self, spec: CellSpec) -> pd.DataFrame:
        task, noise = self._random(spec)
        classes, n = spec.classes, len(spec.tested)
        truth = [index % len(classes) for index in range(n)]
        logits = task.normal(0, 1, (n, len(classes))) + noise.normal(0, 0.5, (n, len(classes)))
        logits[np.arange(n), truth] += 0.8 + 8 * SKILL.get(spec.method, 0.0)
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        cases, patients = list(spec.tested), list(spec.tested.values())
        return classification_rows(cases, patients, [classes[i] for i in truth], probabilities, classes)
