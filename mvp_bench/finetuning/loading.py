"""Opening a trained network, verified and ready to predict."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from mvp_bench.config.groups import RuntimeConfig
from mvp_bench.errors import InputError
from mvp_bench.finetuning.model import (
    FIT_AGAIN,
    MODEL_FILE,
    WEIGHTS_FILE,
    ModelRecord,
    TrainedModel,
    read_model_record,
)
from mvp_bench.identity import SHORT, checksum_file
from mvp_bench.models.weights import aliases
from mvp_bench.training.runtime import Runtime


def load_model(folder: Path, runtime: RuntimeConfig, key: str = "") -> TrainedModel:
    """A trained network, verified and ready to predict.

    Args:
        folder: with model.json and model.safetensors.
        runtime: device and precision to predict with.
        key: that the model must have; empty: any.

    Raises:
        InputError: if a file is missing or damaged, or the model is another.
    """
    record = read_model_record(folder)
    if key and record.key != key:
        found = f"the model of the cell {record.key[:SHORT]}"
        raise InputError(folder / MODEL_FILE, found=found, expected=key[:SHORT], fix=FIT_AGAIN)
    kind = _model_class(record.kind)
    network = kind.build(record)
    _load_weights(network, folder / WEIGHTS_FILE, record)
    place = Runtime.resolve(runtime)
    return kind(record, place.place(network), place)


def _model_class(kind: str) -> type[TrainedModel]:
    # nnU-Net takes seconds to import, and classification does without.
    if kind == "segmentation":
        from mvp_bench.finetuning.segmentation_model import SegmentationModel

        return SegmentationModel
    from mvp_bench.finetuning.classification_model import ClassificationModel

    return ClassificationModel


def _load_weights(network: nn.Module, path: Path, record: ModelRecord) -> None:
    if not path.is_file() or checksum_file(path) != record.weights_checksum:
        found = "content that is not what was written (its checksum differs)" if path.is_file() else "no such file"
        raise InputError(path, found=found, expected="the weights that model.json speaks of", fix=FIT_AGAIN)
    try:
        with safe_open(path, framework="pt", device="cpu") as handle:
            stored = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118 (not a dict)
        state = {alias: stored[first] for first, names in aliases(network).items() for alias in names}
        with torch.no_grad():
            network.load_state_dict(state)
    except (SafetensorError, KeyError, RuntimeError) as error:
        text = " ".join(str(error).split())[:300]
        raise InputError(path, found=f"tensors that do not fit the network ({text})", expected="all of them") from error
