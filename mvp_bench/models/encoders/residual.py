"""nnU-Net's residual encoder (ResEnc; Isensee et al., MICCAI 2024), through ``dynamic_network_architectures``.

``resenc-l`` is the topology of nnU-Net's ResEnc-L preset, which ends at 320 features and a total stride of 32.
nnU-Net's own M and L differ in patch size, not in topology; our ``m`` and ``s`` are lighter networks: ``m`` halves the
blocks, ``s`` also halves the width. ``mini`` and ``smoke`` are for two CPU cores and for tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.norms import NORM_EPS
from mvp_bench.registry import ENCODERS

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class ResidualEncoderSpec(EncoderSpec):
    """Stem (3^3 convolution, InstanceNorm, LeakyReLU), then stages of residual blocks with strided convolutions."""

    blocks: tuple[int, ...]
    """Residual blocks per stage."""
    kernel: int = 3
    """Edge of every convolution, in voxels."""

    def __post_init__(self) -> None:
        if not len(self.features) == len(self.blocks) == len(self.strides):
            raise ValueError(f"{self.name}: features, blocks and strides must have one entry per stage")

    def arch_kwargs(self) -> dict[str, Any]:
        """Arguments of nnU-Net's ResidualEncoderUNet, classes given by dotted name as in a plans file."""
        stages = len(self.features)
        return {
            "n_stages": stages,
            "features_per_stage": list(self.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[self.kernel] * 3 for _ in range(stages)],
            "strides": [[s] * 3 for s in self.strides],
            "n_blocks_per_stage": list(self.blocks),
            "n_conv_per_stage_decoder": [1] * (stages - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": NORM_EPS, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        }

    def architecture(self) -> dict[str, Any]:
        return {
            "network_class_name": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
            "arch_kwargs": self.arch_kwargs(),
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    def build(self, in_channels: int) -> nn.Module:
        """The same module, key for key, as the ``encoder`` of the U-Net that nnU-Net builds from :meth:`architecture`.

        Initialised as nnU-Net does: He weights, zero biases, last norm of each residual block zero.
        """
        import torch
        from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
        from dynamic_network_architectures.building_blocks.residual_encoders import ResidualEncoder

        encoder = ResidualEncoder(
            in_channels,
            len(self.features),
            list(self.features),
            torch.nn.Conv3d,
            self.kernel,
            list(self.strides),
            list(self.blocks),
            conv_bias=True,
            norm_op=torch.nn.InstanceNorm3d,
            norm_op_kwargs={"eps": NORM_EPS, "affine": True},
            nonlin=torch.nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            return_skips=True,
        )
        encoder.apply(ResidualEncoderUNet.initialize)
        return encoder


def _register(spec: ResidualEncoderSpec, summary: str) -> ResidualEncoderSpec:
    return ENCODERS.register(spec.name, summary)(spec)


_WIDE = (32, 64, 128, 256, 320, 320)
_SIX = (1, 2, 2, 2, 2, 2)

RESENC_L = _register(
    ResidualEncoderSpec("resenc-l", _WIDE, _SIX, blocks=(1, 3, 4, 6, 6, 6)), "nnU-Net ResEnc-L, total stride 32"
)
RESENC_M = _register(
    ResidualEncoderSpec("resenc-m", _WIDE, _SIX, blocks=(1, 2, 2, 3, 3, 3)), "ResEnc-L with half the blocks"
)
RESENC_S = _register(
    ResidualEncoderSpec("resenc-s", (16, 32, 64, 128, 160, 160), _SIX, blocks=(1, 1, 2, 2, 2, 2)),
    "half the width and a third of the blocks of ResEnc-L",
)
RESENC_MINI = _register(
    ResidualEncoderSpec("resenc-mini", (8, 16, 32, 64), (1, 2, 2, 2), blocks=(1, 1, 1, 1)),
    "for CPUs: total stride 8",
)
RESENC_SMOKE = _register(
    ResidualEncoderSpec("resenc-smoke", (4, 8, 16), (1, 2, 2), blocks=(1, 1, 1)), "for tests: total stride 4"
)
