"""What contrastive and predictive methods put on an encoder: pooling and multi-layer perceptrons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn
from torch.nn import functional

from mvp_bench.models.encoders.base import EncoderSpec

Stages = Literal["last", "all"]


def pooled(maps: Sequence[torch.Tensor], stages: Stages = "last", grid: int = 1) -> torch.Tensor:
    """Averages of feature maps in float32: list of (B, C_i, z_i, y_i, x_i) -> (B, F).

    Args:
        stages: the deepest map only, or all of them side by side, finest first.
        grid: boxes per axis that are averaged over; 1: the whole volume, as published. With instance norm a channel's
            mean over the volume is nearly the same for every image; what tells images apart is then *where* a feature
            is strong, which boxes' means show. F is the sum of C_i grid^3.
    """
    chosen = maps[-1:] if stages == "last" else maps
    if grid == 1:
        return torch.cat([m.float().mean((2, 3, 4)) for m in chosen], dim=1)
    return torch.cat([functional.adaptive_avg_pool3d(m.float(), grid).flatten(1) for m in chosen], dim=1)


def pooled_features(encoder: EncoderSpec, stages: Stages = "last", grid: int = 1) -> int:
    """F of :func:`pooled` on the encoder's maps."""
    return (encoder.out_channels if stages == "last" else sum(encoder.features)) * grid**3


class Projector(nn.Module):
    """Multi-layer perceptron (B, in) -> (B, out), in float32: linear, batch norm, ReLU per hidden layer; linear and
    batch norm at the end.

    BatchNorm1d over (B, C), never InstanceNorm1d, which would leave nothing of a two-dimensional tensor. With batch
    norm training needs at least two samples.

    Args:
        in_features, hidden, out_features: widths.
        layers: linear layers, >= 1.
        batch_norm: without it there are no norms at all.
        last_affine: whether the last norm has scale and bias (MoCo v3: no).
    """

    def __init__(
        self,
        in_features: int,
        hidden: int,
        out_features: int,
        layers: int = 2,
        batch_norm: bool = True,
        last_affine: bool = False,
    ) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        width = in_features
        for _ in range(layers - 1):
            # A bias would be taken away by the norm that follows.
            steps.append(nn.Linear(width, hidden, bias=not batch_norm))
            steps += [nn.BatchNorm1d(hidden)] if batch_norm else []
            steps.append(nn.ReLU(inplace=True))
            width = hidden
        steps.append(nn.Linear(width, out_features, bias=not batch_norm))
        if batch_norm:
            steps.append(nn.BatchNorm1d(out_features, affine=last_affine))
        self.layers = nn.Sequential(*steps)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        with torch.autocast(features.device.type, enabled=False):  # small matrices; cosines need more than three digits
            return self.layers(features.float())
