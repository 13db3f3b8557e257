"""A tiny encoder with batch norm."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from torch import nn

from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.registry import ENCODERS


class Normed(nn.Module):
    """Two stages of convolution, batch norm and ReLU."""

    def __init__(self, in_channels: int, features: tuple[int, ...]) -> None:
        super().__init__()
        widths = (in_channels, *features)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv3d(a, b, 2, 2), nn.BatchNorm3d(b), nn.ReLU()) for a, b in itertools.pairwise(widths)
        )

    def forward(self, image: Any) -> list[Any]:
        maps = []
        for stage in self.stages:
            image = stage(image)
            maps.append(image)
        return maps


@dataclass(frozen=True)
class NormedSpec(EncoderSpec):
    def architecture(self) -> dict[str, Any]:
        return {}

    def build(self, in_channels: int) -> nn.Module:
        return Normed(in_channels, self.features)


def register() -> None:
    """Make it known as ``normed``, once."""
    if "normed" not in ENCODERS:
        ENCODERS.register("normed", "for tests")(NormedSpec("normed", (4, 8), (2, 2)))
