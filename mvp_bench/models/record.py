"""encoder.json: where a pre-trained encoder comes from. Plain data, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mvp_bench.errors import InputError
from mvp_bench.io import read_json

RECORD_FILE = "encoder.json"
WEIGHTS_FILE = "encoder.safetensors"
AXIS_ORDER = "zyx"
ORIENTATION = "RAS"


class _EncoderPart(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TrainingData(_EncoderPart):
    """What one dataset contributed."""

    dataset: str
    """DatasetNNN_Name."""
    source: Literal["real", "phantom"]
    licence: str
    data_hash: str
    """Key of the preprocessed cases."""
    patients: list[str]
    cases: list[str]
    excluded_patients: list[str]
    """Left out because they are test patients of a task, or otherwise asked to be."""
    duplicates: dict[str, str] = {}
    """Cases left out as near-duplicates (``deduplicate``) -> the case among ``cases`` that each resembles."""


class PretrainingCost(_EncoderPart):
    """What the run took, over all its resumptions."""

    wall_time_s: float
    peak_memory_mb: float
    parameters: int
    """Trainable parameters of encoder and everything trained with it."""
    voxels_seen: int
    """Steps x cases x voxels of the patch; the same for every method of one configuration."""
    device: str
    precision: str


class Origin(_EncoderPart):
    """Where an imported encoder comes from. Nothing is claimed that the file does not say."""

    format: str
    """Format of the file."""
    file: str
    """Its name."""
    sha256: str
    """SHA-256 of its bytes."""
    licence: str
    citation: str = ""
    unknown: list[str] = []
    """Fields of the record that the file does not state; what stands there is a placeholder. ``data`` among them: the
    training patients are unknown, so that leaks cannot be ruled out."""
    notes: list[str] = []
    details: dict[str, Any] = {}
    """Adaptation plan, trainer and the like, as the file has them."""


class EncoderRecord(_EncoderPart):
    """Everything that is known about a pre-trained encoder."""

    format: Literal[1] = 1
    encoder: str
    """Preset."""
    modalities: list[str]
    """Modalities seen in training."""
    stem_modalities: list[str] = []
    """Modality of each input channel of the stem; empty: one channel that serves every modality."""
    method: str
    config: dict[str, Any]
    """Training loop (``pretrain``) and method (``options``), complete."""
    config_hash: str
    spacing: tuple[float, float, float]
    """Voxel edges (z, y, x) in mm of the training data."""
    patch_size: tuple[int, int, int]
    intensity: Literal["zscore", "unit"]
    orientation: str = ORIENTATION
    """Direction of the axes x, y, z."""
    axis_order: str = AXIS_ORDER
    """Order of the array axes."""
    data: list[TrainingData]
    source: Literal["real", "phantom", "unknown"]
    """``phantom`` if any training case is; ``unknown`` for imported weights."""
    licences: list[str]
    templates: dict[str, str] = {}
    """Modality -> NIfTI file of its learned template, relative to the run's folder."""
    template_frame: Literal["world", "centre", "volume"] | None = None
    """What the templates' positions are relative to: the world (RAS mm), the middle of each case's stored volume, or
    that of the image before it was cropped;
    ``None``: what the method's option ``align`` says."""
    profile: str
    seed: int
    versions: dict[str, str]
    weights_sha256: str
    cost: PretrainingCost
    final_losses: dict[str, float] = {}
    """Last line of log.csv."""
    origin: Origin | None = None
    """Origin of imported weights; ``None`` for those trained here."""


def read_record(run_dir: Path) -> EncoderRecord:
    """The record of a finished pre-training run.

    Raises:
        InputError: if the run has not finished, or the file is not such a record.
    """
    path = run_dir / RECORD_FILE
    if not path.is_file():
        raise InputError(
            path, found="no such file", expected="the record of a finished pre-training", fix="Run mvp_pretrain."
        )
    try:
        return EncoderRecord.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{path}: {field}", found=first["msg"], expected="a record of format 1") from error
