"""Running one cell, in whichever process: train, test, write; resumable, and finished exactly once."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform
import resource
import shutil
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mvp_bench.benchmark.metrics import aggregate, write_per_case
from mvp_bench.config.groups import SegmentationConfig
from mvp_bench.errors import InputError
from mvp_bench.evaluation.run import Export, score_cases
from mvp_bench.finetuning.fit import fit
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.finetuning.model import load_model
from mvp_bench.identity import code_version
from mvp_bench.io import lock, write_json
from mvp_bench.models.record import read_record
from mvp_bench.planning.store import CaseStore
from mvp_bench.workspace import Workspace

LIBRARIES = ("torch", "nnunetv2", "batchgenerators", "batchgeneratorsv2", "numpy", "scikit-learn")


@dataclass(frozen=True)
class CellJob:
    """A cell as it travels to a worker process."""

    root: Path
    tune: FineTuneJob
    record: dict[str, Any]
    patients: dict[str, str]
    """Test case -> patient."""
    images: dict[str, str]
    """Test case -> image whose header an exported prediction gets."""


@dataclass(frozen=True)
class CellResult:
    """How a cell ended; ``error`` is empty for a finished one."""

    folder: Path
    error: str = ""
    new: bool = True


def is_finished(folder: Path) -> bool:
    """Whether a cell's results are there: metrics.json is written last."""
    return (folder / "metrics.json").is_file()


def run_cell(job: CellJob) -> CellResult:
    """Run a cell unless it is finished. A failure is written to ``failure.json`` and returned, never raised."""
    folder = job.tune.folder
    Workspace(job.root).open()
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "cell"):
        if is_finished(folder):
            return CellResult(folder, new=False)
        (folder / "failure.json").unlink(missing_ok=True)
        write_json(folder / "cell.json", {**job.record, "config": _config(job)})
        try:
            _run(job)
        except Exception as error:  # one failed cell must not end the others; it is reported with its traceback
            message = str(error) or type(error).__name__
            write_json(
                folder / "failure.json",
                {"error": message, "type": type(error).__name__, "traceback": traceback.format_exc()},
            )
            return CellResult(folder, error=message)
    return CellResult(folder)


def _run(job: CellJob) -> None:
    folder = job.tune.folder
    _reset_peak_memory()
    started = time.monotonic()
    model = fit(job.tune)
    table = _test(job)
    cost = {
        "wall_time_s": round(time.monotonic() - started, 2),
        "peak_memory_mb": _peak_memory_mb(),
        "parameters": model.parameters,
        "voxels_seen": model.voxels_seen,
        **_pretraining_cost(job.tune.pretrained),
    }
    write_per_case(folder / "per_case.csv", table)
    content = {**job.record, "config": _config(job), "load_report": model.load_report, "versions": versions()}
    write_json(folder / "cell.json", {**content, "cost": cost})
    for leftover in folder.glob("checkpoint_last.pt"):
        leftover.unlink()
    shutil.rmtree(folder / "nnunet", ignore_errors=True)
    write_json(folder / "metrics.json", aggregate(table, job.record["kind"]))


def _test(job: CellJob) -> pd.DataFrame:
    tune = job.tune
    model = load_model(tune.folder, tune.runtime, tune.key)
    keep = isinstance(tune.config, SegmentationConfig) and tune.config.keep_predictions
    export = Export(tune.folder / "predictions", job.images) if keep else None
    with (tune.folder / "nnunet_output.txt").open("a") as sink, contextlib.redirect_stdout(sink):
        table = score_cases(model, CaseStore(tune.cases_folder, tune.arrays), tune.fold.test, job.patients, export)
    return table if tune.kind == "segmentation" else _wide(table, tune.classes)


def _wide(table: pd.DataFrame, classes: list[str]) -> pd.DataFrame:
    """One row per case, a column per class: what the leaderboards still read."""
    first = table.drop_duplicates("case").rename(columns={"truth": "class"})
    wide = first[["case", "patient", "class", "predicted"]].reset_index(drop=True)
    for name in classes:
        wide[f"p_{name}"] = table[table["target"] == name]["probability"].to_numpy()
    return wide


def _config(job: CellJob) -> dict[str, Any]:
    return {
        "tuning": asdict(job.tune.config),
        "runtime": asdict(job.tune.runtime),
        "stem": job.tune.stem,
        "pretrained": job.tune.pretrained.name if job.tune.pretrained else None,
    }


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


def _reset_peak_memory() -> None:
    """Start this process' high-water mark anew, so that each cell of a worker has its own (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return  # elsewhere the mark is that of the whole process


def _peak_memory_mb() -> float:
    import torch

    if torch.cuda.is_available():
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 2**10, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, 1)


def pretraining_failed(job: CellJob, reason: str) -> CellResult:
    """Report a cell whose pre-training did not come about."""
    folder = job.tune.folder
    write_json(folder / "cell.json", {**job.record, "config": _config(job)})
    write_json(folder / "failure.json", {"error": reason, "type": InputError.__name__, "traceback": ""})
    return CellResult(folder, error=reason)
