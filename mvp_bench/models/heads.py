"""Heads on the deepest feature map: pooling, classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def global_average(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over the voxels of the deepest map, in float32: list of (B, C_i, z_i, y_i, x_i) -> (B, C)."""
    return maps[-1].float().mean(dim=(2, 3, 4))


def regional_pooling(maps: Sequence[torch.Tensor], grid: int) -> torch.Tensor:
    """Means of the deepest map over ``grid``^3 boxes and its maximum over the volume, in float32:
    list of (B, C_i, z_i, y_i, x_i) -> (B, C (grid^3 + 1)).

    With instance norm a channel's mean over the whole volume is nearly the same in every image; what tells images apart
    is where a feature is strong (the boxes' means) and how strong it gets anywhere (the maximum).
    """
    deepest = maps[-1].float()
    return torch.cat([nn.functional.adaptive_avg_pool3d(deepest, grid).flatten(1), deepest.amax((2, 3, 4))], dim=1)


class Classifier(nn.Module):
    """Encoder, pooling, dropout, linear layer: (B, C, z, y, x) -> logits (B, classes).

    Args:
        encoder: returns a list of feature maps.
        features: channels of its deepest map.
        classes: number of classes.
        dropout: probability of dropping a pooled feature in training.
        grid: 0 for global average pooling, else boxes per axis of :func:`regional_pooling`.
    """

    def __init__(self, encoder: nn.Module, features: int, classes: int, dropout: float = 0.0, grid: int = 0) -> None:
        super().__init__()
        self.encoder = encoder
        self.dropout = nn.Dropout(dropout)
        self.grid = grid
        self.head = nn.Linear(features * (grid**3 + 1), classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.encoder(images)
        pooled = regional_pooling(maps, self.grid) if self.grid else global_average(maps)
        return self.head(self.dropout(pooled))
