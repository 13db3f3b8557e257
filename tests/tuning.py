"""Fine-tuning of planned toys: a job as the benchmark would make it, and its scores."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from mvp_bench.config.profiles import SMOKE
from mvp_bench.datasets.schema import Fold
from mvp_bench.evaluation.run import Export, score_cases
from mvp_bench.finetuning.fit import fit
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.finetuning.loading import load_model
from mvp_bench.planning.plan import Planned
from mvp_bench.planning.store import CaseStore


def fine_tune_job(planned: Planned, fold: Fold, config: Any, folder: Path, **changes: Any) -> FineTuneJob:
    """A job from scratch on one fold of a planned dataset."""
    values: dict[str, Any] = {
        "task": planned.card.dataset_name,
        "key": "key",
        "plan": planned.plan,
        "cases_folder": planned.cases,
        "arrays": planned.store.key,
        "regions": dict(planned.block.regions),
        "classes": list(planned.block.classes),
        "fold": fold,
        "encoder": "resenc-smoke",
        "pretrained": None,
        "stem": "reinit",
        "seed": 3,
        "config": config,
        "runtime": SMOKE.runtime,
        "folder": folder,
    }
    return FineTuneJob(**{**values, **changes})


def scored(job: FineTuneJob, images: Mapping[str, str] | None = None) -> pd.DataFrame:
    """Train, keep, load, test: the content of per_case.csv, every case a patient.

    Args:
        images: case -> image; predictions are exported onto their grids.
    """
    fit(job)
    model = load_model(job.folder, job.runtime, job.key)
    export = Export(job.folder / "predictions", images) if images else None
    patients = {case: case for case in job.fold.test}
    return score_cases(model, CaseStore(job.cases_folder, job.arrays), job.fold.test, patients, export)
