"""SimCLR: two overlapping crops of a patch agree, against all others of the step (Chen et al., ICML 2020)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch

from mvp_bench.config.marks import Off
from mvp_bench.config.ranges import Factor, Gamma, Grid, PartialShare, Positive, Share, SomeShare, Width
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.contrastive import case_numbers, nt_xent, trivial_nt_xent
from mvp_bench.pretraining.parts.heads import Projector, pooled, pooled_features
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.geometry import Crops, draw_flips, draw_turns, plane_of_turns, turn
from mvp_bench.pretraining.views.intensity import draw_gains, draw_gammas, gaussian_noise
from mvp_bench.pretraining.views.looks import Looks, show
from mvp_bench.registry import METHODS


@dataclass(frozen=True)
class SimclrOptions:
    """SimCLR's own fields."""

    crop_edge: SomeShare = 2 / 3
    """Edges of the crops as a share of the patch's. Both are resized to the next multiples of the encoder's stride."""
    partner_offset: Share = 0.5
    """Largest offset between the two crops of a patch, per axis, as a share of their edges."""
    flip: Share = 0.5
    """Probability of mirroring. Per axis of a view."""
    turns: Annotated[bool, Off("Views are not turned.")] = True
    """Random quarter turns of the views, in a plane in which they are square."""
    blur: Factor = 1.0
    """Largest standard deviation of the blur, voxels."""
    gamma: Gamma = 1.5
    """Largest exponent of the change of contrast; the least is one over it."""
    gain: PartialShare = 0.25
    """Largest relative change of intensities: they are multiplied by 1 +- this at most."""
    offset: Factor = 0.2
    """Largest number added to intensities, in their units."""
    noise: Factor = 0.3
    """Largest standard deviation of the noise. In units of intensity."""
    temperature: Positive = 0.5
    """Temperature of the contrastive loss, by which similarities are divided."""
    hidden: Width = 2048
    """Width of the hidden layers of the heads."""
    features: Width = 128
    """Width of the embedding."""
    pooling_grid: Grid = 1
    """Boxes per axis over which the deepest features are averaged. 1: the whole map."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""

    @classmethod
    def presets(cls) -> dict[str, SimclrOptions]:
        """``mini`` and ``smoke``: a narrow projector, for narrow encoders and few steps."""
        small = cls(hidden=128, features=64)
        return {"mini": small, "smoke": small}


def draw_pairs(
    n: int, patch: Sequence[int], crop: float, partner_offset: float, generator: torch.Generator
) -> tuple[Crops, Crops]:
    """Two crops per patch, with edges ``crop`` times the patch's.

    The first lies anywhere, the second at most ``partner_offset`` of an edge from it along each axis; both inside the
    patch, uniformly. With offsets up to 1/2 they share at least an eighth of their volume.
    """
    whole = torch.tensor(patch, dtype=torch.float64)
    size = crop * whole
    room = whole - size
    unit = torch.rand(2, n, 3, generator=generator, dtype=torch.float64)
    first = unit[0] * room
    low = (first - partner_offset * size).clamp(min=0)
    high = torch.minimum(first + partner_offset * size, room)
    second = low + unit[1] * (high - low)
    return Crops(first, size.expand(n, 3)), Crops(second, size.expand(n, 3))


def view_size(patch: Sequence[int], crop: float, stride: int) -> Size:
    """Voxels of the resized crops: per axis the multiple of ``stride`` next to the crop's edge, one at least."""
    z, y, x = (max(1, math.floor(crop * edge / stride + 0.5)) * stride for edge in patch)
    return z, y, x


