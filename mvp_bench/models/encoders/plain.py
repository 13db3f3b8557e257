"""nnU-Net's plain encoder (Isensee et al., Nature Methods 2021), through ``dynamic_network_architectures``.

``plain-l`` is the topology that nnU-Net plans by default in three dimensions: two convolutions per stage, at most 320
features. The others follow the residual presets of the same names; ``m`` would differ from ``l`` in blocks only, which
this encoder has not.
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
class PlainEncoderSpec(EncoderSpec):
    """Stages of 3^3 convolution, InstanceNorm, LeakyReLU; the first convolution of a stage is strided."""

    convolutions: int = 2
    """Per stage, in encoder and decoder."""
    kernel: int = 3
    """Edge of every convolution, in voxels."""

    def architecture(self) -> dict[str, Any]:
        stages = len(self.features)
        return {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": stages,
                "features_per_stage": list(self.features),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[self.kernel] * 3 for _ in range(stages)],
                "strides": [[s] * 3 for s in self.strides],
                "n_conv_per_stage": [self.convolutions] * stages,
                "n_conv_per_stage_decoder": [self.convolutions] * (stages - 1),
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": NORM_EPS, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        }

    def build(self, in_channels: int) -> nn.Module:
        """The same module, key for key, as the ``encoder`` of the network that :meth:`architecture` describes."""
        import torch
        from dynamic_network_architectures.architectures.unet import PlainConvUNet
        from dynamic_network_architectures.building_blocks.plain_conv_encoder import PlainConvEncoder

        encoder = PlainConvEncoder(
            in_channels,
            len(self.features),
            list(self.features),
            torch.nn.Conv3d,
            self.kernel,
            list(self.strides),
            self.convolutions,
            conv_bias=True,
            norm_op=torch.nn.InstanceNorm3d,
            norm_op_kwargs={"eps": NORM_EPS, "affine": True},
            nonlin=torch.nn.LeakyReLU,
            nonlin_kwargs={"inplace": True},
            return_skips=True,
        )
        encoder.apply(PlainConvUNet.initialize)
        return encoder


def _register(spec: PlainEncoderSpec, summary: str) -> PlainEncoderSpec:
    return ENCODERS.register(spec.name, summary)(spec)


_SIX = (1, 2, 2, 2, 2, 2)

PLAIN_L = _register(
    PlainEncoderSpec("plain-l", (32, 64, 128, 256, 320, 320), _SIX), "nnU-Net's default U-Net, total stride 32"
)
PLAIN_S = _register(PlainEncoderSpec("plain-s", (16, 32, 64, 128, 160, 160), _SIX), "half the width of plain-l")
PLAIN_MINI = _register(
    PlainEncoderSpec("plain-mini", (8, 16, 32, 64), (1, 2, 2, 2), convolutions=1), "for CPUs: total stride 8"
)
PLAIN_SMOKE = _register(
    PlainEncoderSpec("plain-smoke", (4, 8, 16), (1, 2, 2), convolutions=1), "for tests: total stride 4"
)
