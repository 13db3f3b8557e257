"""PCRLv2's losses (Zhou et al., TPAMI 2023): restore crops, and attract what views share, at a decoder's scales."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar

import torch
from torch import nn
from torch.nn import functional

from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.methods.pcrlv2.network import SiameseHead, UpPath, local_global, simsiam
from mvp_bench.pretraining.methods.pcrlv2.options import Pcrlv2Options, crop_sizes, middle_weight, smallest_global
from mvp_bench.pretraining.methods.pcrlv2.views import CropChanges, damaged, draw_looks, draw_pairs, placed
from mvp_bench.pretraining.reconstruction import constant_mse
from mvp_bench.pretraining.sampling import Batch, SamplingSpec, Shard
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.pretraining.views.geometry import Crops, draw_crops
from mvp_bench.registry import METHODS

GLOBALS = 2
"""Global crops per patch."""
UNRELATED = 1.0
"""1 - cosine of features that have nothing in common."""

DrawnT = TypeVar("DrawnT", bound=Drawn)


def own_views(drawn: DrawnT, views: int, shard: Shard) -> DrawnT:
    """One process's rows of what was drawn for ``views`` views of all samples, one view below the other."""
    return drawn.map(lambda rows: torch.cat([shard.own(view) for view in rows.chunk(views)]))


class CropViews(NamedTuple):
    """Crops of every sample, the first of all samples, then the second, ..."""

    target: torch.Tensor
    """Global crops (2 B, 1, *global size)."""
    cut: torch.Tensor
    """The same as the network sees them."""
    local: torch.Tensor
    """Local crops as the network sees them (L B, 1, *local size)."""


