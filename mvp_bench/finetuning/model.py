"""A trained network as it is kept: ``model.safetensors`` and, written after it, ``model.json``.

The record holds all that prediction needs, the plan included, so that a folder with both files serves by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save
from torch import nn

from mvp_bench.errors import InputError
from mvp_bench.identity import checksum_file
from mvp_bench.io import atomic_path
from mvp_bench.models.weights import encoder_state
from mvp_bench.planning.store import CaseStore
from mvp_bench.sealed import CHECKSUM, read_sealed, write_sealed
from mvp_bench.training.runtime import Runtime

MODEL_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
FIT_AGAIN = "Delete the folder and start the same command again: the network is trained anew."


class ModelRecord(BaseModel):
    """``model.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    key: str
    """Key of the cell that the network was trained in."""
    kind: Literal["segmentation", "classification"]
    task: str
    """DatasetNNN_Name."""
    encoder: str
    """Preset."""
    modalities: list[str]
    """Modality of each input channel."""
    regions: dict[str, list[int]] = {}
    classes: list[str] = []
    arrays: str
    """Key of the preprocessed cases that it was trained on."""
    plan: dict[str, Any]
    """The task's plan, whole."""
    inference: dict[str, Any]
    """Settings that prediction needs beside the plan."""
    parameters: int
    """Parameters of the whole network."""
    voxels_seen: int
    """Input voxels of all training patches, one modality counted once."""
    load_report: dict[str, int] = {}
    """Numbers of encoder tensors loaded, adapted and new; empty for training from scratch."""
    weights_checksum: str = ""
    """Checksum of model.safetensors."""


class TrainedModel(ABC):
    """A network that predicts single preprocessed cases.

    Args:
        record: what it is.
        network: with the trained weights, placed on the device.
        runtime: device and precision.
    """

    kind: ClassVar[str]

    def __init__(self, record: ModelRecord, network: nn.Module, runtime: Runtime) -> None:
        self.record, self.network, self.runtime = record, network, runtime
        self.network.eval()

    @classmethod
    @abstractmethod
    def build(cls, record: ModelRecord) -> nn.Module:
        """The record's network with fresh weights, on the CPU."""

    @abstractmethod
    def predict(self, store: CaseStore, case: str) -> np.ndarray:
        """Predict one case: a label map int (z, y, x) on the source's grid in RAS (segmentation), or the classes'
        probabilities, float64 (classes,) (classification)."""


def save_model(folder: Path, network: nn.Module, record: ModelRecord) -> ModelRecord:
    """Write weights and record; returns the record with the weights' checksum. The record comes last."""
    path = folder / WEIGHTS_FILE
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(encoder_state(network), {"key": record.key}))
    written = record.model_copy(update={"weights_checksum": checksum_file(path)})
    write_sealed(folder / MODEL_FILE, written.model_dump(mode="json"))
    return written


def read_model_record(folder: Path) -> ModelRecord:
    """The record of a trained network.

    Raises:
        InputError: if it is missing, damaged, or of another format.
    """
    path = folder / MODEL_FILE
    content = {k: v for k, v in read_sealed(path, FIT_AGAIN).items() if k != CHECKSUM}
    try:
        return ModelRecord.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{path}: {field}", found=first["msg"], expected="a model of format 1", fix=FIT_AGAIN
        ) from error
