"""The Swin transformer of Swin UNETR (Hatamizadeh et al., BrainLes 2021; Tang et al., CVPR 2022), through MONAI.

``swinunetr`` takes MONAI's self-supervised weights; ``swinunetr-v2``, with a residual convolution before each stage (He
et al., MICCAI 2023), is the form that VoCo's weights have (Wu et al., CVPR 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.registry import ENCODERS

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class SwinSpec(EncoderSpec):
    """A patch embedding and four stages of windowed attention, each of which halves the resolution."""

    heads: tuple[int, ...]
    """Attention heads per stage."""
    blocks: tuple[int, ...] = (2, 2, 2, 2)
    """Attention blocks per stage; every second one has shifted windows."""
    window: int = 7
    """Edge of a window in tokens."""
    convolutions: bool = False
    """A residual block of 3^3 convolutions before each stage (version 2)."""
    recompute: bool = True
    """Compute each block's inner values again in the backward pass instead of keeping them: attention weights of all
    windows would else be most of the memory."""

    def __post_init__(self) -> None:
        first = self.features[0]
        if self.features != tuple(first * 2**i for i in range(5)) or self.strides != (2,) * 5:
            raise ValueError(f"{self.name}: five maps, each of twice the features and half the resolution")
        if len(self.heads) != 4 or len(self.blocks) != 4:
            raise ValueError(f"{self.name}: heads and blocks must have one entry per stage")

    def build(self, in_channels: int) -> nn.Module:
        import torch

        from mvp_bench.models.networks.swin import SwinEncoder

        with torch.device("cpu"):  # MONAI's constructor reads a tensor's values, which the meta device does not have
            return SwinEncoder(
                in_chans=in_channels,
                embed_dim=self.features[0],
                window_size=(self.window,) * 3,
                patch_size=(self.strides[0],) * 3,
                depths=self.blocks,
                num_heads=self.heads,
                use_checkpoint=self.recompute,
                use_v2=self.convolutions,
            )

    def unet_decoder(
        self, out_channels: int = 1, *, image_channels: int = 0, deep_supervision: bool | None = None
    ) -> nn.Module:
        """Swin UNETR's decoder: all maps but the last but one pass a residual block first."""
        from mvp_bench.models.networks.unetr_decoder import UnetrDecoder

        return UnetrDecoder(
            self.features,
            self.strides,
            out_channels,
            image_channels=image_channels,
            deep_supervision=deep_supervision,
            refined=(0, 1, 2, 4),
            residual_stem=True,
        )


def _register(name: str, summary: str, first: int, **options: bool | tuple[int, ...]) -> SwinSpec:
    features = tuple(first * 2**i for i in range(5))
    spec = SwinSpec(name, features, (2,) * 5, heads=(3, 6, 12, 24), **options)  # type: ignore[arg-type]
    return ENCODERS.register(name, summary)(spec)


SWIN = _register("swinunetr", "encoder of MONAI's Swin UNETR: total stride 32", 48)
SWIN_V2 = _register("swinunetr-v2", "Swin UNETR version 2, with convolutions: total stride 32", 48, convolutions=True)
SWIN_SMOKE = _register("swinunetr-smoke", "for tests: total stride 32", 12, blocks=(1, 1, 1, 1))
