"""MAE: masked auto-encoder (He et al., CVPR 2022) on a convolutional U-Net."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from mvp_bench.config.fields import option
from mvp_bench.config.marks import Off
from mvp_bench.config.ranges import RISING, Angle, Edge, Few, InnerShare, Positive, Share
from mvp_bench.errors import InputError
from mvp_bench.models.decoders import unet_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.reconstruction import constant_mse, masked_mse
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views import geometry
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.registry import METHODS


@dataclass(frozen=True)
class MaeOptions:
    """MAE's own fields."""

    mask_ratio: InnerShare = 0.75
    """Share of the image that is hidden. Of its blocks."""
    block: Edge = 16
    """Edge of a block in voxels."""
    min_blocks: Few = 4
    """Least number of blocks per patch axis: the block is halved until there are as many."""
    augment: Annotated[bool, Off("Training on images as they are, without augmentation.")] = True
    """Augmentation of the training images. Here the patch is mirrored, rotated and scaled before it is masked;
    intensities are left alone."""
    flip: Share = 0.5
    """Probability of mirroring. Per axis."""
    rotation_probability: Share = 0.2
    """Chance of a patch to be rotated."""
    rotation_degrees: Angle = 30.0
    """Largest random rotation, degrees. About each axis."""
    scaling_probability: Share = 0.2
    """Chance of a patch to be scaled, alike along all axes."""
    scaling: Annotated[tuple[Positive, Positive], RISING] = (0.7, 1.4)
    """Lowest and highest edge of what a scaled patch shows, as multiples of the patch's."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""


@dataclass(frozen=True)
class PatchPlacement(Drawn):
    """How each patch is mirrored, rotated and scaled."""

    flips: torch.Tensor
    """bool (n, 3)."""
    theta: torch.Tensor
    """(n, 3, 4), see :func:`geometry.affine_matrices`."""
    moved: torch.Tensor
    """bool (n,): rotated or scaled at all; the others are not resampled."""


def draw_placement(n: int, patch: Sequence[int], options: MaeOptions, generator: torch.Generator) -> PatchPlacement:
    """Mirroring, rotation and scaling of ``n`` patches, each with its own chance."""
    flips = geometry.draw_flips(n, options.flip, generator)
    rotated = torch.rand(n, generator=generator) < options.rotation_probability
    scaled = torch.rand(n, generator=generator) < options.scaling_probability
    angles = math.radians(options.rotation_degrees) * (2 * torch.rand(n, 3, generator=generator) - 1)
    low, high = options.scaling
    factor = low + (high - low) * torch.rand(n, 1, generator=generator)
    none = torch.zeros(n, 3)
    theta = geometry.affine_matrices(
        angles * rotated[:, None], torch.where(scaled[:, None], factor, 1.0).expand(n, 3), none, none, patch
    )
    return PatchPlacement(flips, theta, rotated | scaled)


def placed(images: torch.Tensor, placement: PatchPlacement) -> torch.Tensor:
    """The images (B, 1, z, y, x) mirrored, rotated and scaled; 0 where they are looked past."""
    images = geometry.flip(images, placement.flips)
    rows = placement.moved.nonzero().flatten()
    if not len(rows):
        return images
    index = rows.to(images.device)
    return images.index_copy(0, index, geometry.warp(images[index], None, placement.theta[rows]))


@METHODS.register("mae", summary="MAE: hidden blocks are reconstructed from the visible ones (U-Net with skips)")
class MaskedAutoencoder(Method[MaeOptions]):
    """Blocks are set to zero at the input; the loss is the squared error on hidden voxels only.

    The encoder's norms see the zeros (unlike a transformer, which drops hidden tokens).
    """

    declaration = Declaration(
        title="MAE3D",
        intensity=("zscore", "unit"),
        modalities="independent",
        transferred="stem and encoder; the decoder is discarded",
        deviations=(
            "convolutional: hidden blocks are zeroed at the input instead of dropped",
            "targets are the images themselves, not normalised per block",
            "blocks are halved in small patches until there are four per axis",
            "augmented as nnssl does (mirrored; rotated and scaled with a chance of 0.2 each), inside the patch",
        ),
        views="the patch mirrored, rotated and scaled, with 75 % of its 16^3 blocks zeroed",
        heads="U-Net decoder with skips",
        budget="800 to 1600 epochs, batch 4096 (images); nnssl: 1000 epochs of 250 steps, batch 2, patch 160^3",
        citation="He et al. Masked Autoencoders Are Scalable Vision Learners. CVPR 2022.",
        licence_note="written from the publication",
    )
    Options = MaeOptions

    @classmethod
    def check_settings(
        cls, options: MaeOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        blocks = math.prod(masking.grid_shape(patch, masking.fitting_block(patch, options.block, options.min_blocks)))
        if not 0 < int(options.mask_ratio * blocks) < blocks:
            raise InputError(
                option("mask_ratio"),
                found=f"{options.mask_ratio} of {blocks} blocks",
                expected="at least one block hidden and one visible",
            )

    def build(self, context: Context) -> None:
        self.decoder = unet_decoder(context.encoder)
        self.block = masking.fitting_block(context.patch, self.options.block, self.options.min_blocks)
        self.grid = masking.grid_shape(context.patch, self.block)
        blocks = math.prod(self.grid)
        self.kept = blocks - int(self.options.mask_ratio * blocks)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        target, kept, rebuilt = self.rebuild(batch, generator)
        return {"mae": LossTerm(masked_mse(rebuilt, target, ~kept), 1.0, constant_mse(target, ~kept))}

    def rebuild(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Target, mask (True: visible) and reconstruction, each (B, 1, z, y, x)."""
        target, shard = batch.images[:, :1], batch.shard
        samples, patch = len(target) * shard.world, target.shape[2:]
        grid = masking.draw_kept(samples, self.grid, self.kept, generator)
        kept = masking.to_voxels(shard.own(grid), patch, self.block).to(target.device)
        if self.options.augment:
            target = placed(target, draw_placement(samples, patch, self.options, generator).own(shard))
        return target, kept, self.decoder(self.encoder(masking.fill(target, kept, 0.0)))

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        target, kept, rebuilt = self.rebuild(batch, generator)
        return {"views": {"target": target, "input": target * kept, "reconstruction": rebuilt}}
