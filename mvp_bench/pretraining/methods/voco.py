"""VoCo: volume contrast (Wu et al., CVPR 2024). Where in the patch does this crop come from?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import nn

from mvp_bench.config.fields import option
from mvp_bench.config.ranges import Factor, Few, Ge, Grid, Le, Share, Width
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.heads import Projector, Stages, pooled, pooled_features
from mvp_bench.pretraining.parts.momentum import Teacher
from mvp_bench.pretraining.parts.volume_contrast import (
    absence_loss,
    agreement,
    best_constant,
    crop_size,
    distinctness_loss,
    overlaps,
    position_loss,
    tiles,
)
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.geometry import Crops, cut, draw_flips, draw_turns, flip, plane_of_turns, turn
from mvp_bench.pretraining.views.intensity import apply_gains, draw_gains
from mvp_bench.registry import METHODS

TINY = 1e-6
"""Trivial value of a batch in which nothing counts."""
TRIALS = 2000
"""Target crops from which the best constant prediction is found."""


@dataclass(frozen=True)
class VocoOptions:
    """VoCo's own fields."""

    grid: tuple[Few, Few, Few] = (3, 3, 3)
    """Base crops per axis (z, y, x); they tile the patch."""
    targets: Few = 1
    """Crops at random places of each patch whose overlaps with the base crops are predicted."""
    branch_momentum: Share = 0.9
    """Share of the momentum branch that is kept at a step. Here the teacher's."""
    hidden: Width = 1024
    """Width of the hidden layers of the heads."""
    features: Width = 1024
    """Width of the embedding."""
    layers: Annotated[int, Ge(1), Le(16)] = 3
    """Linear layers of the projector."""
    stages: Stages = "all"
    """Feature maps that are averaged. last: the deepest alone; all: every one, the averages joined."""
    pooling_grid: Grid = 1
    """Boxes per axis over which the deepest features are averaged. With --stages all, every map; 1: the whole map."""
    flip: Share = 0.2
    """Probability of mirroring. Per axis, the whole patch."""
    turn: Share = 0.2
    """Probability of turning the patch by 90, 180 or 270 degrees (or not at all) in a plane of two equal edges."""
    offset: Factor = 0.1
    """Largest number added to intensities, in their units."""
    weight_negative: Factor = 1.0
    """Factor of the loss on base crops that do not overlap with the target."""
    weight_distinct: Factor = 1.0
    """Factor of the loss on base crops that resemble one another."""
    cross_modal: bool = False
    """Pairs of views across the modalities of a case. Base crops from one and targets from another, where there are
    two."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""

    @classmethod
    def presets(cls) -> dict[str, VocoOptions]:
        """``mini`` and ``smoke``: fewer base crops, since patches are small; narrow heads for narrow encoders; averages
        over boxes, since norms have fixed each channel's mean over the map; several targets, which cost little.

        Position loss after 200 steps on patches of 16^3 voxels of a phantom: 0.24; with whole averages and one target
        0.32 (a constant prediction gets 0.22).
        """
        small = cls(grid=(2, 2, 2), targets=4, hidden=128, features=128, pooling_grid=2)
        return {"mini": small, "smoke": small}


@METHODS.register("voco", summary="VoCo: the overlap of a random crop with a grid of base crops is predicted")
class VolumeContrast(Method[VocoOptions]):
    """The patch is tiled by base crops. The cosine of a random crop's features with those of each base crop, averaged
    over (student's crop, teacher's bases) and (teacher's crop, student's bases), shall be the overlap of the two; base
    crops shall be orthogonal. Formulas: :func:`position_loss`, :func:`absence_loss`, :func:`distinctness_loss`.

    All crops of a patch are flipped and turned together, before they are cut, so that overlaps stay what they are.
    """

    declaration = Declaration(
        title="VoCo",
        intensity=("zscore", "unit"),
        modalities="independent",
        transferred="stem and encoder; projector and teacher are discarded",
        deviations=(
            "the volume is the patch that every method gets, tiled by 3 x 3 x 3 base crops (published: 384 x 384 x 96 "
            "voxels of a body, 4 x 4 x 1 base crops of 96^3): a brain is small",
            "crops are resized to multiples of the encoder's stride with at least two deepest voxels per axis "
            "(published: 96^3 to 64^3)",
            "any encoder; features are averages of all its maps, joined, as in nnssl's version (option: deepest map)",
            "target crops vary along all three axes and lie at whole voxels",
            "crops without any brain in them count in no loss",
            "a case shorter than the patch is padded, by at most half a base crop on either side",
            "option: base crops and targets from two modalities of a case",
        ),
        views="27 base crops and a random crop of the patch; mirrored, turned and shifted in intensity together",
        heads="projector of 3 layers with batch norm; teacher (moving average, 0.9) of encoder and projector",
        budget="250,000 steps, volumes of 384 x 384 x 96 at 1.5 mm (16 crops of 64^3 each)",
        citation="Wu, Zhuang, Chen. VoCo: A Simple-yet-Effective Volume Contrastive Learning Framework for 3D Medical "
        "Image Analysis. CVPR 2024.",
        licence_note="written from the publication; the released code is Apache-2.0",
    )
    Options = VocoOptions

    @classmethod
    def check_settings(
        cls, options: VocoOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        grid = " x ".join(map(str, options.grid))
        if math.prod(options.grid) < 2:
            raise InputError(
                option("grid"), found=grid, expected="two base crops at least: one has nothing to differ from"
            )
        if any(n < g * encoder.stride for n, g in zip(patch, options.grid, strict=True)):
            least = " x ".join(str(g * encoder.stride) for g in options.grid)
            raise InputError(
                "--patch-size",
                found=f"{' x '.join(map(str, patch))}, cut into {grid} base crops",
                expected=f"at least {least}: a base crop of {encoder.name}'s stride ({encoder.stride} voxels) or more",
                fix="Raise --patch-size, fewer base crops with --grid, or use an encoder of lower stride.",
            )

    def check(self, context: Context) -> None:
        """Refuse also a case that is shorter than the patch by more than a base crop along an axis: its outer ones
        would be padding for the most part."""
        super().check(context)
        if self.options.cross_modal and context.most_modalities < 2:
            raise InputError(
                "pre-training data",
                found="one modality in every case",
                expected="a case with two modalities, for base crops and targets from different ones",
                fix="Add multi-modal data, or leave out --cross-modal.",
            )
        for axis, count in enumerate(self.options.grid):
            extent, whole = context.smallest[axis], context.patch[axis] * context.spacing[axis]
            crop = whole / count
            if whole - extent > crop:
                raise InputError(
                    context.smallest_cases[axis] or "the smallest case",
                    found=f"{extent:.0f} mm along {'zyx'[axis]}, where the patch is {whole:.0f} mm",
                    expected=f"at least {whole - crop:.0f} mm there: of {count} base crops of {crop:.0f} mm, half of "
                    "the first and half of the last may be padding",
                    fix="Use a smaller --patch-size or a smaller --spacing, or leave the case out.",
                )

    def build(self, context: Context) -> None:
        options = self.options
        self.size = crop_size(context.patch, options.grid, context.encoder.stride)
        width = pooled_features(context.encoder, options.stages, options.pooling_grid)
        self.projector = Projector(width, options.hidden, options.features, options.layers)
        self.teacher_encoder, self.teacher_projector = Teacher(self.encoder), Teacher(self.projector)
        start = self.places(torch.rand(TRIALS, 1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        self.constant = best_constant(overlaps(start, context.patch, options.grid))

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(slots=2 if self.options.cross_modal else 1, intensity=self.options.intensity)

    def after_step(self, step: int) -> None:
        self.teacher_encoder.update(self.encoder, self.options.branch_momentum)
        self.teacher_projector.update(self.projector, self.options.branch_momentum)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        bases, targets, start = self.crops(batch, generator)
        crops = torch.cat([bases, targets], dim=1)
        count = bases.shape[1]
        shown = (crops != 0).flatten(2).any(dim=2)
        both = shown[:, count:, None] & shown[:, None, :count]
        overlap = overlaps(start, self.context.patch, self.options.grid).to(bases.device)
        labels = overlap * both
        student = self._embedded(self.encoder, self.projector, crops, shown)
        with torch.no_grad():
            teacher = self._embedded(self.teacher_encoder, self.teacher_projector, crops, shown)
        predicted = (
            agreement(student[:, count:], teacher[:, :count]) + agreement(teacher[:, count:], student[:, :count])
        ) / 2
        trivial = position_loss(torch.full_like(labels, self.constant), labels)
        absent = absence_loss(predicted, (overlap == 0) & both)
        distinct = distinctness_loss(student[:, :count], shown[:, :count])
        return {
            "position": LossTerm(position_loss(predicted, labels), 1.0, trivial.clamp_min(TINY)),
            "negative": LossTerm(absent, self.options.weight_negative, 1.0),
            "distinct": LossTerm(distinct, self.options.weight_distinct, 1.0),
        }

    def _embedded(
        self, encoder: nn.Module, projector: nn.Module, crops: torch.Tensor, shown: torch.Tensor
    ) -> torch.Tensor:
        """Embeddings (B, N, D) of crops (B, N, *size). Empty ones pass no gradient to the encoder, whose norms would
        multiply it by a thousand each."""
        features = self._pooled(encoder(crops.flatten(0, 1)[:, None]))
        features = torch.where(shown.flatten()[:, None], features, features.detach())
        return projector(features).unflatten(0, crops.shape[:2])

    def _pooled(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        return pooled(maps, self.options.stages, self.options.pooling_grid)

    def crops(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Base crops (B, N, *size), target crops (B, T, *size), and the targets' lower faces in voxels (B, T, 3)."""
        images = self.posed(batch, generator)
        patch, grid, count = self.context.patch, self.options.grid, self.options.targets
        drawn = torch.rand(len(images) * batch.shard.world, count, 3, generator=generator, dtype=torch.float64)
        start = self.places(batch.shard.own(drawn))
        edges = torch.tensor([extent / n for extent, n in zip(patch, grid, strict=True)]).expand(start.shape)
        places = Crops(start.flatten(0, 1), edges.flatten(0, 1))
        targets = cut(images[:, -1:].repeat_interleave(count, dim=0), places, self.size).unflatten(0, start.shape[:2])
        return tiles(images[:, :1], grid, self.size), targets[:, :, 0], start

    def places(self, unit: torch.Tensor) -> torch.Tensor:
        """Numbers in [0, 1) to lower faces of target crops (..., 3): any whole voxel where they fit, equally likely."""
        room = [extent - extent / n for extent, n in zip(self.context.patch, self.options.grid, strict=True)]
        return (unit * (torch.tensor(room, dtype=torch.float64).floor() + 1)).floor()

    def posed(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """The patches (B, slots, z, y, x), all slots of one turned and shifted in intensity alike; background stays."""
        shard, images, rows = batch.shard, batch.images, len(batch.images) * batch.shard.world
        flips = draw_flips(rows, self.options.flip, generator)
        turns = draw_turns(rows, generator) * (torch.rand(rows, generator=generator) < self.options.turn)
        gains = draw_gains(rows, 0.0, self.options.offset, generator)
        images = flip(images, shard.own(flips))
        images = turn(images, shard.own(turns), plane_of_turns(self.context.patch))
        return apply_gains(images, shard.own(gains), only_where=images != 0)

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        bases, targets, start = self.crops(batch, generator)
        nearest = overlaps(start[:, 0], self.context.patch, self.options.grid).argmax(dim=1).to(bases.device)
        base = bases[torch.arange(len(bases), device=bases.device), nearest]
        return {"views": {"patch": batch.images[:, :1], "target": targets[:, 0], "nearest base crop": base}}
