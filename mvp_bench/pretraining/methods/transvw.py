"""TransVW (Haghighi et al., TMI 2021): name a visual word, a place in the brain, and restore the crop around it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import nn
from torch.nn import functional

from mvp_bench.config.fields import option
from mvp_bench.config.ranges import RISING, Factor, Ge, Grid, InnerShare, Le, PartialShare, Share, SomeShare
from mvp_bench.errors import InputError
from mvp_bench.models.decoders import unet_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.corruption import Probabilities, corrupt, draw_one_corruption, restoration
from mvp_bench.pretraining.parts.heads import pooled, pooled_features
from mvp_bench.pretraining.parts.visual_words import draw_placement, place_crops, spread_places
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.geometry import cut, displacement_of, draw_control_points, warp
from mvp_bench.registry import METHODS

FOLDING = 0.48
"""Displacement, as a part of the control points' distance, below which an elastic map cannot fold."""


@dataclass(frozen=True)
class TransVWOptions:
    """TransVW's own fields."""

    classes: Annotated[int, Ge(2), Le(4096)] = 44
    """Visual words: places in the brain."""
    crop_edges: Annotated[tuple[InnerShare, InnerShare], RISING] = (0.5, 0.7)
    """Shortest and longest edge of a crop as a share of the patch's; crops are enlarged to the patch's size."""
    jitter: PartialShare = 0.05
    """Largest distance per axis of a crop's centre from its word's place, as a share of the patch's edge."""
    elastic: PartialShare = 0.05
    """Largest elastic displacement. Of crop and target, as a share of the patch's shortest edge."""
    elastic_spacing: SomeShare = 0.25
    """Distance of the elastic map's control points. As a share of the patch's shortest edge."""
    shuffle_edge: Share = 0.1
    """Longest edge of a cell in which voxels are shuffled, as a share of the patch's (two voxels at least)."""
    decreasing: Share = 0.5
    """Share of the intensity curves that decrease: dark becomes bright."""
    weight_classification: Factor = 0.01
    """Factor of the words' cross-entropy beside the restoration's 1."""
    pooling_grid: Grid = 1
    """Boxes per axis over which the deepest features are averaged. For the classifier; 1: the whole map, as published.
    With instance norm averages over the whole map tell little: after 300 steps on small patches the cross-entropy of 16
    words was 2.74 with 1 and 1.27 with 2 (chance: 2.77)."""
    intensity: Intensity = "unit"
    """Intensities fed in. unit alone: percentiles 5 to 95 of the brain mapped to 0 to 1, which curves and noise
    need."""

    @classmethod
    def presets(cls) -> dict[str, TransVWOptions]:
        """Fewer words, and regions for the classifier, for hundreds of steps on small patches."""
        return {"mini": cls(classes=32, pooling_grid=2), "smoke": cls(classes=16, pooling_grid=2)}

    @property
    def probabilities(self) -> Probabilities:
        """What of the corruptions is a choice."""
        return Probabilities(decreasing=self.decreasing, shuffle_edge=self.shuffle_edge)


class View(NamedTuple):
    """What a network is shown of a batch, and what it is to find."""

    corrupted: torch.Tensor
    """(B, 1, z, y, x)."""
    target: torch.Tensor
    """(B, 1, z, y, x): the same crop, warped alike."""
    word: torch.Tensor
    """int64 (B,), on the images' device."""
    there: torch.Tensor
    """bool (B,), on the images' device: the crop lies at its word's place."""


def words_loss(logits: torch.Tensor, word: torch.Tensor, there: torch.Tensor) -> torch.Tensor:
    """Cross-entropy, mean over the samples of all processes that lie at their word's place; 0 if none does.

    All logits equal: log classes.

    Args:
        logits: (B, classes).
        word: int64 (B,).
        there: bool (B,).
    """
    each = functional.cross_entropy(logits.float(), word, reduction="none")
    counted = rows_of_all(there.float())
    return (rows_of_all(each) * counted).sum() / counted.sum().clamp_min(1)


