"""Classification: the trained network, and how a whole case is read for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from mvp_bench.finetuning.model import ModelRecord, TrainedModel
from mvp_bench.models.heads import Classifier
from mvp_bench.planning.store import CaseStore, Size
from mvp_bench.registry import ENCODERS
from mvp_bench.training.runtime import Runtime


def read_whole(store: CaseStore, case: str, size: Size, shift: Size = (0, 0, 0)) -> np.ndarray:
    """All channels of a case in a window of ``size`` voxels about its centre (moved by ``shift`` voxels)."""
    shape = store.info(case).shape
    start = tuple((n - s) // 2 + d for n, s, d in zip(shape, size, shift, strict=True))
    return store.read(case, range(len(store.modalities)), start, size)  # type: ignore[arg-type]


def forward(network: nn.Module, runtime: Runtime, images: np.ndarray) -> torch.Tensor:
    """Logits, float32 (B, classes), of images (B, C, z, y, x)."""
    data = torch.from_numpy(np.ascontiguousarray(images)).to(runtime.device)
    if runtime.channels_last:
        data = data.to(memory_format=torch.channels_last_3d)
    with runtime.autocast():
        return network(data).float()


class ClassificationModel(TrainedModel):
    """Encoder, pooling, linear head."""

    kind = "classification"

    @classmethod
    def build(cls, record: ModelRecord) -> nn.Module:
        spec = ENCODERS[record.encoder]
        head = record.inference
        return Classifier(
            spec.build(len(record.modalities)),
            spec.out_channels,
            len(record.classes),
            head["dropout"],
            head["pooling_grid"],
        )

    def predict(self, store: CaseStore, case: str) -> np.ndarray:
        size: Size = tuple(self.record.inference["size"])
        with torch.inference_mode():
            logits = forward(self.network, self.runtime, read_whole(store, case, size)[None])[0]
        return torch.softmax(logits.double(), dim=0).cpu().numpy()
