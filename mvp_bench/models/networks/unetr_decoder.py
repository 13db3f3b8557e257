"""The decoder of UNETR-like networks, from MONAI's blocks: for encoders whose finest map is smaller than the image."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from monai.networks.blocks import UnetrBasicBlock, UnetrUpBlock
from torch import nn

from mvp_bench.models.networks.uniformer import ChannelNorm


class ImageStem(nn.Module):
    """3^3 convolution and a norm over channels: the image's own skip in BrainMVP's segmentation network."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(in_channels, channels, 3, padding=1)
        self.norm = ChannelNorm(channels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.norm(self.proj(image))


def _residual(in_channels: int, out_channels: int) -> UnetrBasicBlock:
    return UnetrBasicBlock(3, in_channels, out_channels, 3, 1, norm_name="instance", res_block=True)


class UnetrDecoder(nn.Module):
    """The encoder's maps, and the image if asked for -> (B, out_channels, z, y, x).

    Per level: transposed convolution without bias, concatenation with the encoder's map, residual block (3^3
    convolutions, InstanceNorm without parameters, LeakyReLU).

    Args:
        features: channels of the encoder's maps, finest first.
        strides: down-sampling of the encoder's stages; all above 1.
        out_channels: channels of the output.
        image_channels: channels of the image that is the skip at full resolution; 0: there is none.
        deep_supervision: ``None``: one output. Else every level but the coarsest has an output layer; while true,
            :meth:`forward` returns the list of all outputs, finest first.
        refined: maps that pass a residual block before they are used (Swin UNETR).
        residual_stem: the image passes a residual block (Swin UNETR) instead of convolution and norm (UniFormer).
    """

    def __init__(
        self,
        features: Sequence[int],
        strides: Sequence[int],
        out_channels: int = 1,
        *,
        image_channels: int = 0,
        deep_supervision: bool | None = None,
        refined: Collection[int] = (),
        residual_stem: bool = False,
    ) -> None:
        super().__init__()
        self.deep_supervision = bool(deep_supervision)
        self.refine = nn.ModuleList(
            _residual(width, width) if level in refined else nn.Identity() for level, width in enumerate(features)
        )
        self.up = nn.ModuleList(
            UnetrUpBlock(3, features[level], features[level - 1], 3, strides[level], "instance", res_block=True)
            for level in range(len(features) - 1, 0, -1)
        )
        finest = features[0]
        self.stem: nn.Module | None = None
        if image_channels:
            self.stem = _residual(image_channels, finest) if residual_stem else ImageStem(image_channels, finest)
            self.last: nn.Module = UnetrUpBlock(3, finest, finest, 3, strides[0], "instance", res_block=True)
        else:
            self.last = nn.Sequential(
                nn.ConvTranspose3d(finest, finest, strides[0], strides[0], bias=False), _residual(finest, finest)
            )
        widths = [finest, *(features[:-1] if deep_supervision is not None else ())]
        self.heads = nn.ModuleList(nn.Conv3d(width, out_channels, 1) for width in widths)

    def forward(
        self, maps: Sequence[torch.Tensor], image: torch.Tensor | None = None
    ) -> torch.Tensor | list[torch.Tensor]:
        skips = [refine(level) for refine, level in zip(self.refine, maps, strict=True)]
        levels = [skips[-1]]
        for up, skip in zip(self.up, reversed(skips[:-1]), strict=True):
            levels.append(up(levels[-1], skip))
        finest = self.last(levels[-1]) if self.stem is None else self.last(levels[-1], self.stem(image))
        if not self.deep_supervision:
            return self.heads[0](finest)
        return [head(level) for head, level in zip(self.heads, [finest, *levels[:0:-1]], strict=True)]
