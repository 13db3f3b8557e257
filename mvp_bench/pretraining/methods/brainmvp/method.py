"""BrainMVP's three losses (Rui et al., CVPR 2025) in one forward pass."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from mvp_bench.errors import InputError
from mvp_bench.models.decoders import skip_free_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.methods.brainmvp.losses import info_nce, trivial_info_nce
from mvp_bench.pretraining.methods.brainmvp.multiview import by_modality, multi_view_loss
from mvp_bench.pretraining.methods.brainmvp.options import BrainMvpOptions
from mvp_bench.pretraining.methods.brainmvp.templates import (
    Align,
    TemplateBank,
    TemplateGrid,
    grid_of,
    save_templates,
)
from mvp_bench.pretraining.parts.modalities import distinct
from mvp_bench.pretraining.reconstruction import constant_error, reconstruction_error
from mvp_bench.pretraining.sampling import Batch, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.registry import METHODS


class ModalityPair(NamedTuple):
    """What each sample of a batch is to rebuild, and from which other image."""

    target: torch.Tensor
    """(B, 1, z, y, x)."""
    modality: torch.Tensor
    """int64 (B,): of the target."""
    other: torch.Tensor
    """(B, 1, z, y, x): another modality of the same case at the same place; anything where there is none."""
    has_other: torch.Tensor
    """bool (B,)."""


@METHODS.register("brainmvp", summary="BrainMVP: template view, other-modality view, and InfoNCE between them")
class BrainMvp(Method[BrainMvpOptions]):
    """A modality's patch is hidden in blocks and filled, in view 1 with the modality's learnable template at the same
    place, in view 2 with another modality of the same case; both views are reconstructed to the original without
    skips, and their deepest features attract each other.
    """

    declaration = Declaration(
        title="BrainMVP",
        intensity=("zscore", "unit"),
        modalities="uses",
        transferred="stem and encoder; decoder discarded, templates kept beside them",
        deviations=(
            "any encoder (published: uniformer-s and unet3d), each with a decoder without skips of its own; on "
            "nnU-Net's it is linear, as the published one (option: with norms and activations)",
            "the modality to reconstruct is drawn per sample (option: per batch, as released)",
            "templates on z-scores are parametrised directly, with their own learning rate and weight decay "
            "(option: min-max, as released)",
            "templates are placed by millimetres from the middle of the brain (options: of the uncropped image, as "
            "released; world position)",
            "a case with one modality gets the template in both views",
        ),
        views="two copies of the patch, hidden blocks filled from the template and from another modality",
        heads="decoder without skips; templates",
        budget="1500 epochs of 3755 cases, 8 x batch 3, patch 96^3 at 1 mm",
        citation="Rui et al. BrainMVP: Multi-modal Vision Pre-training for Brain Image Analysis using Multi-parametric "
        "MRI. CVPR 2025.",
        licence_note="written from the publication; the released code has no licence",
    )
    Options = BrainMvpOptions

    @classmethod
    def check_settings(
        cls, options: BrainMvpOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        samples = batch_size * (world if options.gather_negatives else 1)
        if options.weight_contrastive and options.contrastive_start < 1 and samples < 2:
            raise InputError(
                "--batch-size",
                found=f"{batch_size} with the contrastive loss on",
                expected="at least 2: with one sample there are no negatives, and no gradient from them",
                fix="Raise --batch-size, or use --weight-contrastive 0.",
            )

    def check(self, context: Context) -> None:
        super().check(context)
        if self.options.weight_cross_modal and self.options.cross_modal_start < 1 and context.most_modalities < 2:
            raise InputError(
                "pre-training data",
                found="one modality in every case",
                expected="a case with two modalities, for cross-modal reconstruction",
                fix="Add multi-modal data, or use --cross-modal-start 1 (template views only).",
            )
        if self.options.align == "volume" and any(map(math.isnan, context.volume_reach)):
            raise InputError(
                "pre-training data",
                found="cases preprocessed without a note of where the middle of the uncropped image was",
                expected="that note, to lay templates by it",
                fix="Delete plans/<dataset> and run mvp_plan again, or use --align world or centre.",
            )
        contrasted = self.options.weight_contrastive and self.options.contrastive_start < 1
        if self.options.contrastive != "infonce" and contrasted and context.most_modalities < 2:
            raise InputError(
                "--contrastive",
                found=f"{self.options.contrastive} on data with one modality in every case",
                expected="a case with two modalities: it is a loss of several views, which modalities are",
                fix="Add multi-modal data, or use --contrastive infonce.",
            )

    def build(self, context: Context) -> None:
        options = self.options
        self.decoder = skip_free_decoder(context.encoder, linear=options.linear_decoder)
        z, y, x = (options.template_coarsening * edge for edge in context.spacing)
        grid, reach = grid_of(context, options.align, (z, y, x), options.template_shape)
        self._require_room(grid, reach, context)
        self.templates = TemplateBank(
            len(context.modalities), grid, options.parametrisation, options.epsilon, options.subvoxel
        )
        self.block = masking.fitting_block(context.patch, options.block, options.min_blocks)
        self.grid = masking.grid_shape(context.patch, self.block)
        self.kept = masking.kept_blocks(math.prod(self.grid), options.mask_ratio)

    def _require_room(self, grid: TemplateGrid, reach: Sequence[float], context: Context) -> None:
        """Refuse a template that a case sticks out of (half a voxel is rounding)."""
        for axis, (voxels, edge, needed) in enumerate(zip(grid.shape, grid.spacing, reach, strict=True)):
            if (voxels - 0.5) * edge < needed:
                case = context.largest_cases[axis] if self.options.align == "centre" else "all cases together"
                raise InputError(
                    "--template-shape",
                    found=f"{' x '.join(map(str, grid.shape))} voxels: {voxels * edge:.0f} mm along {'zyx'[axis]}",
                    expected=f"at least {needed + edge:.0f} mm there, the extent of {case or 'the largest case'}",
                    fix="Make template_shape larger, or leave it out: templates are then as large as the data need.",
                )

    def sampling(self) -> SamplingSpec:
        options = self.options
        centre: Literal["brain", "volume"] = "volume" if options.align == "volume" else "brain"
        return SamplingSpec(options.slots or self.context.most_modalities, intensity=options.intensity, centre=centre)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        template = self.templates.volumes
        networks = [p for p in self.parameters() if p.requires_grad and p is not template]
        rate, decay = learning_rate * self.options.template_rate, self.options.template_decay
        return [
            {"params": networks, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": [template], "lr": rate, "weight_decay": decay},
        ]

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        options, fraction = self.options, self.context.fraction(step)
        pair = self.pair_of(batch, step, generator)
        size = len(pair.target)
        maps = self.encoder(torch.cat(self.views(batch, pair, generator)))
        rebuilt = self.decoder(maps)
        constant = constant_error(pair.target, options.reconstruction)
        terms = {
            name: LossTerm(reconstruction_error(part, pair.target, options.reconstruction), weight, constant)
            for name, weight, part in (
                ("distillation", options.weight_distillation, rebuilt[:size]),
                ("cross_modal", options.weight_cross_modal, rebuilt[size:]),
            )
        }
        if options.weight_contrastive and fraction >= options.contrastive_start:
            value, trivial = self.contrast(batch, maps[-1][:size], maps[-1][size:], generator)
            terms["contrastive"] = LossTerm(value, options.weight_contrastive, trivial)
        return terms

    def contrast(
        self, batch: Batch, first: torch.Tensor, second: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, float | torch.Tensor]:
        """The contrastive loss between the deepest maps of the two views of every target, and its trivial value."""
        options, modality = self.options, batch.modality
        if options.gather_negatives:
            first, second = rows_of_all(first), rows_of_all(second)
        if options.contrastive == "infonce":
            return info_nce(first, second, options.temperature), trivial_info_nce(len(first))
        views = torch.stack([first, second], dim=1)
        present = torch.ones(views.shape[:2], dtype=torch.bool, device=views.device)
        if options.target == "all":
            modality = rows_of_all(modality) if options.gather_negatives else modality
            views, present = by_modality(views, modality, len(self.context.modalities))
        drawn = torch.rand(present.shape, generator=generator)
        return multi_view_loss(options.contrastive, views, present, options.temperature, options.label_smoothing, drawn)

    def pair_of(self, batch: Batch, step: int, generator: torch.Generator) -> ModalityPair:
        """:meth:`draw_pair`, without other images as long as the second view, too, is filled from the template."""
        pair = self.draw_pair(batch, generator)
        if self.context.fraction(step) < self.options.cross_modal_start:
            pair = pair._replace(has_other=torch.zeros_like(pair.has_other))
        return pair

    def draw_pair(self, batch: Batch, generator: torch.Generator) -> ModalityPair:
        """The slots to rebuild, and the other images: uniformly among the slots' distinct other modalities."""
        size, slots = batch.modality.shape
        modality = batch.modality.cpu()
        rows = self._samples(batch)
        if self.options.target == "all":
            slot = torch.arange(slots).repeat(size)
        elif self.options.target == "batch":
            slot = torch.randint(slots, (1,), generator=generator).expand(size)
        else:
            slot = batch.shard.own(torch.randint(slots, (size * batch.shard.world,), generator=generator))
        wanted = modality[rows, slot]
        eligible = (modality[rows] != wanted[:, None]) & distinct(modality)[rows]
        chance = batch.shard.own(torch.rand(len(rows) * batch.shard.world, slots, generator=generator))
        other = chance.masked_fill(~eligible, -1.0).argmax(dim=1)
        device = batch.images.device
        rows, slot, other = rows.to(device), slot.to(device), other.to(device)
        return ModalityPair(
            target=batch.images[rows, slot].unsqueeze(1),
            modality=wanted.to(device),
            other=batch.images[rows, other].unsqueeze(1),
            has_other=eligible.any(dim=1).to(device),
        )

    def _samples(self, batch: Batch) -> torch.Tensor:
        """The sample that each target is from."""
        size, slots = batch.modality.shape
        return torch.arange(size).repeat_interleave(slots if self.options.target == "all" else 1)

    def views(self, batch: Batch, pair: ModalityPair, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The targets with hidden blocks filled: from the template (view 1), and from the other image where there is
        one, else from the template again (view 2). Every target and view has a mask of its own."""
        size, patch, rows = len(pair.target), pair.target.shape[2:], self._samples(batch)
        position = batch.world if self.options.align == "world" else batch.centre_offset
        template = self.templates.windows(pair.modality, position[rows], batch.spacing[rows], patch)
        grids = masking.draw_kept(2 * size * batch.shard.world, self.grid, self.kept, generator)
        own = torch.cat([batch.shard.own(view) for view in grids.chunk(2)])
        kept = masking.to_voxels(own, patch, self.block).to(pair.target.device)
        filler = torch.where(pair.has_other.view(-1, 1, 1, 1, 1), pair.other, template)
        return masking.fill(pair.target, kept[:size], template), masking.fill(pair.target, kept[size:], filler)

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        pair = self.pair_of(batch, step, generator)
        first, second = self.views(batch, pair, generator)
        one, two = self.decoder(self.encoder(torch.cat([first, second]))).chunk(2)
        templates = self.templates.normalised()
        return {
            "views": {
                "target": pair.target,
                "view 1": first,
                "rebuilt 1": one,
                "view 2": second,
                "rebuilt 2": two,
            },
            "templates": {name: templates[i : i + 1] for i, name in enumerate(self.context.modalities)},
        }

    @property
    def template_frame(self) -> Align:
        return self.options.align

    def save_templates(self, folder: Path) -> dict[str, str]:
        if not self.options.template_rate:  # they have stayed zero
            return {}
        return save_templates(self.templates, self.context.modalities, folder)
