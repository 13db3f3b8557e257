"""What a fine-tuning run is given and what it gives back; plain data that travel between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mvp_bench.config.groups import ClassificationConfig, RuntimeConfig, SegmentationConfig, StemRule
from mvp_bench.datasets.schema import Fold
from mvp_bench.io import atomic_path


@dataclass(frozen=True)
class FineTuneJob:
    """One training and its test."""

    task: str
    """DatasetNNN_Name."""
    plan_folder: Path
    """plans/DatasetNNN_Name."""
    cases_folder: Path
    """Preprocessed cases."""
    labels: dict[str, str]
    """Case -> mask file of the source (segmentation)."""
    images: dict[str, str]
    """Case -> image whose header an exported prediction gets (segmentation)."""
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
    """Where checkpoints and logs go."""


@dataclass
class Outcome:
    """What fine-tuning found."""

    table: pd.DataFrame
    """Content of per_case.csv: test cases only."""
    parameters: int
    """Of the whole network."""
    voxels_seen: int
    """Input voxels of all training patches, one modality counted once."""
    load_report: dict[str, int] = field(default_factory=dict)
    """Encoder tensors loaded, adapted and new."""


def write_curve(path: Path, curve: list[dict[str, float]], *more_columns: str) -> None:
    """Write the training curve, one row per epoch; a value that an epoch lacks is an empty field."""
    columns = ["epoch", "learning_rate", "train_loss", *more_columns]
    with atomic_path(path) as temporary:
        pd.DataFrame(curve, columns=columns).to_csv(temporary, index=False, lineterminator="\n")
