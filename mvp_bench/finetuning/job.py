"""What a fine-tuning run is given; plain data that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from mvp_bench.config.groups import ClassificationConfig, RuntimeConfig, SegmentationConfig, StemRule
from mvp_bench.datasets.schema import Fold
from mvp_bench.io import atomic_path


@dataclass(frozen=True)
class FineTuneJob:
    """One training."""

    task: str
    """DatasetNNN_Name."""
    key: str
    """Key of the cell: of everything that the trained network depends on."""
    plan: dict[str, Any]
    """The task's plan, whole."""
    cases_folder: Path
    """Preprocessed cases."""
    arrays: str
    """Their key."""
    regions: dict[str, list[int]]
    classes: list[str]
    fold: Fold
    encoder: str
    pretrained: Path | None
    """Folder of a pre-training run; None trains from scratch."""
    stem: StemRule
    seed: int
    config: SegmentationConfig | ClassificationConfig
    runtime: RuntimeConfig
    folder: Path
    """Where checkpoints, logs and the trained network go."""

    @property
    def kind(self) -> str:
        """``segmentation`` or ``classification``."""
        return "segmentation" if isinstance(self.config, SegmentationConfig) else "classification"


def write_curve(path: Path, curve: list[dict[str, float]], *more_columns: str) -> None:
    """Write the training curve, one row per epoch; a value that an epoch lacks is an empty field."""
    columns = ["epoch", "learning_rate", "train_loss", *more_columns]
    with atomic_path(path) as temporary:
        pd.DataFrame(curve, columns=columns).to_csv(temporary, index=False, lineterminator="\n")
