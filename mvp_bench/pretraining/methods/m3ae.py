"""M3AE: masked auto-encoder over all modalities of a case, with a learnable image (Liu et al., AAAI 2023)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from mvp_bench.config.fields import option
from mvp_bench.config.ranges import Edge, Factor, Few, FewOrNone, InnerShare, Positive
from mvp_bench.errors import InputError
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.methods.brainmvp.templates import Align, TemplateBank, grid_of, save_templates
from mvp_bench.pretraining.parts.modalities import (
    ModalityDecoder,
    check_blocks,
    check_slots,
    constant_slot_error,
    distinct,
    mean_over_slots,
    ranks,
    slot_error,
    visible_tokens,
)
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.registry import METHODS

LAST = 2.0
"""Above what ``torch.rand`` draws: comes last when sorted."""


@dataclass(frozen=True)
class M3aeOptions:
    """M3AE's own fields."""

    mask_ratio: InnerShare = 0.875
    """Share of the image that is hidden. Of a case's tokens (blocks of all its modalities), dropped modalities
    included."""
    most_dropped: FewOrNone = 3
    """Most modalities that are hidden whole: a number from 0 to this is drawn per case, one modality always being
    left."""
    block: Edge = 16
    """Edge of a block in voxels."""
    min_blocks: Few = 4
    """Least number of blocks per patch axis: the block is halved until there are as many."""
    weight_image: Factor = 0.005
    """Factor of the regulariser: the Frobenius norm of the learnable image minus its mean per modality."""
    image_rate: Positive = 50 / 3
    """Learning rate of the learnable image as a multiple of the networks' (published: 0.005 and 0.0003)."""
    align: Literal["centre", "world"] = "centre"
    """Correspondence of two cases' voxels with one voxel of what is learned. centre: the same offset in mm from the
    middle of the brain's bounding box; world: the same world position (as published, in the frame of BraTS)."""
    slots: FewOrNone = 0
    """Images read per case. 0: as many as the best-equipped case has. Two at least."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""


class M3aeDraws(NamedTuple):
    """What is random in the masks of n cases, K slots of N blocks each; uniform in [0, 1), on the CPU."""

    number: torch.Tensor
    """(n,): how many modalities are dropped."""
    modality: torch.Tensor
    """(n, K): which come first."""
    token: torch.Tensor
    """(n, K, N): which tokens come first."""


def kept_tokens(draws: M3aeDraws, present: torch.Tensor, visible: torch.Tensor, most_dropped: int) -> torch.Tensor:
    """Visible tokens, bool (n, K, N): whole modalities are dropped first, their number uniform from 0 to
    ``most_dropped``, or to all but one; of the others' tokens exactly ``visible`` are kept, each set being as likely.

    Args:
        present: bool (n, K): slots that count; the others are hidden.
        visible: int64 (n,), at most the tokens of the modalities that can be left.
    """
    limit = (present.sum(dim=1) - 1).clamp(0, most_dropped)
    number = (draws.number * (limit + 1)).long().minimum(limit)
    place = ranks(draws.modality.masked_fill(~present, LAST))
    left = present & (place >= number[:, None])
    order = ranks(draws.token.masked_fill(~left[:, :, None], LAST).flatten(1))
    return (order < visible[:, None]).view_as(draws.token)


def image_norm(volumes: torch.Tensor) -> torch.Tensor:
    """||L - mean of L over space, per modality||_F (not squared), over all modalities: (M, z, y, x) -> scalar.

    Its gradient where the norm is 0 is taken to be 0.
    """
    return torch.linalg.vector_norm(volumes - volumes.mean(dim=(1, 2, 3), keepdim=True))


@METHODS.register("m3ae", summary="M3AE: blocks and whole modalities are hidden behind a learnable image and rebuilt")
class M3ae(Method[M3aeOptions]):
    """Seven eighths of a case's (modality, block) tokens are hidden, up to three whole modalities among them, and
    replaced by the modality's learnable image at the same place; every modality is rebuilt everywhere.

    Loss: mean squared error over all voxels and modalities + 0.005 ||L - mean(L)||_F (Liu et al., AAAI 2023). Here the
    single-channel encoder sees the modalities one by one; the mean of their deepest maps is decoded without skips. A
    case with one modality is a masked auto-encoder's: nothing is dropped whole.
    """

    declaration = Declaration(
        title="M3AE",
        intensity=("zscore", "unit"),
        modalities="needs",
        transferred="stem and encoder; decoder discarded, learnable images kept beside them",
        deviations=(
            "the encoder sees one modality at a time, and their deepest maps are averaged (published: four input "
            "channels)",
            "linear decoder without skips, told the modality by an embedding (published: U-Net of width 16 with "
            "additive skips and four output channels)",
            "cases may lack modalities: the share of hidden tokens is that of the tokens they have, and every case "
            "weighs the same in the loss; with one modality none is dropped",
            "the learnable image is placed by millimetres from the middle of the brain (option: world position)",
            "blocks are halved in small patches until there are four per axis",
            "fine-tuning is every method's (published: two copies with dropped modalities that must agree)",
            "batch norms of an encoder, where it has any, see the repeated images of cases that lack modalities",
        ),
        views="all modalities of the patch, 87.5 % of their 16^3 blocks filled from the learnable image",
        heads="modality embedding and linear decoder without skips; learnable image",
        budget="600 epochs, batch 2, patch 128^3 at 1 mm",
        citation="Liu et al. M3AE: Multimodal Representation Learning for Brain Tumor Segmentation with Missing "
        "Modalities. AAAI 2023.",
        licence_note="written from the publication; nothing is taken from the released code (AGPL-3.0)",
    )
    Options = M3aeOptions

    @classmethod
    def check_settings(
        cls, options: M3aeOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        check_slots(options.slots)
        check_blocks(patch, options.block, options.min_blocks, options.mask_ratio)
        least = options.most_dropped / (options.most_dropped + 1)
        if options.mask_ratio < least:
            raise InputError(
                option("mask_ratio"),
                found=f"{options.mask_ratio} with up to {options.most_dropped} modalities dropped",
                expected=f"at least {least:.4g}: so much is hidden already where all but one of "
                f"{options.most_dropped + 1} modalities are dropped",
                fix="Raise --mask-ratio or lower --most-dropped.",
            )

    def build(self, context: Context) -> None:
        self.decoder = ModalityDecoder(context.encoder, len(context.modalities))
        grid, _ = grid_of(context, self.options.align, context.spacing)
        self.images = TemplateBank(len(context.modalities), grid)
        nn.init.normal_(self.images.volumes)
        self.block = masking.fitting_block(context.patch, self.options.block, self.options.min_blocks)
        self.grid = masking.grid_shape(context.patch, self.block)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(slots=self.options.slots or self.context.most_modalities, intensity=self.options.intensity)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        image = self.images.volumes
        networks = [p for p in self.parameters() if p.requires_grad and p is not image]
        return [
            {"params": networks, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": [image], "lr": learning_rate * self.options.image_rate, "weight_decay": 0.0},
        ]

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        present = distinct(batch.modality)
        rebuilt = self.rebuild(batch, self.views(batch, self.draw(batch, generator)))
        value = slot_error(rebuilt, batch.images, present)
        # Logged as the standard deviation it amounts to: 1 at first, on any number of voxels.
        scale = math.sqrt(self.images.volumes.numel())
        return {
            "reconstruction": LossTerm(value, 1.0, constant_slot_error(batch.images, present)),
            "image": LossTerm(image_norm(self.images.volumes) / scale, self.options.weight_image * scale, 1.0),
        }

    def draw(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """Visible tokens: bool (B, K, *grid), on the CPU."""
        size, slots = batch.modality.shape
        size *= batch.shard.world
        blocks = math.prod(self.grid)
        drawn = M3aeDraws(
            torch.rand(size, generator=generator),
            torch.rand(size, slots, generator=generator),
            torch.rand(size, slots, blocks, generator=generator),
        )
        present = distinct(batch.modality.cpu())
        visible = visible_tokens(present, blocks, self.options.mask_ratio)
        own = M3aeDraws(*(batch.shard.own(rows) for rows in drawn))
        return kept_tokens(own, present, visible, self.options.most_dropped).unflatten(2, self.grid)

    def views(self, batch: Batch, tokens: torch.Tensor) -> torch.Tensor:
        """The images with hidden tokens filled from the learnable image at the same place: (B K, 1, z, y, x)."""
        patch, slots = batch.images.shape[2:], batch.images.shape[1]
        position = batch.centre_offset if self.options.align == "centre" else batch.world
        position, spacing = (rows.repeat_interleave(slots, dim=0) for rows in (position, batch.spacing))
        learned = self.images.windows(batch.modality.flatten(), position, spacing, patch)
        kept = masking.to_voxels(tokens.flatten(0, 1), patch, self.block).to(batch.images.device)
        return masking.fill(batch.images.flatten(0, 1).unsqueeze(1), kept, learned)

    def rebuild(self, batch: Batch, views: torch.Tensor) -> torch.Tensor:
        """Every slot's reconstruction (B, K, z, y, x) from the views of the case's modalities."""
        maps = self.encoder(views)
        return self.decoder(maps, mean_over_slots(maps[-1], distinct(batch.modality)), batch.modality)

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        views = self.views(batch, self.draw(batch, generator))
        shown = {"target": batch.images.flatten(0, 1), "input": views, "rebuilt": self.rebuild(batch, views)}
        learned = self.images.normalised()
        return {
            "views": {**shown, "rebuilt": shown["rebuilt"].flatten(0, 1)},
            "learned": {name: learned[i : i + 1] for i, name in enumerate(self.context.modalities)},
        }

    @property
    def template_frame(self) -> Align:
        return self.options.align

    def save_templates(self, folder: Path) -> dict[str, str]:
        return save_templates(self.images, self.context.modalities, folder)
