"""Convolutions and norms that see part of the sites only, as sparse ones would (SparK; Tian et al., ICLR 2023).

A convolution's output is set to zero at hidden sites, and norms take their statistics over visible ones. The dense
kernels compute all sites: it is what a hidden block holds that must not matter, not its cost.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch
from torch import nn

from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining import masking

HARMLESS = (nn.AvgPool3d, nn.MaxPool3d, nn.Identity, nn.Dropout, nn.LeakyReLU, nn.ReLU, nn.GELU, nn.SiLU)
"""Layers that keep hidden sites at zero by themselves: activations of zero are zero, and pooling does not mix hidden
and visible ones as long as its cells lie inside blocks."""


class Sites:
    """Which sites of which map are visible, during a forward pass; shared by the layers that :func:`sparsify` made."""

    def __init__(self) -> None:
        self.visible: dict[tuple[int, ...], torch.Tensor] = {}

    @contextlib.contextmanager
    def shown(self, visible: dict[tuple[int, ...], torch.Tensor]) -> Iterator[None]:
        """Maps of these shapes are sparse inside; outside, the layers are ordinary ones.

        Args:
            visible: shape (z, y, x) of a map -> bool (B, 1, z, y, x); see :func:`visible_sites`.
        """
        self.visible = visible
        try:
            yield
        finally:
            self.visible = {}

    def of(self, maps: torch.Tensor) -> torch.Tensor | None:
        """The visible sites of maps (B, C, z, y, x); None outside :meth:`shown`."""
        return self.visible[tuple(maps.shape[2:])] if self.visible else None


def visible_sites(
    kept: torch.Tensor, patch: Sequence[int], strides: Sequence[int]
) -> dict[tuple[int, ...], torch.Tensor]:
    """The blocks ``kept`` (B, *grid) on every map of an encoder and on its input.

    Args:
        patch: voxels of the input.
        strides: of the encoder's stages; their product is (or divides) a block's edge.
    """
    sites, shape = {}, tuple(patch)
    for stride in (1, *strides):
        shape = tuple(edge // stride for edge in shape)
        sites[shape] = masking.to_voxels(kept, shape, shape[0] // kept.shape[1])
    return sites


def masked_norm(
    maps: torch.Tensor,
    visible: torch.Tensor,
    groups: int,
    weight: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    eps: float = 1e-5,
) -> torch.Tensor:
    """Group norm over the visible sites, zero at the others; groups as many as channels make it the instance norm.

    Statistics in float32; the result has the type of ``maps``.

    Args:
        maps: (B, C, z, y, x); what hidden sites hold does not matter.
        visible: bool (B, 1, z, y, x), at least one site of each sample.
        weight, bias: (C,) or None.
    """
    channels = maps.shape[1]
    count = visible.sum(dim=(2, 3, 4), keepdim=True)
    values = maps.float().masked_fill(~visible, 0.0)
    mean = _per_group(values.sum(dim=(2, 3, 4), keepdim=True) / count, groups)
    centred = (values - mean).masked_fill(~visible, 0.0)
    variance = _per_group(centred.square().sum(dim=(2, 3, 4), keepdim=True) / count, groups)
    scale = (variance + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.float().reshape(1, channels, 1, 1, 1)
    normed = centred * scale
    if bias is not None:
        normed = torch.addcmul(normed, visible.float(), bias.float().reshape(1, channels, 1, 1, 1))
    return normed.to(maps.dtype)


def _per_group(values: torch.Tensor, groups: int) -> torch.Tensor:
    """Each group's mean, for each of its channels: (B, C, 1, 1, 1)."""
    channels = values.shape[1]
    if groups == channels:
        return values
    grouped = values.reshape(len(values), groups, -1).mean(dim=2)
    return grouped.repeat_interleave(channels // groups, dim=1).reshape(values.shape)


class SparseConv3d(nn.Conv3d):
    """A convolution whose output is zero at hidden sites."""

    sites: Sites

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = super().forward(x)
        visible = self.sites.of(output)
        return output if visible is None else output.masked_fill(~visible, 0.0)


class SparseInstanceNorm3d(nn.InstanceNorm3d):
    """An instance norm (without running statistics) over visible sites."""

    sites: Sites

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        visible = self.sites.of(input)
        if visible is None:
            return super().forward(input)
        return masked_norm(input, visible, self.num_features, self.weight, self.bias, self.eps)


class SparseGroupNorm(nn.GroupNorm):
    """A group norm over visible sites."""

    sites: Sites

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        visible = self.sites.of(input)
        if visible is None:
            return super().forward(input)
        return masked_norm(input, visible, self.num_groups, self.weight, self.bias, self.eps)


SPARSE: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv3d: SparseConv3d,
    nn.InstanceNorm3d: SparseInstanceNorm3d,
    nn.GroupNorm: SparseGroupNorm,
}
"""Layer -> the one that can leave sites out."""


def sparsify(network: nn.Module) -> Sites:
    """Turn a network's layers into sparse ones, in place: modules, parameters and the names in the state stay.

    Returns:
        What to tell the layers which sites are visible; until told, they are ordinary ones.
    """
    sites = Sites()
    for module in network.modules():
        kind = SPARSE.get(type(module))
        if kind is not None:
            # The same object under another class: nnU-Net's blocks hold each layer under two names.
            module.__class__ = kind
            module.sites = sites
    return sites


@lru_cache
def dense_layers(encoder: EncoderSpec) -> tuple[str, ...]:
    """Kinds of an encoder's layers that cannot leave sites out (attention, batch norm, ...), by class name."""
    with torch.device("meta"):
        network = encoder.build(1)
    leaves = [module for module in network.modules() if not any(True for _ in module.children())]
    known = (*SPARSE, *HARMLESS)
    return tuple(sorted({type(leaf).__name__ for leaf in leaves if type(leaf) not in known}))
