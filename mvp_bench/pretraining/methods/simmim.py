"""SimMIM (Xie et al., CVPR 2022): hidden blocks become a learnable token, one linear layer predicts their voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mvp_bench.config.fields import option
from mvp_bench.config.ranges import Edge, Few, InnerShare
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.models.weights import stem_name
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.reconstruction import constant_l1, masked_l1
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.registry import METHODS

TOKEN_STD = 0.02
"""Standard deviation of the token's first values, which are normal, cut off at twice that."""


@dataclass(frozen=True)
class SimMimOptions:
    """SimMIM's own fields."""

    mask_ratio: InnerShare = 0.6
    """Share of the image that is hidden. Of its blocks."""
    block: Edge = 32
    """Edge of a block in voxels."""
    min_blocks: Few = 3
    """Least number of blocks per patch axis: the block is halved until there are as many."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""


class MaskToken(nn.Module):
    """Puts one learnable vector in the place of the stem's output wherever its input is hidden.

    Hidden voxels come to the encoder as NaN: marked so, they are found at the stem whatever the encoder did to the
    axes on the way (Swin's turns them). They are 0 for the stem's convolution, so that no visible voxel's feature has
    seen a hidden voxel.

    Args:
        stem: the encoder's first convolution; two hooks are left on it, which add nothing to its state and do nothing
            to images without NaN.
    """

    def __init__(self, stem: nn.Conv3d) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.empty(stem.out_channels))
        nn.init.trunc_normal_(self.token, std=TOKEN_STD, a=-2 * TOKEN_STD, b=2 * TOKEN_STD)
        self._hidden: torch.Tensor | None = None
        # Bound methods, not closures: a deep copy of the method has hooks that point to the copy's token.
        stem.register_forward_pre_hook(self.blank)
        stem.register_forward_hook(self.place)

    def blank(self, stem: nn.Module, inputs: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Remember where the image (B, 1, ...) is NaN, and set it to 0 there."""
        (image,) = inputs
        hidden = image.isnan()
        self._hidden = hidden
        return image.masked_fill(hidden, 0.0)

    def place(self, stem: Any, inputs: object, output: torch.Tensor) -> torch.Tensor:
        """The token where the voxels below were hidden: all were or none, as the stem's stride divides a block."""
        assert self._hidden is not None  # set on the way in
        z, y, x = stem.stride
        hidden, self._hidden = self._hidden[:, :1, ::z, ::y, ::x], None
        return torch.where(hidden, self.token.to(output.dtype).reshape(1, -1, 1, 1, 1), output)


def shuffle_voxels(values: torch.Tensor, factor: int) -> torch.Tensor:
    """3-D pixel shuffle: (B, C factor^3, z, y, x) -> (B, C, z factor, y factor, x factor), a bijection.

    Channel ((c factor + i) factor + j) factor + k of a voxel becomes channel c of its sub-voxel (i, j, k).
    """
    size, channels, z, y, x = values.shape
    parts = values.reshape(size, channels // factor**3, factor, factor, factor, z, y, x)
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(size, -1, z * factor, y * factor, x * factor)


def unshuffle_voxels(values: torch.Tensor, factor: int) -> torch.Tensor:
    """Inverse of :func:`shuffle_voxels`."""
    size, channels, z, y, x = values.shape
    parts = values.reshape(size, channels, z // factor, factor, y // factor, factor, x // factor, factor)
    return parts.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(size, -1, z // factor, y // factor, x // factor)


@METHODS.register("simmim", summary="SimMIM: hidden blocks become a token, a linear head predicts their voxels (L1)")
class SimMim(Method[SimMimOptions]):
    """The stem's features of hidden blocks are replaced by one learnable token; the deepest map is turned into voxels
    by a 1^3 convolution and a 3-D pixel shuffle; the loss is the mean absolute error on hidden voxels only
    (Xie et al. 2022, section 3). Trivial: the median of each sample's hidden voxels.

    The stem is an encoder's first convolution, which every encoder has: the patch embedding of a transformer, the
    first 3^3 convolution elsewhere. Norms behind it see the token.
    """

    declaration = Declaration(
        title="SimMIM",
        intensity=("zscore", "unit"),
        modalities="independent",
        transferred="stem and encoder; token and head are discarded",
        deviations=(
            "any encoder: the token takes the place of the first convolution's output (at full resolution where that "
            "has stride 1), and hidden voxels are 0 for this convolution, whose kernels may overlap",
            "in 3-D, blocks of 32^3 halved in small patches until there are three per axis",
            "no augmentation (published: random crops and flips)",
        ),
        views="the patch with the token in place of 60 % of its 32^3 blocks",
        heads="one 1^3 convolution and a pixel shuffle",
        budget="100 to 800 epochs, AdamW, batch 2048 (images)",
        citation="Xie et al. SimMIM: a Simple Framework for Masked Image Modeling. CVPR 2022.",
        licence_note="written from the publication; the released code is MIT",
    )
    Options = SimMimOptions

    @classmethod
    def check_settings(
        cls, options: SimMimOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        block = masking.fitting_block(patch, options.block, options.min_blocks)
        blocks = math.prod(masking.grid_shape(patch, block))
        if not 0 < masking.kept_blocks(blocks, options.mask_ratio) < blocks:
            raise InputError(
                option("mask_ratio"),
                found=f"{options.mask_ratio} of {blocks} blocks",
                expected="at least one block hidden and one visible",
            )
        if block % encoder.strides[0]:
            raise InputError(
                option("block"),
                found=f"{block} voxels in this patch",
                expected=f"a multiple of {encoder.strides[0]}, the stride of the first layer of {encoder.name}",
                fix="Choose another block, or a larger patch.",
            )

    def build(self, context: Context) -> None:
        self.block = masking.fitting_block(context.patch, self.options.block, self.options.min_blocks)
        self.grid = masking.grid_shape(context.patch, self.block)
        self.kept = masking.kept_blocks(math.prod(self.grid), self.options.mask_ratio)
        self.token = MaskToken(self.encoder.get_submodule(stem_name(self.encoder)))
        self.head = nn.Conv3d(context.encoder.out_channels, context.encoder.stride**3, 1)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        target, kept, rebuilt = self.rebuild(batch, generator)
        return {"simmim": LossTerm(masked_l1(rebuilt, target, ~kept), 1.0, constant_l1(target, ~kept))}

    def rebuild(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Target, mask (True: visible) and reconstruction, each (B, 1, z, y, x)."""
        target = batch.images[:, :1]
        grid = masking.draw_kept(len(target) * batch.shard.world, self.grid, self.kept, generator)
        kept = masking.to_voxels(batch.shard.own(grid), target.shape[2:], self.block).to(target.device)
        deepest = self.encoder(masking.fill(target, kept, torch.nan))[-1]
        return target, kept, shuffle_voxels(self.head(deepest), self.context.encoder.stride)

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        target, kept, rebuilt = self.rebuild(batch, generator)
        return {"views": {"target": target, "visible": target * kept, "reconstruction": rebuilt}}
