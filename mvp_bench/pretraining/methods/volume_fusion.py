"""VolumeFusion (Wang et al., IEEE TIP 2025): tell, voxel by voxel, how much of another image was mixed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from mvp_bench.config.ranges import RISING, Edge, FewOrNone, Ge, Le, SomeShare
from mvp_bench.models.decoders import unet_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.partners import Pair, draw_pair
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.boxes import MOST_BOXES, Boxes, draw_boxes, last_box
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.registry import METHODS

SMOOTH = 1e-5
"""Added above and below the fraction bar of Dice (MONAI's default)."""


BoxNumber = Annotated[int, Ge(1), Le(MOST_BOXES)]
"""Boxes in an image."""


@dataclass(frozen=True)
class VolumeFusionOptions:
    """VolumeFusion's own fields."""

    levels: Annotated[int, Ge(1), Le(100)] = 4
    """Steps K of the mixture: the shares of the other image are 0, 1/K, ..., 1, K + 1 classes."""
    boxes: Annotated[tuple[BoxNumber, BoxNumber], RISING] = (10, 40)
    """Fewest and most boxes per image."""
    smallest_edge: Edge = 8
    """Shortest edge of a box in voxels, but an eighth of the patch's where that is less."""
    largest_edge: SomeShare = 0.625
    """Longest edge of a box as a share of the patch's."""
    slots: FewOrNone = 0
    """Images read per case. 0: as many as the best-equipped case has. A modality that both cases of a pair have is
    looked for among them."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""


@dataclass(frozen=True)
class Patchwork(Drawn):
    """Where how much of another image is mixed in."""

    start: torch.Tensor
    """int64 (n, N, 3): first voxels of boxes."""
    stop: torch.Tensor
    """int64 (n, N, 3): behind their last voxels."""
    valid: torch.Tensor
    """bool (n, N): whether the box is there."""
    level: torch.Tensor
    """int64 (n, N): class of a box, 1..K."""


def draw_patchwork(n: int, patch: Size, options: VolumeFusionOptions, generator: torch.Generator) -> Patchwork:
    """Numbers of boxes, edges, places (centres anywhere in the patch) and classes, each uniform."""
    few, many = options.boxes
    counts = torch.randint(few, many + 1, (n,), generator=generator)
    shortest = [min(options.smallest_edge, max(edge // 8, 1)) for edge in patch]
    longest = [max(int(options.largest_edge * edge), low) for edge, low in zip(patch, shortest, strict=True)]
    boxes = draw_boxes(n, counts, shortest, longest, patch, generator, inside=False)
    level = torch.randint(1, options.levels + 1, boxes.valid.shape, generator=generator)
    return Patchwork(boxes.start, boxes.stop, boxes.valid, level)


def classes_of(patchwork: Patchwork, patch: Size) -> torch.Tensor:
    """Class of every voxel: that of the last box over it, 0 where there is none; int64 (n, 1, *patch)."""
    index = last_box(Boxes(patchwork.start, patchwork.stop, patchwork.valid), patch)
    level = patchwork.level.to(index.device)
    return level.gather(1, index.clamp(min=0).flatten(1)).reshape(index.shape).masked_fill(index < 0, 0)


def fuse(front: torch.Tensor, back: torch.Tensor, classes: torch.Tensor, levels: int) -> torch.Tensor:
    """x = a f + (1 - a) b with a = class / K: the background itself at class 0, the foreground itself at class K.

    Args:
        front, back: images (B, 1, z, y, x).
        classes: int64, same shape, 0..K.
        levels: K.
    """
    share = classes.to(front.dtype) / levels
    return share * front + (1 - share) * back


def memberships(classes: torch.Tensor, number: int) -> torch.Tensor:
    """Whether a voxel is of a class: (B, 1, z, y, x) -> bool (B, number, voxels)."""
    return classes.flatten(2) == torch.arange(number, device=classes.device)[:, None]


def dice_ce(logits: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Soft Dice loss, mean over all classes, plus cross-entropy, mean over voxels; of each sample, float32 (B,).

    Its mean is MONAI's ``DiceCELoss(softmax=True, to_onehot_y=True)``.

    Args:
        logits: (B, K + 1, z, y, x).
        classes: int64 (B, 1, z, y, x).
    """
    scores = logits.float().flatten(2).log_softmax(1)
    chances = scores.exp()
    truth = memberships(classes, logits.shape[1])
    common = (chances * truth).sum(2)
    dice = 1 - (2 * common + SMOOTH) / (chances.sum(2) + truth.sum(2) + SMOOTH)
    entropy = -scores.gather(1, classes.flatten(2)).mean((1, 2))
    return dice.mean(1) + entropy


def constant_dice_ce(classes: torch.Tensor, number: int) -> torch.Tensor:
    """:func:`dice_ce` of each sample for the best prediction that is the same at all voxels, as to cross-entropy: the
    classes' shares p_k of the sample; entropy H(p), and for each class Dice 1 - (2 p^2 + s) / (2 p + s). (B,)."""
    counts = memberships(classes, number).sum(2).double()
    share = counts / counts.sum(1, keepdim=True)
    dice = 1 - (2 * share * counts + SMOOTH) / (2 * counts + SMOOTH)
    return (dice.mean(1) + torch.special.entr(share).sum(1)).float()


@METHODS.register("volume_fusion", summary="VolumeFusion: which share of another image is in each voxel (segmentation)")
class VolumeFusion(Method[VolumeFusionOptions]):
    """Boxes of the next sample's image of the same modality are mixed into the image in shares of 0, 1/K, ..., 1; the
    share is the class of a voxel, found by a U-Net with Dice and cross-entropy (Wang et al., IEEE TIP 2025).
    """

    declaration = Declaration(
        title="VolumeFusion",
        intensity=("zscore", "unit"),
        modalities="uses",
        transferred="stem and encoder; the decoder (transferred in the original) is discarded",
        deviations=(
            "the two images are of one modality, drawn among those that both cases have; a pair without one, or of "
            "equal images, does not count",
            "boxes shrink with patches below 64 voxels: shortest edge 8 voxels or an eighth of the patch's",
            "encoder only is transferred, as for every method here (original: encoder and decoder)",
            "the encoder's own U-Net (original: PyMIC's UNet2D5)",
        ),
        views="the patch with 10 to 40 boxes in which another patch of the step is mixed in",
        heads="U-Net decoder with skips, K + 1 = 5 classes per voxel",
        budget="110 000 CT volumes, batch 4, patch 64 x 128 x 128; Adam 1e-3, halved every 20 000 steps",
        citation="Wang et al. Volume Fusion-based Self-Supervised Pretraining for 3D Medical Image Segmentation. "
        "IEEE TIP 34, 2025 (arXiv 2306.16925, first as MIS-FM).",
        licence_note="written from the publication; PyMIC is Apache-2.0",
        min_batch=2,
    )
    Options = VolumeFusionOptions

    @classmethod
    def check_settings(
        cls, options: VolumeFusionOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size * world, world)  # pairs are made over all processes

    def build(self, context: Context) -> None:
        self.classes = self.options.levels + 1
        self.decoder = unet_decoder(context.encoder, self.classes)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(slots=self.options.slots or self.context.most_modalities, intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        pair, classes, fused = self.fused(batch, generator)
        value = dice_ce(self.decoder(self.encoder(fused)), classes)
        trivial = constant_dice_ce(classes, self.classes)
        # Processes may have different numbers of valid pairs: their mean is that of all.
        weight = pair.valid.float()
        weight = weight / rows_of_all(weight).sum().clamp_min(1) * batch.shard.world
        return {"fusion": LossTerm((weight * value).sum(), 1.0, (weight * trivial).sum())}

    def fused(self, batch: Batch, generator: torch.Generator) -> tuple[Pair, torch.Tensor, torch.Tensor]:
        """The two images, the classes and the mixture, (B, 1, z, y, x) each."""
        pair = self.draw_pair(batch, generator)
        size, patch = len(pair.image), self.context.patch
        drawn = draw_patchwork(size * batch.shard.world, patch, self.options, generator).own(batch.shard)
        classes = classes_of(drawn.to(pair.image.device), patch)
        return pair, classes, fuse(pair.other, pair.image, classes, self.options.levels)

    def draw_pair(self, batch: Batch, generator: torch.Generator) -> Pair:
        """Valid are pairs of a common modality that are not the same image, whose mixture would tell nothing."""
        pair = draw_pair(batch, len(self.context.modalities), generator)
        return pair._replace(valid=pair.valid & (pair.image != pair.other).flatten(1).any(dim=1))

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        pair, classes, fused = self.fused(batch, generator)
        found = self.decoder(self.encoder(fused)).argmax(1, keepdim=True)
        return {"views": {"image": pair.image, "other": pair.other, "input": fused, "class": classes, "found": found}}
