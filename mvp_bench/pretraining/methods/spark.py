"""SparK (Tian et al., ICLR 2023): masked image modelling for convolutional encoders, which see visible sites only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn
from torch.nn import functional

from mvp_bench.config.fields import option
from mvp_bench.config.marks import Off
from mvp_bench.config.ranges import InnerShare
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.norms import NORM_EPS
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.sparse import dense_layers, masked_norm, sparsify, visible_sites
from mvp_bench.pretraining.reconstruction import constant_mse, masked_mse
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.registry import METHODS

TOKEN_STD = 0.02
"""Standard deviation of the tokens' first values, which are normal, cut off at twice that."""
BLOCK_EPS = 1e-6
"""Added to a block's variance before the root; a block of background alone becomes 0."""
LEAST_VISIBLE = 2
"""Visible sites of the deepest map below which a norm leaves nothing of it."""


@dataclass(frozen=True)
class SparkOptions:
    """SparK's own fields."""

    mask_ratio: InnerShare = 0.6
    """Share of the image that is hidden. Of its blocks; a block is as large as the encoder's total stride."""
    normalise_targets: Annotated[bool, Off("Prediction of the image itself.")] = True
    """Prediction of each block less its mean, divided by its standard deviation, as published."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""


class Densify(nn.Module):
    """Makes a sparse map dense: norm over visible sites, a learnable vector at hidden ones, projection.

    Args:
        channels: of the map.
        project: 3^3 convolution; else the identity.
    """

    def __init__(self, channels: int, project: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.token = nn.Parameter(torch.empty(channels))
        nn.init.trunc_normal_(self.token, std=TOKEN_STD, a=-2 * TOKEN_STD, b=2 * TOKEN_STD)
        self.project = nn.Conv3d(channels, channels, 3, padding=1) if project else nn.Identity()

    def forward(self, sparse: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        """(B, C, z, y, x) of which bool (B, 1, z, y, x) is visible -> dense, same shape."""
        normed = masked_norm(sparse, visible, sparse.shape[1], self.weight, self.bias, NORM_EPS)
        token = self.token.to(normed.dtype).reshape(1, -1, 1, 1, 1)
        return self.project(torch.where(visible, normed, token))


class LightDecoder(nn.Module):
    """Per scale: doubling by a transposed convolution, the next finer map added, 3^3 convolution, norm, activation.

    The finest scale has no norm, which would take away what the output's mean must be told from.

    Args:
        features, strides: the encoder's.
    """

    def __init__(self, features: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.up, self.mix = nn.ModuleList(), nn.ModuleList()
        for scale in reversed(range(len(features) - 1)):
            width, stride = features[scale], strides[scale + 1]
            self.up.append(nn.ConvTranspose3d(features[scale + 1], width, stride, stride))
            norm = [nn.InstanceNorm3d(width, eps=NORM_EPS, affine=True)] if scale else []
            self.mix.append(nn.Sequential(nn.Conv3d(width, width, 3, padding=1), *norm, nn.LeakyReLU(inplace=True)))
        self.out = nn.ConvTranspose3d(features[0], 1, strides[0], strides[0])

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Dense maps, finest first -> (B, 1, z, y, x) at the image's resolution."""
        x = maps[-1]
        for up, mix, skip in zip(self.up, self.mix, reversed(maps[:-1]), strict=True):
            x = mix(up(x) + skip)
        return self.out(x)


