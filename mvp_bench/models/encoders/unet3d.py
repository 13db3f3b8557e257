"""The U-Net that is the second of BrainMVP's two networks (Rui et al., CVPR 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.registry import ENCODERS

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class UNet3dSpec(EncoderSpec):
    """Pre-activation residual blocks with group norm; the decoders are the network's own, skips are added."""

    blocks: tuple[int, ...]
    """Residual blocks per level."""
    groups: int = 8
    """Groups of the group norms."""

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.blocks) == len(self.strides):
            raise ValueError(f"{self.name}: features, blocks and strides must have one entry per level")
        if self.strides != (1,) + (2,) * (len(self.features) - 1):
            raise ValueError(f"{self.name}: each level but the first halves the resolution")
        if any(width % self.groups for width in self.features):
            raise ValueError(f"{self.name}: features must be multiples of {self.groups}")

    def build(self, in_channels: int) -> nn.Module:
        from mvp_bench.models.networks.unet3d import UNet3dEncoder

        return UNet3dEncoder(in_channels, self.features, self.blocks, self.groups)

    def skip_free_decoder(self, out_channels: int = 1, *, linear: bool = False) -> nn.Module:
        from mvp_bench.models.networks.unet3d import UNet3dDecoder

        return UNet3dDecoder(self.features, self.groups, out_channels)

    def unet_decoder(
        self, out_channels: int = 1, *, image_channels: int = 0, deep_supervision: bool | None = None
    ) -> nn.Module:
        from mvp_bench.models.networks.unet3d import UNet3dDecoder

        return UNet3dDecoder(self.features, self.groups, out_channels, skips=True, deep_supervision=deep_supervision)


UNET3D = ENCODERS.register("unet3d", "BrainMVP's residual U-Net: total stride 8")(
    UNet3dSpec("unet3d", (32, 64, 128, 256), (1, 2, 2, 2), blocks=(1, 2, 2, 4))
)
UNET3D_SMOKE = ENCODERS.register("unet3d-smoke", "for tests: total stride 4")(
    UNet3dSpec("unet3d-smoke", (4, 8, 16), (1, 2, 2), blocks=(1, 1, 1), groups=4)
)