@METHODS.register("transvw", summary="TransVW: name the place in the brain of a corrupted crop, and restore it")
class TransVW(Method[TransVWOptions]):
    """A crop at one of ``classes`` fixed places in the brain, warped and corrupted in one of four ways, is restored by
    a U-Net with skips; a linear classifier on its averaged deepest map names the place. Loss: squared error of the
    sigmoid over all voxels + 0.01 cross-entropy (Haghighi et al., TMI 2021).
    """

    declaration = Declaration(
        title="TransVW",
        intensity=("unit",),
        modalities="independent",
        transferred="stem and encoder; decoder (transferred in the original) and classifier are discarded",
        deviations=(
            "words are places in millimetres from the middle of the brain, spread evenly over where patches can lie; "
            "the search for alike patients by an auto-encoder is left out, as brains lie alike",
            "a word is the same in all modalities",
            "instances of a word are cut anew out of every patch, not stored; a patch that reaches no word's place is "
            "restored but not classified",
            "crops are 0.5 to 0.7 of the patch's edge, enlarged to the patch (original: 50 to 80 voxels, to 64)",
            "the target is warped like the input (released code: target before the warp)",
            "voxels are shuffled inside the random cells of a grid that divides the patch, in place of random boxes",
            "on small profiles fewer words, and the classifier sees regions: with instance norm averages over the "
            "whole map hardly differ between images",
            "encoder only is transferred, as for every method here; AdamW for all methods (original: Adam 1e-3)",
        ),
        views="a crop of the patch at a word's place, enlarged and elastically warped; one of: voxels shuffled in "
        "small cells, intensities through a Bezier curve, boxes painted over, all but windows painted over",
        heads="U-Net decoder with skips, sigmoid; linear classifier on the averaged deepest map",
        budget="Adam 1e-3, halved every 40 epochs; 44 (200) words of 200 instances, crops of 64^3",
        citation="Haghighi et al. Transferable Visual Words: Exploiting the Semantics of Anatomical Patterns for "
        "Self-supervised Learning. IEEE TMI 40, 2021.",
        licence_note="written from the publication; the released code is for non-commercial use only",
    )
    Options = TransVWOptions

    @classmethod
    def check_settings(
        cls, options: TransVWOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        options.probabilities.require_valid()
        high = options.crop_edges[1]
        if options.jitter >= (1 - high) / 2:
            raise InputError(
                option("jitter"),
                found=options.jitter,
                expected=f"below {(1 - high) / 2:.3g}, the room of the longest crops ({high:g} of the patch's edge)",
            )
        if options.elastic >= FOLDING * options.elastic_spacing:
            raise InputError(
                option("elastic"),
                found=options.elastic,
                expected=f"below {FOLDING * options.elastic_spacing:.3g} ({FOLDING} of --elastic-spacing): "
                "stronger maps could fold",
            )
        if options.pooling_grid > min(encoder.deepest(patch)):
            raise InputError(
                option("pooling_grid"),
                found=options.pooling_grid,
                expected=f"1 to {min(encoder.deepest(patch))}, the voxels of the deepest map of {encoder.name}",
            )

    def build(self, context: Context) -> None:
        options = self.options
        self.decoder = unet_decoder(context.encoder)
        self.classifier = nn.Linear(pooled_features(context.encoder, grid=options.pooling_grid), options.classes)
        patch = [voxels * edge for voxels, edge in zip(context.patch, context.spacing, strict=True)]
        # How far from the middle of the brain a crop of the longest edge can be centred.
        room = (1 - options.crop_edges[1]) / 2 - options.jitter
        reach = [max(0.0, whole - edge) / 2 + room * edge for whole, edge in zip(context.largest, patch, strict=True)]
        self.places = spread_places(options.classes, reach, [whole / 2 for whole in context.largest], patch)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        view = self.view(batch, generator)
        maps = self.encoder(view.corrupted)
        logits = self.classifier(pooled(maps, grid=self.options.pooling_grid))
        return {
            "restoration": restoration(self.decoder(maps), view.target),
            "words": LossTerm(
                words_loss(logits, view.word, view.there),
                self.options.weight_classification,
                math.log(self.options.classes),
            ),
        }

    def view(self, batch: Batch, generator: torch.Generator) -> View:
        """Crops at words' places, warped, and corrupted."""
        options, patch = self.options, self.context.patch
        images = batch.images[:, :1]
        device, samples, shortest = images.device, len(images) * batch.shard.world, min(patch)
        placement = draw_placement(samples, options.classes, options.crop_edges, options.jitter, generator)
        points = draw_control_points(
            samples, patch, options.elastic * shortest, options.elastic_spacing * shortest, generator
        )
        drawn = draw_one_corruption(samples, patch, options.probabilities, generator)
        words = place_crops(batch, self.places, placement.own(batch.shard))
        displacement = displacement_of(batch.shard.own(points).to(device), patch)
        target = warp(cut(images, words.crops, patch), displacement, padding="border")
        corrupted = corrupt(target, drawn.own(batch.shard))
        return View(corrupted, target, words.word.to(device), words.there.to(device))

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        view = self.view(batch, generator)
        restored = self.decoder(self.encoder(view.corrupted)).sigmoid()
        return {"views": {"target": view.target, "input": view.corrupted, "restored": restored}}
