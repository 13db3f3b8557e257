"""Heads on the deepest feature map: pooling, projector for contrastive losses, classifier."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn


def global_average(maps: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean over the voxels of the deepest map, in float32: list of (B, C_i, z_i, y_i, x_i) -> (B, C)."""
    return maps[-1].float().mean(dim=(2, 3, 4))


class Projector(nn.Module):
    """MLP on pooled features (B, C) -> (B, out), as in MoCo v3: Linear, BatchNorm1d, ReLU per hidden layer, then Linear
    and BatchNorm1d without affine.

    BatchNorm1d over (B, C), never InstanceNorm1d: on a two-dimensional tensor that would normalise each sample's
    features to a constant. In training it needs at least two samples.

    Args:
        in_features: C.
        hidden: width of the hidden layers.
        out_features: width of the embedding.
        layers: linear layers in all (>= 1).
        last_norm: end with a BatchNorm1d without affine parameters.
    """

    def __init__(
        self, in_features: int, hidden: int, out_features: int, layers: int = 2, last_norm: bool = True
    ) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        width = in_features
        for _ in range(layers - 1):
            # The bias would be taken away by the norm that follows.
            steps += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
            width = hidden
        steps.append(nn.Linear(width, out_features, bias=not last_norm))
        if last_norm:
            steps.append(nn.BatchNorm1d(out_features, affine=False))
        self.layers = nn.Sequential(*steps)

    def forward(self, pooled: torch.Tensor) -> torch.Tensor:
        """Embedding (B, out) of pooled features (B, C)."""
        return self.layers(pooled)


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
