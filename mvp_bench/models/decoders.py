"""Decoders: skip-free (everything must pass the deepest map) for pre-training, and U-Net (with skips)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from dynamic_network_architectures.building_blocks.unet_decoder import UNetDecoder
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from mvp_bench.models.norms import NORM_EPS


class HasDecoders(Protocol):
    """What has decoders of its own to offer: an encoder's preset (``encoders.base.EncoderSpec``)."""

    def unet_decoder(self, out_channels: int = 1) -> nn.Module:
        """A decoder with skips."""

    def skip_free_decoder(self, out_channels: int = 1, *, linear: bool = False) -> nn.Module:
        """A decoder without skips."""


class SkipFreeDecoder(nn.Module):
    """Transposed convolutions from the deepest feature map to the input's resolution, and a 1^3 convolution.

    Each up-sampling step is followed by InstanceNorm and LeakyReLU, except the last: a norm before the output would
    take away the patch's mean, which the reconstruction needs. With ``linear`` there are neither norms, activations nor
    biases (the paper's decoder).

    Args:
        features: channels of the encoder's maps, finest first.
        strides: down-sampling of the encoder's stages.
        out_channels: channels of the output.
        linear: leave out norms, activations and biases.
    """

    def __init__(
        self, features: Sequence[int], strides: Sequence[int], out_channels: int = 1, *, linear: bool = False
    ) -> None:
        super().__init__()
        steps: list[nn.Module] = []
        # The output of step i has the channels of the next finer map; a strided first stage needs one step more.
        targets = [features[max(stage - 1, 0)] for stage in reversed(range(len(features)))]
        sources = [features[-1], *targets]
        active = [i for i, stride in enumerate(reversed(strides)) if stride > 1]
        for i in active:
            stride = strides[len(strides) - 1 - i]
            steps.append(nn.ConvTranspose3d(sources[i], targets[i], stride, stride, bias=not linear))
            if not linear and i != active[-1]:
                steps.append(nn.InstanceNorm3d(targets[i], eps=NORM_EPS, affine=True))
            if not linear:
                steps.append(nn.LeakyReLU(inplace=True))
        self.up = nn.Sequential(*steps)
        self.out = nn.Conv3d(targets[active[-1]] if active else features[-1], out_channels, 1)
        self.apply(InitWeights_He(1e-2))

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Reconstruction (B, out, z, y, x) from the encoder's list of maps; only the last is looked at."""
        return self.out(self.up(maps[-1]))


@dataclass(frozen=True)
class _EncoderFacts:
    """The attributes that nnU-Net's UNetDecoder reads from an encoder.

    Given in the encoder's place so that the decoder does not swallow the encoder as a submodule, which would list
    every encoder tensor twice in the state.
    """

    output_channels: list[int]
    strides: list[list[int]]
    kernel_sizes: list[list[int]]
    conv_op: Any = nn.Conv3d
    conv_bias: bool = True
    norm_op: Any = nn.InstanceNorm3d
    norm_op_kwargs: dict[str, Any] = field(default_factory=lambda: {"eps": NORM_EPS, "affine": True})
    dropout_op: Any = None
    dropout_op_kwargs: Any = None
    nonlin: Any = nn.LeakyReLU
    nonlin_kwargs: dict[str, Any] = field(default_factory=lambda: {"inplace": True})


def nnunet_decoder(
    features: Sequence[int],
    strides: Sequence[int],
    out_channels: int = 1,
    kernel: int = 3,
    *,
    deep_supervision: bool | None = None,
) -> nn.Module:
    """nnU-Net's decoder with skips for an encoder whose finest map has the input's resolution.

    Its ``forward`` takes the encoder's list of maps and returns (B, out, z, y, x), or all outputs, finest first.

    Args:
        features: channels of the encoder's maps, finest first.
        strides: down-sampling of the encoder's stages; the first is 1.
        out_channels: channels of the output.
        kernel: edge of every convolution, in voxels.
        deep_supervision: ``None``: one output; else whether to return those of all resolutions but the coarsest.
    """
    if strides[0] != 1:
        raise ValueError("nnU-Net's decoder needs a finest map at the input's resolution")
    facts = _EncoderFacts(
        output_channels=list(features),
        strides=[[s] * 3 for s in strides],
        kernel_sizes=[[kernel] * 3 for _ in features],
    )
    decoder = UNetDecoder(facts, out_channels, 1, deep_supervision=bool(deep_supervision))
    if deep_supervision is None:
        decoder.seg_layers = nn.ModuleList([decoder.seg_layers[-1]])
    decoder.apply(InitWeights_He(1e-2))
    return decoder


def unet_decoder(spec: HasDecoders, out_channels: int = 1) -> nn.Module:
    """The encoder's decoder with skips, for reconstruction: list of maps -> (B, out, z, y, x)."""
    return spec.unet_decoder(out_channels)


def skip_free_decoder(spec: HasDecoders, out_channels: int = 1, *, linear: bool = False) -> nn.Module:
    """The encoder's decoder without skips: list of maps -> (B, out, z, y, x); see :class:`SkipFreeDecoder`."""
    return spec.skip_free_decoder(out_channels, linear=linear)