def normalised_blocks(images: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The images (B, 1, z, y, x) with each block's mean 0 and variance 1, and the means and standard deviations that
    undo it, of the same shape."""
    images = images.float()
    mean = _enlarged(functional.avg_pool3d(images, block), block)
    variance = functional.avg_pool3d((images - mean).square(), block)
    deviation = _enlarged((variance + BLOCK_EPS).sqrt(), block)
    return (images - mean) / deviation, mean, deviation


def _enlarged(cells: torch.Tensor, factor: int) -> torch.Tensor:
    for axis in (2, 3, 4):
        cells = cells.repeat_interleave(factor, dim=axis)
    return cells


@METHODS.register("spark", summary="SparK: hidden blocks from visible ones by an encoder that never sees hidden sites")
class SparK(Method[SparkOptions]):
    """Blocks as large as the encoder's total stride are hidden at every scale: convolutions give zero there, norms take
    their statistics elsewhere. Each map is made dense with a learnable token and added into a light decoder; the loss
    is the squared error on hidden blocks, normalised block by block (Tian et al. 2023, section 3). Trivial: each
    sample's mean over hidden voxels.
    """

    declaration = Declaration(
        title="SparK-3D",
        intensity=("zscore", "unit"),
        modalities="independent",
        transferred="stem and encoder; tokens, projections and decoder are discarded",
        deviations=(
            "in 3-D; sparse convolutions are dense ones with hidden sites set to zero",
            "the encoder's own instance or group norms over visible sites (published: batch norm)",
            "the decoder is as wide as the encoder at each scale, with one convolution per scale (published: two, "
            "widths halved from the coarsest), InstanceNorm and LeakyReLU",
            "no augmentation (published: random crops and flips); AdamW instead of LAMB",
        ),
        views="the visible 40 % of the patch's blocks (edge: total stride), hidden ones absent at every scale",
        heads="norm, token and projection per scale; decoder with additive skips",
        budget="1600 epochs, LAMB, batch 4096 (images)",
        citation="Tian et al. Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling. "
        "ICLR 2023.",
        licence_note="written from the publication; the released code is MIT",
    )
    Options = SparkOptions

    @classmethod
    def misfit(cls, encoder: EncoderSpec) -> str:
        dense = dense_layers(encoder)
        if not dense:
            return ""
        return (
            f"SparK hides sites from convolutions and from instance and group norms; {encoder.name} also has "
            f"{', '.join(dense)}, which would see them."
        )

    @classmethod
    def check_settings(
        cls, options: SparkOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        blocks = math.prod(encoder.deepest(patch))
        if not LEAST_VISIBLE <= masking.kept_blocks(blocks, options.mask_ratio) < blocks:
            raise InputError(
                option("mask_ratio"),
                found=f"{options.mask_ratio} of {blocks} blocks of {encoder.stride}^3 voxels",
                expected=f"at least {LEAST_VISIBLE} blocks visible and one hidden",
                fix="Choose another ratio, or a larger patch.",
            )

    def build(self, context: Context) -> None:
        spec = context.encoder
        self.sites = sparsify(self.encoder)
        deepest = len(spec.features) - 1
        self.densify = nn.ModuleList(Densify(width, scale < deepest) for scale, width in enumerate(spec.features))
        self.decoder = LightDecoder(spec.features, spec.strides)
        self.grid = spec.deepest(context.patch)
        self.kept = masking.kept_blocks(math.prod(self.grid), self.options.mask_ratio)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        kept, rebuilt = self.rebuild(batch, generator)
        target = batch.images[:, :1]
        if self.options.normalise_targets:
            target = normalised_blocks(target, self.context.encoder.stride)[0]
        return {"spark": LossTerm(masked_mse(rebuilt, target, ~kept), 1.0, constant_mse(target, ~kept))}

    def rebuild(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Mask (True: visible) and prediction, each (B, 1, z, y, x)."""
        images, spec = batch.images[:, :1], self.context.encoder
        grid = batch.shard.own(masking.draw_kept(len(images) * batch.shard.world, self.grid, self.kept, generator))
        visible = visible_sites(grid.to(images.device), images.shape[2:], spec.strides)
        maps = self.encode(images, visible)
        dense = [part(m, visible[tuple(m.shape[2:])]) for part, m in zip(self.densify, maps, strict=True)]
        return visible[tuple(images.shape[2:])], self.decoder(dense)

    def encode(self, images: torch.Tensor, visible: dict[tuple[int, ...], torch.Tensor]) -> list[torch.Tensor]:
        """The encoder's maps of images (B, 1, z, y, x), of which hidden sites are not seen, and are zero."""
        with self.sites.shown(visible):
            return self.encoder(masking.fill(images, visible[tuple(images.shape[2:])], 0.0))

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        images = batch.images[:, :1]
        kept, rebuilt = self.rebuild(batch, generator)
        if self.options.normalise_targets:
            _, mean, deviation = normalised_blocks(images, self.context.encoder.stride)
            rebuilt = rebuilt * deviation + mean
        shown = {"target": images, "visible": images * kept, "reconstruction": torch.where(kept, images, rebuilt)}
        return {"views": shown}
