"""A trained network on test cases: predictions, compared with the masks and classes that were prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mvp_bench.cells.per_case import classification_rows, segmentation_rows
from mvp_bench.evaluation.export import write_prediction
from mvp_bench.finetuning.model import TrainedModel
from mvp_bench.planning.store import CaseStore


@dataclass(frozen=True)
class Export:
    """Where predicted masks go, if they are kept."""

    folder: Path
    images: Mapping[str, str]
    """Case -> image whose header an exported prediction gets."""


def score_cases(
    model: TrainedModel, store: CaseStore, cases: Sequence[str], patients: Mapping[str, str], export: Export | None
) -> pd.DataFrame:
    """Predict test cases and compare each with its prepared reference; the source files are not read.

    Args:
        patients: case -> patient.
        export: write predicted masks as NIfTI files (segmentation).

    Returns:
        The per-case table (``cells.per_case``).

    Raises:
        InputError: if an array is not what preprocessing wrote.
    """
    if model.kind == "segmentation":
        return pd.concat([_score_mask(model, store, case, patients[case], export) for case in cases], ignore_index=True)
    infos = [store.info(case) for case in cases]
    probabilities = np.stack([model.predict(store, case) for case in cases])
    truth = [str(info.class_name) for info in infos]
    return classification_rows(cases, [patients[case] for case in cases], truth, probabilities, model.record.classes)


def _score_mask(model: TrainedModel, store: CaseStore, case: str, patient: str, export: Export | None) -> pd.DataFrame:
    predicted = model.predict(store, case)
    if export is not None:
        write_prediction(export.folder / f"{case}.nii.gz", predicted, Path(export.images[case]))
    spacing = tuple(store.properties(case)["spacing"])
    return segmentation_rows(case, patient, store.reference(case), predicted, model.record.regions, spacing)
