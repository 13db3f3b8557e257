"""Swin UNETR's pre-training (Tang et al., CVPR 2022): tell turns, contrast views, restore what was cut out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

from mvp_bench.config.ranges import Factor, Grid, Positive, Share, Shares, Width
from mvp_bench.errors import InputError
from mvp_bench.models.decoders import skip_free_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.contrastive import case_numbers, nt_xent, trivial_nt_xent
from mvp_bench.pretraining.parts.heads import Projector, pooled, pooled_features
from mvp_bench.pretraining.parts.partners import next_of_step
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.boxes import MOST_BOXES, Boxes, draw_boxes, edge_range, last_box
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.pretraining.views.geometry import draw_turns, plane_of_turns, turn
from mvp_bench.pretraining.views.intensity import gaussian_noise
from mvp_bench.registry import METHODS

TURNS = 4
"""Classes of the rotation head."""
BOXES = 3 * MOST_BOXES
"""Boxes drawn per cut-out: with edges of 5 to 25 % they cover about 40 % of a patch, more than is cut out."""
FLAT = 1e-6
"""Added to a range of intensities that is divided by."""


@dataclass(frozen=True)
class SwinSslOptions:
    """Fields of Swin UNETR's pre-training."""

    weight_rotation: Factor = 1.0
    """Factor of the cross-entropy of turns."""
    weight_contrastive: Factor = 1.0
    """Factor of the contrastive loss. NT-Xent between the two views."""
    weight_reconstruction: Factor = 1.0
    """Factor of the reconstruction's error. The mean absolute one."""
    cut_noise: Share = 0.3
    """Largest share of a patch that noise replaces."""
    cut_other: Share = 0.3
    """Largest share of a patch that another sample's voxels then replace."""
    box_edges: Shares = (0.05, 0.25)
    """Shortest and longest edge of a box as shares of the patch's."""
    temperature: Positive = 0.5
    """Temperature of the contrastive loss, by which similarities are divided."""
    features: Width = 512
    """Width of the embedding."""
    pooling_grid: Grid = 1
    """Boxes per axis over which the deepest features are averaged. 1: the whole map."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""

    @classmethod
    def presets(cls) -> dict[str, SwinSslOptions]:
        """``mini`` and ``smoke``: heads look at eighths of the map. In short runs they learn nothing from its average,
        which instance norm makes nearly the same for every image: after 160 steps on phantom-like images rotation and
        contrast were at 100 and 99 % of their trivial values, with eighths at 78 %."""
        short = cls(pooling_grid=2)
        return {"mini": short, "smoke": short}


@dataclass(frozen=True)
class Cuts(Drawn):
    """What is cut out of every image of a view, and how it is turned before."""

    turns: torch.Tensor
    """int64 (n,)."""
    noise_start: torch.Tensor
    """int64 (n, N, 3): as in :class:`~mvp_bench.pretraining.views.boxes.Boxes`; here of those filled with noise."""
    noise_stop: torch.Tensor
    other_start: torch.Tensor
    other_stop: torch.Tensor
    noise: torch.Tensor
    """(n, 1, *patch), standard normal."""


class SwinViews(NamedTuple):
    """Two views of every sample, one below the other: (2 B, 1, z, y, x)."""

    cut: torch.Tensor
    target: torch.Tensor
    """Turned, not cut."""
    turns: torch.Tensor
    """int64 (2 B,)."""


def draw_cuts(n: int, patch: Size, options: SwinSslOptions, generator: torch.Generator) -> Cuts:
    """Turns, boxes and noise of ``n`` images."""
    lo, hi = edge_range(patch, *options.box_edges)
    boxes = [draw_boxes(n, BOXES, lo, hi, patch, generator) for _ in range(2)]
    return Cuts(
        turns=draw_turns(n, generator),
        noise_start=boxes[0].start,
        noise_stop=boxes[0].stop,
        other_start=boxes[1].start,
        other_stop=boxes[1].stop,
        noise=gaussian_noise((n, 1, *patch), generator),
    )


def first_box(start: torch.Tensor, stop: torch.Tensor, patch: Size) -> torch.Tensor:
    """Number of the first box that covers each voxel, N where none does: int64 (n, 1, *patch) from (n, N, 3) twice."""
    most = start.shape[1]
    first = torch.full((len(start), 1, *patch), most, dtype=torch.int64, device=start.device)
    for low in range(0, most, MOST_BOXES):  # as many as ``last_box`` tells apart at once
        part = slice(low, low + MOST_BOXES)
        ends = start[:, part].flip(1), stop[:, part].flip(1)
        valid = torch.ones(ends[0].shape[:2], dtype=torch.bool, device=start.device)
        found = last_box(Boxes(*ends, valid), patch)
        number = low + ends[0].shape[1] - 1 - found
        first = torch.where((found >= 0) & (first == most), number, first)
    return first


def first_boxes_within(start: torch.Tensor, stop: torch.Tensor, patch: Size, limit: float) -> torch.Tensor:
    """Voxels of the first k boxes, k the most whose union is at most ``limit`` of the patch: bool (n, 1, *patch).

    A voxel belongs to the union of the first k boxes if its first box is one of them; so how often each number is a
    voxel's first, summed up, is the size of the unions.
    """
    first, most = first_box(start, stop, patch), start.shape[1]
    flat = first.flatten(1)
    counts = torch.zeros(len(flat), most + 1, dtype=torch.int64, device=flat.device)
    counts.scatter_add_(1, flat, torch.ones_like(flat))
    unions = counts[:, :most].cumsum(dim=1)
    used = (unions <= limit * math.prod(patch)).sum(dim=1)
    return first < used[:, None, None, None, None]


def scaled_noise(noise: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Each row of ``noise`` mapped linearly from its own smallest and largest value to those of the image."""
    axes = tuple(range(1, images.ndim))
    low, high = images.amin(axes, keepdim=True), images.amax(axes, keepdim=True)
    least, most = noise.amin(axes, keepdim=True), noise.amax(axes, keepdim=True)
    return low + (noise - least) / (most - least + FLAT) * (high - low)


