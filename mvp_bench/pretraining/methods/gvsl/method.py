"""GVSL's pairs, network and losses (He et al., CVPR 2023): register two patients' images while restoring one."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import nn

from mvp_bench.config.fields import option
from mvp_bench.errors import InputError
from mvp_bench.models.decoders import unet_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.methods.gvsl.heads import AffineHead, FlowHead
from mvp_bench.pretraining.methods.gvsl.options import GvslOptions
from mvp_bench.pretraining.methods.gvsl.views import draw_maps, mapped
from mvp_bench.pretraining.parts import registration_losses as registration
from mvp_bench.pretraining.parts.contrastive import case_numbers
from mvp_bench.pretraining.parts.corruption import Corruption, corrupt, draw_corruption
from mvp_bench.pretraining.parts.partners import Pair, draw_pair, next_of_step
from mvp_bench.pretraining.reconstruction import constant_mse
from mvp_bench.pretraining.sampling import Batch, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.geometry import warp
from mvp_bench.registry import METHODS


class GvslPass(NamedTuple):
    """One forward pass."""

    pair: Pair
    damaged: torch.Tensor
    restored: torch.Tensor
    warped: torch.Tensor
    flow: torch.Tensor


@METHODS.register("gvsl", summary="GVSL: two patients' images are registered, and one of them restored (U-Net)")
class Gvsl(Method[GvslOptions]):
    """One U-Net sees A' (a damaged image of one case) and B (another case's, same modality). From both, an affine head
    and a deformable head give a map that pulls A onto B; from A', a third head restores A (He et al., CVPR 2023):
    L = (1 - NCC(warp(A), B)) + MSE(restored, A) + |grad flow|^2 / 3, with NCC in windows of 9^3 voxels.

    A pair without a common modality, or of one case with itself, counts for the restoration only.
    """

    declaration = Declaration(
        title="GVSL",
        intensity=("unit",),
        modalities="uses",
        transferred="stem and encoder; the decoder (transferred in the original) is discarded",
        deviations=(
            "pairs are a patch and the next one of the step, in a modality drawn among those that both cases have",
            "patches of a pair lie where each was drawn, so that they show the same place only in part",
            "voxels are shuffled in small cells that fill the patch (original: in 5000 overlapping boxes)",
            "elastic maps are cubic B-splines, control points 12 voxels apart (original: smoothed noise, sigma 10-13)",
            "windows lie inside the patch and shrink with it; those in which both images are constant do not count",
            "angles are those of voxel space, also in patches that are no cubes",
            "encoder only is transferred, as for every method here (original: encoder and decoder)",
        ),
        views="a damaged patch and another case's patch, both after random affine and elastic maps",
        heads="U-Net decoder with skips, shared; affine, deformable and restoration heads",
        budget="1000 epochs of 200 steps, batch 1 (pair); Adam, learning rate 1e-4",
        citation="He et al. Geometric Visual Similarity Learning in 3D Medical Image Self-supervised Pre-training. "
        "CVPR 2023.",
        licence_note="written from the publication; the released code has no licence",
        min_batch=2,
    )
    Options = GvslOptions

    @classmethod
    def check_settings(
        cls, options: GvslOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size * world, world)  # pairs are made over all processes
        if options.window % 2 == 0:
            raise InputError(option("window"), found=options.window, expected="an odd number of voxels, at least 3")
        if min(patch) < 3:
            raise InputError("--patch-size", found=patch, expected="at least 3 voxels per axis, for windows")

    def build(self, context: Context) -> None:
        self.decoder = unet_decoder(context.encoder, self.options.width)
        self.affine = AffineHead(context.encoder.out_channels)
        self.deformable = FlowHead(self.options.width)
        self.restoration = nn.Conv3d(self.options.width, 1, 1)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(slots=self.options.slots or self.context.most_modalities, intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        options, found = self.options, self.found(batch, generator)
        moving, fixed, valid = found.pair
        # Processes may have different numbers of valid pairs: the mean of theirs is then that of all.
        weight = valid.float()
        weight = weight / rows_of_all(weight).sum().clamp_min(1) * batch.shard.world
        similar = (weight * registration.correlation_loss(found.warped, fixed, options.window)).sum()
        unmoved = (weight * registration.correlation_loss(moving, fixed, options.window)).sum()
        smooth = (weight * registration.smoothness(found.flow)).sum()
        restored = (found.restored.float() - moving).square().mean()
        return {
            "similarity": LossTerm(similar, options.weight_similarity, unmoved),
            "restoration": LossTerm(restored, options.weight_restoration, constant_mse(moving)),
            "smoothness": LossTerm(smooth, options.weight_smoothness, registration.FOLDED),
        }

    def found(self, batch: Batch, generator: torch.Generator) -> GvslPass:
        """Views, and what the network makes of them."""
        options, patch = self.options, self.context.patch
        pair, damage = self.views(batch, generator)
        harmed = corrupt(pair.image, damage)
        maps = self.encoder(torch.cat([harmed, pair.other]))
        deep, fine = maps[-1].chunk(2), self.decoder(maps).chunk(2)
        numbers = self.affine(*deep)
        theta = registration.bounded_affine(
            numbers, math.radians(options.rotation_degrees), options.scale, math.radians(options.shear_degrees), patch
        )
        flow = self.deformable(*fine)
        return GvslPass(pair, harmed, self.restoration(fine[0]), warp(pair.image, flow, theta), flow)

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[Pair, Corruption]:
        """The pair after random maps of both, and how A is to be damaged."""
        pair, patch, shard = self.draw_pair(batch, generator), self.context.patch, batch.shard
        samples = len(pair.image) * shard.world
        first, second = (part.own(shard) for part in draw_maps(2 * samples, patch, self.options, generator).chunk(2))
        damage = draw_corruption(samples, patch, self.options.damage, generator).own(shard)
        return Pair(mapped(pair.image, first), mapped(pair.other, second), pair.valid), damage

    def draw_pair(self, batch: Batch, generator: torch.Generator) -> Pair:
        """Valid are pairs of two different cases with a modality in common."""
        pair = draw_pair(batch, len(self.context.modalities), generator)
        cases = case_numbers(batch.cases, batch.images.device)
        return pair._replace(valid=pair.valid & (cases != next_of_step(cases, batch.shard)))

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        found = self.found(batch, generator)
        return {
            "views": {
                "A": found.pair.image,
                "A damaged": found.damaged,
                "A restored": found.restored,
                "A warped to B": found.warped,
                "B": found.pair.other,
            }
        }