@METHODS.register("pcrlv2", summary="PCRLv2: crops are restored, and attract each other at a decoder's scales")
class Pcrlv2(Method[Pcrlv2Options]):
    """Two overlapping global crops, damaged, are restored at the last and the middle scale of a decoder without skips.
    At a random scale, averages of the global crops' maps attract each other as in SimSiam, and those of local crops
    attract the global ones':
    L = MSE + beta MSE_middle + (1 - cos) + (1 - cos_local), beta = (1 + cos(pi e / E)) / 2 (Zhou et al., TPAMI 2023).

    A case must be as large as the smallest global crop: the cube root of the lowest ``global_scale`` times the patch's
    edge, along every axis. Smaller ones would fill crops with the zeros around them.
    """

    declaration = Declaration(
        title="PCRLv2",
        intensity=("zscore", "unit"),
        modalities="independent",
        transferred="stem and encoder; the decoder is discarded",
        deviations=(
            "all crops are cut out of the patch (original: out of whole volumes), their volumes drawn as parts of it: "
            "30 to 100 % global, 2 to 10 % local",
            "crops are resized to multiples of the encoder's stride, about 2/3 (global) and 1/3 (local) of the patch's "
            "edges (original: 64 x 64 x 32 and 16^3)",
            "decoder of transposed and 3^3 convolutions without norms; its middle scale restores the target averaged "
            "to that resolution",
            "similarities are logged as 1 - cosine (1: unrelated, 0: equal), which has the same gradient",
            "beta goes by the part of the training that is done (original: 240 epochs)",
            "strengths of the affine maps and of blur, noise, gamma and swaps are our own",
        ),
        views="two global crops that overlap and six local crops; inputs blurred, noisy, with swapped blocks",
        heads="decoder without skips; per scale an average with batch norm and a predictor; two output layers",
        budget="240 epochs, batch 32; SGD, learning rate 1e-3, momentum 0.9, weight decay 1e-4, cosine",
        citation="Zhou et al. A Unified Visual Information Preservation Framework for Self-supervised Pre-training in "
        "Medical Image Analysis. TPAMI 2023.",
        licence_note="written from the publication; the released code is MIT",
        min_batch=2,
    )
    Options = Pcrlv2Options
    leaves_parameters_unused = True  # heads of the scales that are not drawn

    @classmethod
    def check_settings(
        cls, options: Pcrlv2Options, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        whole, part = crop_sizes(patch, encoder.stride, options)
        if math.prod(part) >= math.prod(whole):
            raise InputError(
                "--patch-size",
                found=f"{' x '.join(map(str, patch))}: global crops of {' x '.join(map(str, whole))} voxels and local "
                f"ones of {' x '.join(map(str, part))}",
                expected=f"a patch in which local crops, in steps of {encoder.stride} voxels (the total stride of "
                f"{encoder.name}), are smaller than global ones",
            )

    def check(self, context: Context) -> None:
        super().check(context)
        needed = smallest_global(context.patch, self.options)
        for axis, (extent, spacing) in enumerate(zip(context.smallest, context.spacing, strict=True)):
            if extent / spacing < needed[axis]:
                raise InputError(
                    context.smallest_cases[axis] or "pre-training data",
                    found=f"{extent / spacing:.0f} voxels along {'zyx'[axis]}",
                    expected=f"at least {math.ceil(needed[axis])}, the smallest global crop of a patch of "
                    f"{' x '.join(map(str, context.patch))}",
                    fix="Leave the case out, or lower --patch-size or --global-scale.",
                )

    def build(self, context: Context) -> None:
        self.global_size, self.local_size = crop_sizes(context.patch, context.encoder.stride, self.options)
        self.up = UpPath(context.encoder)
        widths = self.up.widths
        self.scales = len(widths)
        self.middle_scale = (self.scales - 1) // 2
        self.heads = nn.ModuleList(SiameseHead(width) for width in widths)
        self.final = nn.Conv3d(widths[-1], 1, 1)
        self.middle = nn.Conv3d(widths[self.middle_scale], 1, 1)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        options = self.options
        scale = int(torch.randint(self.scales, (1,), generator=generator))
        views = self.views(batch, generator)
        maps = self.up(self.encoder(views.cut)[-1], self.scales - 1)
        predictions, projections = (rows.chunk(GLOBALS) for rows in self.heads[scale](maps[scale]))
        local, _ = self.heads[scale](self.up(self.encoder(views.local)[-1], scale)[scale])
        middle = functional.adaptive_avg_pool3d(views.target, maps[self.middle_scale].shape[2:])
        beta = middle_weight(self.context.fraction(step))
        terms = {
            "reconstruction": (self.final(maps[-1]), views.target, options.weight_reconstruction),
            "middle": (self.middle(maps[self.middle_scale]), middle, beta * options.weight_middle),
        }
        return {
            **{
                name: LossTerm((rebuilt.float() - target).square().mean(), weight, constant_mse(target))
                for name, (rebuilt, target, weight) in terms.items()
            },
            "similarity": LossTerm(1 + simsiam(predictions, projections), options.weight_similarity, UNRELATED),
            "local": LossTerm(1 + local_global(local, projections), options.weight_local, UNRELATED),
        }

    def views(self, batch: Batch, generator: torch.Generator) -> CropViews:
        """Global and local crops of every sample."""
        options, patch, image = self.options, self.context.patch, batch.images[:, :1]
        samples = len(image) * batch.shard.world
        first, second = draw_pairs(samples, patch, options, generator)
        pairs = Crops(torch.cat([first.start, second.start]), torch.cat([first.size, second.size]))
        target, looks = self.crops(image, pairs, GLOBALS, self.global_size, batch.shard, generator)
        places = draw_crops(options.local_crops * samples, patch, options.local_scale, generator)
        local, closer = self.crops(image, places, options.local_crops, self.local_size, batch.shard, generator)
        return CropViews(target, damaged(target, looks, options), damaged(local, closer, options))

    def crops(
        self, image: torch.Tensor, places: Crops, views: int, size: Size, shard: Shard, generator: torch.Generator
    ) -> tuple[torch.Tensor, CropChanges]:
        """Crops at this process's ``places``, and what is to be done to them."""
        looks = own_views(draw_looks(len(places), size, self.options, generator), views, shard)
        own = own_views(places, views, shard)
        return placed(image.repeat(views, 1, 1, 1, 1), own, looks, size), looks

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        torch.randint(self.scales, (1,), generator=generator)  # as the losses did before they drew views
        views = self.views(batch, generator)
        rebuilt = self.final(self.up(self.encoder(views.cut)[-1], self.scales - 1)[-1])
        size = len(batch.images)
        shown = {"target": views.target[:size], "input": views.cut[:size], "rebuilt": rebuilt[:size]}
        return {"views": shown, "local": {"crop": views.local[:size]}}
