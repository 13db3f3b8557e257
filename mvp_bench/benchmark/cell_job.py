"""A cell of the benchmark as a job: fit, test, write."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mvp_bench.benchmark.jobs import Job
from mvp_bench.cells.files import (
    MODEL_FILES,
    is_finished,
    write_failure,
    write_result,
    write_start,
)
from mvp_bench.cells.record import CellCost, CellRecord
from mvp_bench.cells.spec import CellSpec
from mvp_bench.config.groups import SegmentationConfig
from mvp_bench.evaluation.run import Export, score_cases
from mvp_bench.finetuning.fit import fit
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.finetuning.loading import load_model
from mvp_bench.identity import code_version
from mvp_bench.models.record import read_record
from mvp_bench.planning.store import CaseStore
from mvp_bench.training.checkpoint import CHECKPOINT_FILE
from mvp_bench.training.cost import peak_memory_mb, reset_peak_memory
from mvp_bench.training.machine import machine_of
from mvp_bench.workspace import Workspace

LIBRARIES = ("torch", "nnunetv2", "batchgenerators", "batchgeneratorsv2", "numpy", "scikit-learn")
NNUNET_OUTPUT = "nnunet_output.txt"
"""What nnU-Net prints, in the cell's folder."""
PREDICTIONS = "predictions"
"""Folder of predicted masks, where they are kept."""


@dataclass(frozen=True)
class CellRun(Job):
    """One cell."""

    root: Path
    spec: CellSpec
    tune: FineTuneJob
    images: dict[str, str]
    """Test case -> image whose header an exported prediction gets."""
    keep_model: bool = True
    """Keep the trained network."""

    @property
    def key(self) -> str:
        return self.spec.key

    @property
    def folder(self) -> Path:
        return self.tune.folder

    @property
    def needs(self) -> tuple[str, ...]:
        return (self.spec.needs.encoder,) if self.spec.needs.encoder else ()

    def is_done(self) -> bool:
        return is_finished(self.folder, self.key)

    def fail(self, error: BaseException | str) -> None:
        write_failure(self.folder, CellRecord.of(self.spec), error)

    def run(self) -> None:
        Workspace(self.root).open()
        write_start(self.folder, CellRecord.of(self.spec))
        reset_peak_memory()
        started = time.monotonic()
        model = fit(self.tune)
        rows = self._test()
        cost = CellCost(
            wall_time_s=round(time.monotonic() - started, 2),
            peak_memory_mb=peak_memory_mb(),
            parameters=model.parameters,
            voxels_seen=model.voxels_seen,
            **_pretraining_cost(self.tune.pretrained),
        )
        self._tidy()
        record = CellRecord.of(
            self.spec,
            versions=versions(),
            machine=machine_of(self.tune.runtime),
            weights=None if self.tune.pretrained is None else read_record(self.tune.pretrained).weights_sha256,
            load_report=model.load_report,
            cost=cost,
        )
        write_result(self.folder, record, rows)

    def _test(self) -> pd.DataFrame:
        tune = self.tune
        model = load_model(tune.folder, tune.runtime, tune.key)
        keep = isinstance(tune.config, SegmentationConfig) and tune.config.keep_predictions
        export = Export(tune.folder / PREDICTIONS, self.images) if keep else None
        store = CaseStore(tune.cases_folder, tune.arrays)
        with (tune.folder / NNUNET_OUTPUT).open("a") as sink, contextlib.redirect_stdout(sink):
            return score_cases(model, store, tune.fold.test, self.spec.tested, export)

    def _tidy(self) -> None:
        """Remove what only an unfinished cell needs, or an earlier one left."""
        for leftover in (CHECKPOINT_FILE, *(() if self.keep_model else MODEL_FILES)):
            (self.folder / leftover).unlink(missing_ok=True)
        shutil.rmtree(self.folder / "nnunet", ignore_errors=True)


def _pretraining_cost(run: Path | None) -> dict[str, Any]:
    if run is None:
        return {"pretraining_wall_time_s": 0.0, "pretraining_voxels_seen": 0}
    record = read_record(run)
    if record.origin is not None and "cost" in record.origin.unknown:
        return {"pretraining_wall_time_s": None, "pretraining_voxels_seen": None}
    return {
        "pretraining_wall_time_s": record.cost.wall_time_s,
        "pretraining_voxels_seen": record.cost.voxels_seen,
    }


def versions() -> dict[str, str]:
    """Versions of all that took part in the arithmetic."""
    found = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"mvp_bench": code_version(), "python": platform.python_version(), **found}
