"""Golden numbers of the stage *score*: fixed masks and probabilities -> metrics and tables, to the last digit."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mvp_bench.cells.files import read_result, write_result
from mvp_bench.cells.per_case import classification_rows, numbers_of, segmentation_rows
from mvp_bench.cells.spec import CellSpec
from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.leaderboard.columns import PROVENANCE
from mvp_bench.leaderboard.reading import read_cells
from mvp_bench.leaderboard.render.files import FLOAT_FORMAT
from mvp_bench.leaderboard.tables import build_leaderboards
from mvp_bench.metrics.registry import METRICS
from mvp_bench.workspace import Workspace
from tests.golden import check
from tests.made_cells import CellFactory

PED, BRATS18, ADNI = "Dataset501_BraTS2023-PED", "Dataset511_BraTS2018", "Dataset512_ADNI"
METHODS = ("scratch", "mae", "voco")
MEASURED = ("dice", "n_empty_reference", "n_undefined", "accuracy", "auroc", "balanced_accuracy", "f1")
"""Metrics and counts whose numbers are kept here."""
KEYED = {*PROVENANCE, "cell"}
"""Columns that follow from keys and versions, which others may raise."""


def _masks(spec: CellSpec, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and prediction of a case, by counting; every seventh case lacks the third label."""
    n_labels = 2 if index % 7 == 0 else 3
    voxels = np.arange(6 * 7 * 8)
    reference = (voxels * (index + 3) // 11) % (n_labels + 2)
    reference[reference > n_labels] = 0
    method = METHODS.index(spec.method)
    wrong = (voxels * (5 + index + 3 * spec.seed) + method) % (4 + method) == 0
    predicted = np.where(wrong, (reference + 1) % (n_labels + 1), reference)
    return reference.reshape(6, 7, 8), predicted.reshape(6, 7, 8)


def _probabilities(spec: CellSpec) -> np.ndarray:
    """(cases, classes) by counting, with ties; sixteenths, so that they sum to 1 exactly."""
    n, k = len(spec.tested), len(spec.classes)
    method = METHODS.index(spec.method)
    first = (np.arange(n)[:, None] * (3 + spec.seed) + np.arange(k - 1) * (5 + method)) % (16 // k) / 16
    return np.column_stack([first, 1 - first.sum(axis=1)])


def _rows(spec: CellSpec) -> pd.DataFrame:
    if spec.kind == "segmentation":
        cases = enumerate(spec.tested.items())
        return pd.concat([segmentation_rows(c, p, *_masks(spec, i), spec.regions) for i, (c, p) in cases])
    truth = [spec.classes[(index + index // 3) % len(spec.classes)] for index in range(len(spec.tested))]
    return classification_rows(list(spec.tested), list(spec.tested.values()), truth, _probabilities(spec), spec.classes)


def numbers() -> dict[str, Any]:
    """Metrics of each cell, and all tables but for keys and costs."""
    found: dict[str, Any] = {"metrics": {}, "tables": {}}
    with tempfile.TemporaryDirectory() as root:
        cells = CellFactory(Workspace(Path(root)))
        for task in (PED, BRATS18, ADNI):
            for method in METHODS:
                for seed in range(2):
                    record = cells.record(task, method, seed)
                    folder = record.spec.folder(cells.workspace)
                    write_result(folder, record, _rows(record.spec))
                    values = read_result(folder).scores.metrics
                    mine = {name: value for name, value in values.items() if name.split("/")[0] in MEASURED}
                    found["metrics"][f"{task} {method} {seed}"] = mine
        boards = build_leaderboards(read_cells(cells.workspace.cells), StatisticsConfig(bootstrap_samples=200), 0)
    found["tables"]["leaderboard.csv"] = _text(boards.overall, FLOAT_FORMAT).splitlines()
    for name in ("leaderboard_segmentation.csv", "leaderboard_classification.csv"):
        table = boards.tables[name]
        found["tables"][name] = _text(table[table["metric"].isin(MEASURED)], FLOAT_FORMAT).splitlines()
    found["sha256 of per_case.csv"] = hashlib.sha256(_text(boards.per_case, None).encode()).hexdigest()
    return found


def _text(table: pd.DataFrame, float_format: str | None) -> str:
    added = {column.name for column in numbers_of("segmentation")} - set(METRICS["dice"].needs)
    table = table.drop(columns=[column for column in table if column in KEYED | added])
    return table.to_csv(index=False, lineterminator="\n", float_format=float_format)


def test_scores_are_the_golden_ones() -> None:
    check("score", numbers())


def test_a_metric_more_moves_nothing_of_the_others(volume_error: str) -> None:
    """It comes with a test of its own."""
    check("score", numbers())
