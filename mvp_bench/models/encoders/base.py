"""What every encoder preset declares."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class EncoderSpec(ABC):
    """Topology of an encoder: fixed for pre-training and for every task, so that weights always fit.

    A built encoder maps (B, C, z, y, x) to a list of feature maps, finest first; map ``i`` has ``features[i]`` channels
    and is smaller than the input by the product of ``strides[: i + 1]``. Its first convolution in registration order
    is its *stem*, the only layer whose shape depends on C.

    A new encoder gives :meth:`build`; decoders and the plan's entry follow, unless it brings its own.
    """

    name: str
    """Registered name."""
    features: tuple[int, ...]
    """Channels of each feature map, finest first."""
    strides: tuple[int, ...]
    """Down-sampling of each stage, isotropic in voxels; the first belongs to the stem's resolution."""

    @property
    def stride(self) -> int:
        """Total stride: every patch axis must be a multiple of it."""
        return math.prod(self.strides)

    @property
    def out_channels(self) -> int:
        """Channels of the deepest map."""
        return self.features[-1]

    @cached_property
    def parameters(self) -> int:
        """Number of trainable parameters with one input channel."""
        import torch

        with torch.device("meta"):
            module = self.build(1)
        return sum(p.numel() for p in module.parameters())

    def resolutions(self) -> list[list[int]]:
        """Strides (z, y, x) of the segmentation network, which begins at the image's resolution."""
        strides = self.strides if self.strides[0] == 1 else (1, *self.strides)
        return [[s] * 3 for s in strides]

    def architecture(self) -> dict[str, Any]:
        """The ``architecture`` entry of an nnU-Net plan: ``network_class_name``, ``arch_kwargs``,
        ``_kw_requires_import``; nnU-Net builds the segmentation network from it.

        nnU-Net's own network where there is one, else :class:`~mvp_bench.models.networks.segmentation.EncoderUNet`
        with the encoder's name.
        """
        return {
            "network_class_name": "mvp_bench.models.networks.segmentation.EncoderUNet",
            "arch_kwargs": {"encoder": self.name, "features": list(self.features), "strides": self.resolutions()},
            "_kw_requires_import": [],
        }

    @abstractmethod
    def build(self, in_channels: int) -> nn.Module:
        """A freshly initialised encoder (draws from torch's global random state)."""

    def skip_free_decoder(self, out_channels: int = 1, *, linear: bool = False) -> nn.Module:
        """A decoder that rebuilds the image from the deepest map alone: list of maps -> (B, out_channels, z, y, x).

        Args:
            linear: without norms and activations, as in the paper; an encoder that has a decoder of its own ignores it.
        """
        from mvp_bench.models.decoders import SkipFreeDecoder

        return SkipFreeDecoder(self.features, self.strides, out_channels, linear=linear)

    def unet_decoder(
        self, out_channels: int = 1, *, image_channels: int = 0, deep_supervision: bool | None = None
    ) -> nn.Module:
        """A decoder with skips: list of maps -> (B, out_channels, z, y, x); all have an attribute ``deep_supervision``.

        Args:
            image_channels: where the first stage is strided, use the image of so many channels as the skip at full
                resolution and expect it as second argument; 0: no such skip, which reconstruction would copy.
            deep_supervision: ``None``: one output. Else every resolution but the coarsest has an output layer; while
                the attribute is true, the output is a list of all, finest first.
        """
        from mvp_bench.models.decoders import nnunet_decoder

        if self.strides[0] != 1:
            from mvp_bench.models.networks.unetr_decoder import UnetrDecoder

            return UnetrDecoder(
                self.features,
                self.strides,
                out_channels,
                image_channels=image_channels,
                deep_supervision=deep_supervision,
            )
        return nnunet_decoder(self.features, self.strides, out_channels, deep_supervision=deep_supervision)

    def deepest(self, patch: Triple) -> Triple:
        """Voxels of the deepest map for a patch (z, y, x) in voxels."""
        return patch[0] // self.stride, patch[1] // self.stride, patch[2] // self.stride
