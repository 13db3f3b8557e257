"""BrainMVP's second network: a U-Net of pre-activation residual blocks (Rui et al., CVPR 2025).

Parameter names and shapes are those of the released checkpoints, where encoder and decoder lie side by side without
prefix; the axes are (z, y, x), see :mod:`mvp_bench.models.released` for theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

LETTERS = "abcdefgh"
"""Name the parts of a level."""


class PreActivationBlock(nn.Module):
    """(GroupNorm, ReLU, 3^3 convolution) twice, added to the input (B, C, z, y, x).

    Args:
        channels: C, a multiple of ``groups``.
        groups: of the norms.
    """

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.gn1 = nn.GroupNorm(groups, channels)
        self.conv1 = nn.Conv3d(channels, channels, 3, padding=1)
        self.gn2 = nn.GroupNorm(groups, channels)
        self.conv2 = nn.Conv3d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place: neither the norm's gradient nor the ReLU's needs the norm's output as it was.
        inner = self.conv1(functional.relu(self.gn1(x), inplace=True))
        return x + self.conv2(functional.relu(self.gn2(inner), inplace=True))


class UNet3dEncoder(nn.Module):
    """(B, in_channels, z, y, x) -> the levels' maps, finest first, before any activation.

    Args:
        in_channels: channels of the input.
        features: channels per level; the first level has the input's resolution, each further one half of it.
        blocks: residual blocks per level.
        groups: of the norms.
    """

    def __init__(self, in_channels: int, features: Sequence[int], blocks: Sequence[int], groups: int) -> None:
        super().__init__()
        self.paths: list[list[str]] = []
        for level, (channels, count) in enumerate(zip(features, blocks, strict=True), start=1):
            # The first level's input convolution counts as its part "a"; the others have a strided one before.
            if level == 1:
                names, entry = ["conv1a"], nn.Conv3d(in_channels, channels, 3, padding=1)
            else:
                names, entry = [f"ds{level - 1}"], nn.Conv3d(features[level - 2], channels, 3, 2, padding=1)
            self.add_module(names[0], entry)
            letters = LETTERS[1:] if level == 1 else LETTERS
            for letter in letters[:count]:
                names.append(f"conv{level}{letter}")
                self.add_module(names[-1], PreActivationBlock(channels, groups))
            self.paths.append(names)
        self.apply(_initialise)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        maps, x = [], images
        for names in self.paths:
            for name in names:
                x = getattr(self, name)(x)
            maps.append(x)
        return maps


class UNet3dDecoder(nn.Module):
    """The encoder's maps -> (B, out_channels, z, y, x): 1^3 convolution, nearest-neighbour doubling, block, per level.

    Args:
        features: channels of the encoder's levels.
        groups: of the norms.
        out_channels: channels of the output.
        skips: add the encoder's map to each level's; without, only the deepest map is looked at.
        deep_supervision: ``None``: one output. Else every level but the coarsest has an output layer; while true,
            :meth:`forward` returns the list of all outputs, finest first.
    """

    def __init__(
        self,
        features: Sequence[int],
        groups: int,
        out_channels: int = 1,
        *,
        skips: bool = False,
        deep_supervision: bool | None = None,
    ) -> None:
        super().__init__()
        self.skips, self.levels = skips, len(features)
        self.deep_supervision = bool(deep_supervision)
        add_up_path(self, features, groups, out_channels)
        coarse = features[1:-1] if deep_supervision is not None else ()
        self.deep = nn.ModuleList(nn.Conv3d(channels, out_channels, 1) for channels in coarse)
        self.apply(_initialise)

    def forward(
        self, maps: Sequence[torch.Tensor], image: torch.Tensor | None = None
    ) -> torch.Tensor | list[torch.Tensor]:
        levels = climb(self, maps, self.skips)
        output = self.up1conv(levels[0])
        if not self.deep_supervision:
            return output
        return [output, *(head(level) for head, level in zip(self.deep, levels[1:], strict=True))]


def add_up_path(owner: nn.Module, features: Sequence[int], groups: int, out_channels: int) -> None:
    """Create the decoder's layers in ``owner`` under their released names."""
    for level in range(len(features), 1, -1):
        owner.add_module(f"up{level}conva", nn.Conv3d(features[level - 1], features[level - 2], 1))
        owner.add_module(f"up{level}convb", PreActivationBlock(features[level - 2], groups))
    owner.add_module("up1conv", nn.Conv3d(features[0], out_channels, 1))


def climb(owner: nn.Module, maps: Sequence[torch.Tensor], skips: bool) -> list[torch.Tensor]:
    """The decoder's maps before the output layer, finest first, from the layers that :func:`add_up_path` made."""
    x, levels = maps[-1], []
    for level in range(len(maps), 1, -1):
        x = functional.interpolate(getattr(owner, f"up{level}conva")(x), scale_factor=2.0, mode="nearest")
        if skips:
            x = x + maps[level - 2]
        x = getattr(owner, f"up{level}convb")(x)
        levels.append(x)
    return levels[::-1]


def _initialise(module: nn.Module) -> None:
    """He's values for layers that a ReLU precedes, zero biases."""
    if isinstance(module, nn.Conv3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
