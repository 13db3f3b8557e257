"""MAE: masked auto-encoder (He et al., CVPR 2022) on a convolutional U-Net."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mvp_bench.models.decoders import unet_decoder
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.reconstruction import constant_mse, masked_mse
from mvp_bench.pretraining.sampling import Batch
from mvp_bench.registry import METHODS


@dataclass(frozen=True)
class MaeOptions:
    """MAE's own fields."""

    mask_ratio: float = 0.75
    """Part of the blocks that is hidden."""
    block: int = 16
    """Edge of a block in voxels."""
    min_blocks: int = 4
    """Blocks per patch axis at least: ``block`` is halved until there are as many."""


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
            "no augmentation",
        ),
        citation="He et al. Masked Autoencoders Are Scalable Vision Learners. CVPR 2022.",
        licence_note="written from the publication",
    )
    Options = MaeOptions

    def build(self, context: Context) -> None:
        self.decoder = unet_decoder(context.encoder)
        self.block = masking.fitting_block(context.patch, self.options.block, self.options.min_blocks)
        self.grid = masking.grid_shape(context.patch, self.block)
        blocks = math.prod(self.grid)
        self.kept = blocks - int(self.options.mask_ratio * blocks)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        target, kept, rebuilt = self.rebuild(batch, generator)
        return {"mae": LossTerm(masked_mse(rebuilt, target, ~kept), 1.0, constant_mse(target, ~kept))}

    def rebuild(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Target, mask (True: visible) and reconstruction, each (B, 1, z, y, x)."""
        target = batch.images[:, :1]
        grid = masking.draw_kept(len(target) * batch.shard.world, self.grid, self.kept, generator)
        kept = masking.to_voxels(batch.shard.own(grid), target.shape[2:], self.block).to(target.device)
        return target, kept, self.decoder(self.encoder(masking.fill(target, kept, 0.0)))

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        target, kept, rebuilt = self.rebuild(batch, generator)
        return {"views": {"target": target, "input": target * kept, "reconstruction": rebuilt}}
