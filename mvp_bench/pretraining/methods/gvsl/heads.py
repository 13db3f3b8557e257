"""Heads that turn two images' features into a map of space."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from mvp_bench.pretraining.parts.heads import pooled
from mvp_bench.pretraining.parts.registration_losses import AFFINE_NUMBERS

NEUTRAL = 1e-2
"""Standard deviation of the heads' first outputs, roughly: they begin near the identity."""


class AffineHead(nn.Module):
    """Deepest maps of A and B -> the numbers of an affine map (B, 12), close to 0 at first.

    No norm before the average: it would leave nothing of it.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(2 * features, features, 3, padding=1)
        self.out = nn.Linear(features, AFFINE_NUMBERS)
        nn.init.normal_(self.out.weight, std=NEUTRAL / math.sqrt(features))
        nn.init.zeros_(self.out.bias)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        mixed = functional.leaky_relu(self.mix(torch.cat([moving, fixed], dim=1)))
        return self.out(pooled([mixed]))


class FlowHead(nn.Module):
    """The decoder's maps of A and B -> a displacement (B, 3, z, y, x) in voxels, close to 0 at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Conv3d(2 * width, width, 1)
        self.out = nn.Conv3d(width, 3, 3, padding=1)
        nn.init.normal_(self.out.weight, std=NEUTRAL / math.sqrt(width))
        nn.init.zeros_(self.out.bias)

    def forward(self, moving: torch.Tensor, fixed: torch.Tensor) -> torch.Tensor:
        return self.out(functional.leaky_relu(self.mix(torch.cat([moving, fixed], dim=1)))).float()
