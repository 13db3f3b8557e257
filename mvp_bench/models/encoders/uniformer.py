"""UniFormer, the first of BrainMVP's two networks (Rui et al., CVPR 2025; Li et al., ICLR 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.registry import ENCODERS

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class UniformerSpec(EncoderSpec):
    """Stages of local convolution blocks, then of global attention; batch norm in the former and at the end."""

    blocks: tuple[int, ...]
    """Blocks per stage."""
    local_stages: int = 2
    """The first so many stages have convolution blocks, the others attention."""
    head_width: int = 64
    """Channels per attention head."""
    expansion: int = 4
    """Width of an MLP's hidden layer as a multiple of its input."""

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.blocks) == len(self.strides):
            raise ValueError(f"{self.name}: features, blocks and strides must have one entry per stage")
        if any(width % self.head_width for width in self.features[self.local_stages :]):
            raise ValueError(f"{self.name}: attention needs features in multiples of {self.head_width}")

    def build(self, in_channels: int) -> nn.Module:
        from mvp_bench.models.networks.uniformer import Uniformer

        return Uniformer(
            in_channels,
            self.features,
            self.strides,
            self.blocks,
            self.local_stages,
            self.head_width,
            self.expansion,
        )


UNIFORMER_S = ENCODERS.register("uniformer-s", "UniFormer-small, the encoder of BrainMVP: total stride 16")(
    UniformerSpec("uniformer-s", (64, 128, 320, 512), (2, 2, 2, 2), blocks=(3, 4, 8, 3))
)
UNIFORMER_SMOKE = ENCODERS.register("uniformer-smoke", "for tests: total stride 8")(
    UniformerSpec("uniformer-smoke", (8, 16, 32), (2, 2, 2), blocks=(1, 1, 1), head_width=16, expansion=2)
)