@METHODS.register("simclr", summary="SimCLR: two crops of a patch agree, against those of the other cases")
class SimClr(Method[SimclrOptions]):
    """NT-Xent between the projected features of two crops, with those of all processes' other cases as negatives: the
    mean over 2N views of -log(e^{s_pos / t} / (e^{s_pos / t} + sum over 2N - 2 negatives)), s cosines.

    A case that comes twice in a step (batches larger than the number of cases, or across two passes over them) is no
    negative of itself, whichever modality and place its patches are of.
    """

    declaration = Declaration(
        title="SimCLR",
        intensity=("zscore", "unit"),
        modalities="independent",
        transferred="stem and encoder; the projector is discarded",
        deviations=(
            "two crops of 2/3 of the patch's edges, at most half a crop apart (as nnssl), instead of crops of 8 to "
            "100 % of the area",
            "few negatives: 2N - 2 for N cases per forward pass of all processes, where the publication has N = 4096",
            "other patches of the same case are no negatives",
            "three-dimensional views: mirrors and quarter turns; gain, offset, gamma, blur and noise, each of random "
            "strength, instead of colour distortion; background stays 0",
            "AdamW with the shared schedule instead of LARS",
            "mini and smoke: projector of 128 and 64 features instead of 2048 and 128",
        ),
        views="two crops of 2/3 of the patch's edges, at most half a crop apart, mirrored, turned, with changed "
        "contrast, brightness, blur and noise",
        heads="projector of 2 layers with batch norm",
        budget="100 to 1000 epochs of ImageNet, batch 4096 (images); nnssl: 1000 epochs of 250 steps, crops of 64^3",
        citation="Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual "
        "Representations. ICML 2020.",
        licence_note="written from the publication; the released code is Apache-2.0",
        min_batch=2,
    )
    Options = SimclrOptions

    @classmethod
    def check_settings(
        cls, options: SimclrOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        size = view_size(patch, options.crop_edge, encoder.stride)
        if math.prod(encoder.deepest(size)) < 2:
            raise InputError(
                "--patch-size",
                found=f"{' x '.join(map(str, patch))}, whose crops of {options.crop_edge:.3g} of the edges are resized "
                f"to {' x '.join(map(str, size))}: one voxel in the deepest map of {encoder.name}",
                expected="at least two: norms over space have nothing to go by",
                fix="Raise --patch-size, or --crop-edge.",
            )

    def check(self, context: Context) -> None:
        super().check(context)
        for axis, edge in enumerate(context.patch):
            extent, spacing, crop = context.smallest[axis], context.spacing[axis], self.options.crop_edge * edge
            if crop <= (edge - extent / spacing) / 2:  # the case lies in the middle of a patch that is longer than it
                raise InputError(
                    context.smallest_cases[axis] or "pre-training data",
                    found=f"{extent:.0f} mm along {'zyx'[axis]}, so that a crop of {crop:.0f} voxels of the patch's "
                    f"{edge} may show nothing of it",
                    expected=f"more than {(edge - 2 * crop) * spacing:.0f} mm there",
                    fix="Lower --patch-size, raise --crop-edge, or leave the case out.",
                )

    def build(self, context: Context) -> None:
        self.size = view_size(context.patch, self.options.crop_edge, context.encoder.stride)
        self.plane = plane_of_turns(self.size) if self.options.turns else None
        width = pooled_features(context.encoder, grid=self.options.pooling_grid)
        self.projector = Projector(width, self.options.hidden, self.options.features)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        views = torch.cat(self.views(batch, generator))
        projected = self.projector(pooled(self.encoder(views), grid=self.options.pooling_grid))
        first, second = (rows_of_all(part) for part in projected.chunk(2))
        cases = rows_of_all(case_numbers(batch.cases, views.device))
        value = nt_xent(first, second, self.options.temperature, cases)
        return {"contrast": LossTerm(value, 1.0, trivial_nt_xent(cases))}

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Two views (B, 1, *size) of each sample."""
        images, shard = batch.images[:, :1], batch.shard
        options, patch, n = self.options, images.shape[2:], len(images) * shard.world
        pair = draw_pairs(n, patch, options.crop_edge, options.partner_offset, generator)
        noise = gaussian_noise((1, 1, *self.size), generator).to(images.device)
        shown = []
        for crops in pair:
            looks = Looks(
                crops.start,
                crops.size,
                draw_flips(n, options.flip, generator),
                options.blur * torch.rand(n, generator=generator),
                draw_gammas(n, 1 / options.gamma, options.gamma, generator),
                draw_gains(n, options.gain, options.offset, generator),
                options.noise * torch.rand(n, generator=generator),
                (torch.rand(n, 3, generator=generator) * torch.tensor(self.size)).long(),
            )
            turns = shard.own(draw_turns(n, generator))
            shown.append(turn(show(images, looks.own(shard), noise), turns, self.plane))
        return shown[0], shown[1]

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        first, second = self.views(batch, generator)
        return {"views": {"patch": batch.images[:, :1], "view 1": first, "view 2": second}}
