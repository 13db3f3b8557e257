"""BrainMVP's three losses (Rui et al., CVPR 2025) in one forward pass."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mvp_bench.errors import InputError
from mvp_bench.models.decoders import SkipFreeDecoder
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.methods.brainmvp.losses import info_nce, trivial_info_nce
from mvp_bench.pretraining.methods.brainmvp.options import BrainMvpOptions
from mvp_bench.pretraining.methods.brainmvp.templates import TemplateBank, TemplateGrid, save_templates
from mvp_bench.pretraining.reconstruction import constant_mse
from mvp_bench.pretraining.sampling import Batch, SamplingSpec
from mvp_bench.registry import METHODS


class Pair(NamedTuple):
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
            "nnU-Net's residual encoder; decoder with norms and activations (option)",
            "the modality to reconstruct is drawn per sample (option: per batch, as released)",
            "templates on z-scores are parametrised directly, with their own learning rate and without weight decay "
            "(option: min-max, as released)",
            "templates are placed by millimetres from the middle of the brain (option: world position)",
            "a case with one modality gets the template in both views",
        ),
        citation="Rui et al. BrainMVP: Multi-modal Vision Pre-training for Brain Image Analysis using Multi-parametric "
        "MRI. CVPR 2025.",
        licence_note="written from the publication; the released code has no licence",
    )
    Options = BrainMvpOptions

    def check(self, context: Context) -> None:
        super().check(context)
        if self.options.weight_contrastive and context.batch_size < 2:
            raise InputError(
                "--batch-size",
                found=f"{context.batch_size} with the contrastive loss on",
                expected="at least 2: with one sample there are no negatives and InfoNCE is 0",
                fix="Raise --batch-size, or set the method's weight_contrastive to 0.",
            )
        if self.options.weight_cross_modal and self.options.cross_modal_start < 1 and context.most_modalities < 2:
            raise InputError(
                "pre-training data",
                found="one modality in every case",
                expected="a case with two modalities, for cross-modal reconstruction",
                fix="Add multi-modal data, or set the method's cross_modal_start to 1 (template views only).",
            )

    def build(self, context: Context) -> None:
        options = self.options
        self.decoder = SkipFreeDecoder(context.encoder.features, context.encoder.strides, linear=options.linear_decoder)
        z, y, x = (options.template_coarsening * edge for edge in context.spacing)
        if options.align == "centre":
            reach = [whole - edge for whole, edge in zip(context.largest, context.spacing, strict=True)]
            grid = TemplateGrid.around_centre(reach, (z, y, x))
        else:
            grid = TemplateGrid.of_box(*context.world_box, (z, y, x))
        self.templates = TemplateBank(
            len(context.modalities), grid, options.parametrisation, options.epsilon, options.subvoxel
        )
        self.block = masking.fitting_block(context.patch, options.block, options.min_blocks)
        self.grid = masking.grid_shape(context.patch, self.block)
        self.kept = masking.kept_blocks(math.prod(self.grid), options.mask_ratio)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(slots=self.options.slots, intensity=self.options.intensity)

    def parameter_groups(self, learning_rate: float, weight_decay: float) -> list[dict[str, Any]]:
        template = self.templates.volumes
        networks = [p for p in self.parameters() if p.requires_grad and p is not template]
        return [
            {"params": networks, "lr": learning_rate, "weight_decay": weight_decay},
            {"params": [template], "lr": learning_rate * self.options.template_rate, "weight_decay": 0.0},
        ]

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        options, fraction = self.options, self.context.fraction(step)
        pair = self.draw_pair(batch, generator)
        if fraction < options.cross_modal_start:
            pair = pair._replace(has_other=torch.zeros_like(pair.has_other))
        size = len(pair.target)

        maps = self.encoder(torch.cat(self.views(batch, pair, generator)))
        error = (self.decoder(maps).float() - pair.target.repeat(2, 1, 1, 1, 1)).square()
        constant = constant_mse(pair.target)
        terms = {
            "distillation": LossTerm(error[:size].mean(), options.weight_distillation, constant),
            "cross_modal": LossTerm(error[size:].mean(), options.weight_cross_modal, constant),
        }
        if options.weight_contrastive and fraction >= options.contrastive_start:
            value = info_nce(maps[-1][:size], maps[-1][size:], options.temperature)
            terms["contrastive"] = LossTerm(value, options.weight_contrastive, trivial_info_nce(size))
        return terms

    def draw_pair(self, batch: Batch, generator: torch.Generator) -> Pair:
        """The slot to rebuild, and the other image: uniformly among the slots' distinct other modalities."""
        size, slots = batch.modality.shape
        modality = batch.modality.cpu()
        draws = 1 if self.options.target == "batch" else size
        slot = torch.randint(slots, (draws,), generator=generator).expand(size)
        rows = torch.arange(size)
        wanted = modality[rows, slot]
        repeated = (modality[:, :, None] == modality[:, None, :]).tril(-1).any(dim=2)
        eligible = (modality != wanted[:, None]) & ~repeated
        chance = torch.rand(size, slots, generator=generator).masked_fill(~eligible, -1.0)
        other = chance.argmax(dim=1)
        device = batch.images.device
        rows, slot, other = rows.to(device), slot.to(device), other.to(device)
        return Pair(
            target=batch.images[rows, slot].unsqueeze(1),
            modality=wanted.to(device),
            other=batch.images[rows, other].unsqueeze(1),
            has_other=eligible.any(dim=1).to(device),
        )

    def views(self, batch: Batch, pair: Pair, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """The target with hidden blocks filled: from the template (view 1), and from the other image where there is
        one, else from the template again (view 2). Every sample and view has a mask of its own."""
        size, patch = len(pair.target), pair.target.shape[2:]
        position = batch.centre_offset if self.options.align == "centre" else batch.world
        template = self.templates.windows(pair.modality, position, batch.spacing, patch)
        grids = masking.draw_kept(2 * size, self.grid, self.kept, generator)
        kept = masking.to_voxels(grids, patch, self.block).to(pair.target.device)
        filler = torch.where(pair.has_other.view(-1, 1, 1, 1, 1), pair.other, template)
        return masking.fill(pair.target, kept[:size], template), masking.fill(pair.target, kept[size:], filler)

    def save_templates(self, folder: Path) -> dict[str, str]:
        return save_templates(self.templates, self.context.modalities, folder)
