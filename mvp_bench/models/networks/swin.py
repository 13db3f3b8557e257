"""MONAI's Swin transformer (Hatamizadeh et al., BrainLes 2021) as an encoder."""

from __future__ import annotations

import torch
from monai.networks.nets.swin_unetr import SwinTransformer

TURN = (0, 1, 4, 3, 2)
"""Between (z, y, x) and MONAI's (x, y, z)."""


class SwinEncoder(SwinTransformer):
    """(B, C, z, y, x) -> five maps, finest first, each layer-normalised over channels without parameters.

    Keys and values are those of ``swinViT`` in MONAI's ``SwinUNETR``, which sees images as (x, y, z): its merging of
    patches and its tables of relative positions treat the axes differently, so that images and maps are turned here.
    """

    def forward(self, images: torch.Tensor, normalize: bool = True) -> list[torch.Tensor]:
        return [feature.permute(TURN) for feature in super().forward(images.permute(TURN), normalize)]
