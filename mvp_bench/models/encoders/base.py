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

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """The ``architecture`` entry of an nnU-Net plan: ``network_class_name``, ``arch_kwargs``,
        ``_kw_requires_import``; nnU-Net builds the segmentation network from it."""

    @abstractmethod
    def build(self, in_channels: int) -> nn.Module:
        """A freshly initialised encoder (draws from torch's global random state)."""

    def deepest(self, patch: Triple) -> Triple:
        """Voxels of the deepest map for a patch (z, y, x) in voxels."""
        return patch[0] // self.stride, patch[1] // self.stride, patch[2] // self.stride