def cut_out(images: torch.Tensor, others: torch.Tensor, cuts: Cuts, options: SwinSslOptions) -> torch.Tensor:
    """Boxes of noise, then boxes of another image, at most as much of a patch as the options say: (B, 1, z, y, x).

    Args:
        others: images of other samples, same shape.
    """
    patch = (images.shape[2], images.shape[3], images.shape[4])
    cuts = cuts.to(images.device)
    noisy = first_boxes_within(cuts.noise_start, cuts.noise_stop, patch, options.cut_noise)
    foreign = first_boxes_within(cuts.other_start, cuts.other_stop, patch, options.cut_other)
    return torch.where(foreign, others, torch.where(noisy, scaled_noise(cuts.noise, images), images))


def absolute_error(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean over all voxels of |prediction - target|, float32."""
    return (prediction.float() - target.float()).abs().mean()


def constant_absolute_error(target: torch.Tensor) -> torch.Tensor:
    """The same of the best constant per sample, its median."""
    flat = target.float().flatten(1)
    return absolute_error(flat.median(dim=1, keepdim=True).values.expand_as(flat), flat)


@METHODS.register("swinunetr_ssl", summary="Swin UNETR's pre-training: turns, contrast, and cut-outs (no skips)")
class SwinSsl(Method[SwinSslOptions]):
    """Two copies of the patch are turned by c quarter turns and parts of them replaced by noise and by another sample;
    heads on the deepest map tell c and attract the two views, a decoder without skips restores the turned patch:
    L = CE(c) + NT-Xent(tau = 0.5) + L1 over all voxels (Tang et al., CVPR 2022).
    """

    declaration = Declaration(
        title="Swin UNETR pre-training",
        intensity=("zscore", "unit"),
        modalities="independent",
        transferred="stem and encoder; the decoder is discarded",
        deviations=(
            "any encoder (published: Swin transformer), with the decoder without skips that belongs to it",
            "both heads look at the average of the deepest map (released: at its first and second token); "
            "of its eighths in the presets mini and smoke",
            "quarter turns are made in a plane of equal edges: (y, x), or another where these differ",
            "the covered part of a patch is counted exactly; the first box that would exceed the limit ends the series",
            "boxes have edges of 5 to 25 % of the patch's and lie wholly inside",
            "noise is scaled to the range of each image as a whole",
            "both views are of one patch (original: two crops of a volume)",
            "views of other images of the same case are no negatives",
        ),
        views="two copies of the patch, each turned, up to 60 % replaced by noise and another sample",
        heads="rotation classifier (4), contrast head (512), decoder without skips",
        budget="AdamW, learning rate 4e-4, weight decay 0.1, 500 warm-up steps, batch 2 x 2 crops of 96^3",
        citation="Tang et al. Self-Supervised Pre-Training of Swin Transformers for 3D Medical Image Analysis. "
        "CVPR 2022.",
        licence_note="written from the publication; MONAI's research contributions are Apache-2.0",
        min_batch=2,
    )
    Options = SwinSslOptions

    @classmethod
    def check_settings(
        cls, options: SwinSslOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        # Negatives and other samples come from all processes.
        super().check_settings(options, encoder, patch, batch_size * world, world)
        if plane_of_turns(patch) is None:
            raise InputError(
                "--patch-size",
                found=" x ".join(map(str, patch)),
                expected=f"two equal edges, the plane of {cls.declaration.title}'s quarter turns",
            )

    def build(self, context: Context) -> None:
        features = pooled_features(context.encoder, grid=self.options.pooling_grid)
        self.rotation = Projector(features, 0, TURNS, layers=1, batch_norm=False)
        self.contrast = Projector(features, 0, self.options.features, layers=1, batch_norm=False)
        self.decoder = skip_free_decoder(context.encoder)
        self.plane = plane_of_turns(context.patch)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        options, views = self.options, self.views(batch, generator)
        maps = self.encoder(views.cut)
        features = pooled(maps, grid=options.pooling_grid)
        turned = functional.cross_entropy(self.rotation(features), views.turns)
        first, second = (rows_of_all(part) for part in self.contrast(features).chunk(2))
        groups = rows_of_all(case_numbers(batch.cases, first.device))
        rebuilt = absolute_error(self.decoder(maps), views.target)
        return {
            "rotation": LossTerm(turned, options.weight_rotation, math.log(TURNS)),
            "contrastive": LossTerm(
                nt_xent(first, second, options.temperature, groups), options.weight_contrastive, trivial_nt_xent(groups)
            ),
            "reconstruction": LossTerm(rebuilt, options.weight_reconstruction, constant_absolute_error(views.target)),
        }

    def views(self, batch: Batch, generator: torch.Generator) -> SwinViews:
        """Both views of every sample. What is cut in is the next sample of the step, in the same view."""
        image, shard = batch.images[:, :1], batch.shard
        cuts = draw_cuts(2 * len(image) * shard.world, self.context.patch, self.options, generator)
        cut, target, turns = [], [], []
        for view in (part.own(shard) for part in cuts.chunk(2)):
            turned = turn(image, view.turns, self.plane)
            cut.append(cut_out(turned, next_of_step(turned, shard), view, self.options))
            target.append(turned)
            turns.append(view.turns.to(image.device))
        return SwinViews(torch.cat(cut), torch.cat(target), torch.cat(turns))

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        views = self.views(batch, generator)
        rebuilt = self.decoder(self.encoder(views.cut))
        size = len(batch.images)
        shown = {}
        for number, part in enumerate((slice(size), slice(size, None)), start=1):
            shown[f"target {number}"], shown[f"input {number}"] = views.target[part], views.cut[part]
            shown[f"rebuilt {number}"] = rebuilt[part]
        return {"views": shown}
