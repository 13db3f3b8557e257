"""BM-MAE's masking (Robinet et al., arXiv 2505.00568) on a convolutional encoder that modalities share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from mvp_bench.config.ranges import Edge, Few, FewOrNone, InnerShare, Positive
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
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

CANDIDATES = 16
"""Shares drawn per case, of which the first admissible is taken."""


@dataclass(frozen=True)
class BmMaeOptions:
    """BM-MAE's own fields."""

    mask_ratio: InnerShare = 0.75
    """Share of the image that is hidden. Of a case's tokens (blocks of all its modalities)."""
    alpha: Positive = 1.0
    """Concentration of the Dirichlet distribution that shares the visible tokens out to the modalities. 1: every way to
    share is as likely; larger: more even; smaller: one modality gets most."""
    block: Edge = 16
    """Edge of a block in voxels."""
    min_blocks: Few = 4
    """Least number of blocks per patch axis: the block is halved until there are as many."""
    slots: FewOrNone = 0
    """Images read per case. 0: as many as the best-equipped case has. Two at least."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""


class BmMaeDraws(NamedTuple):
    """What is random in the masks of n cases, K slots of N blocks each; on the CPU."""

    gamma: torch.Tensor
    """float64 (n, CANDIDATES, K), Gamma(alpha): divided by their sum over some slots, Dirichlet over these."""
    token: torch.Tensor
    """(n, K, N), uniform: which tokens of a modality come first."""


def shares(gamma: torch.Tensor, present: torch.Tensor, cap: torch.Tensor) -> torch.Tensor:
    """Dirichlet shares none of which exceeds ``cap``: float64 (n, K), 0 where a slot is not ``present``, sum 1.

    The first of a case's candidates that fits is what drawing again and again would give. Where none fits, the first is
    moved towards equal shares until it does.

    Args:
        gamma: float64 (n, candidates, K), see :class:`BmMaeDraws`.
        present: bool (n, K).
        cap: float64 (n,), at least 1 / number of present slots.
    """
    weight = gamma.clamp_min(torch.finfo(gamma.dtype).tiny) * present[:, None, :]
    share = weight / weight.sum(dim=2, keepdim=True)
    fits = (share <= cap[:, None, None]).all(dim=2)
    chosen = share[torch.arange(len(share)), fits.int().argmax(dim=1)]
    even = present / present.sum(dim=1, keepdim=True).double()
    most, equal = chosen.amax(dim=1), even.amax(dim=1)
    pulled = torch.where(most > cap, (cap - equal) / (most - equal), 1.0)
    return even + pulled[:, None] * (chosen - even)


def visible_counts(share: torch.Tensor, present: torch.Tensor, visible: torch.Tensor, tokens: int) -> torch.Tensor:
    """Visible tokens per slot, int64 (n, K): ``share * visible`` rounded such that each row's sum is ``visible``.

    All are rounded down; the largest remainders get what is left. None exceeds ``tokens`` if no share exceeds
    ``tokens / visible``.

    Args:
        share: (n, K), see :func:`shares`.
        present: bool (n, K).
        visible: int64 (n,).
        tokens: of one modality.
    """
    exact = share * visible[:, None]
    whole = exact.floor().long().clamp_max(tokens)
    room = present & (whole < tokens)
    left = visible - whole.sum(dim=1)
    return whole + (ranks((whole - exact).masked_fill(~room, 1.0)) < left[:, None])


@METHODS.register("bmmae", summary="BM-MAE: visible blocks shared out to the modalities by a Dirichlet draw")
class BmMae(Method[BmMaeOptions]):
    """A quarter of a case's (modality, block) tokens stays visible, shared out to its modalities by a Dirichlet(1)
    draw; the hidden ones of every modality are rebuilt from what is visible in any.

    Loss: per case, the sum over its modalities of the mean squared error on hidden voxels / their number (Robinet et
    al., arXiv 2505.00568). A modality without a hidden token adds 0; one without a visible token does not enter the
    mean of the deepest maps. A case with one modality is a masked auto-encoder's.
    """

    declaration = Declaration(
        title="BM-MAE",
        intensity=("zscore", "unit"),
        modalities="needs",
        transferred="stem and encoder; decoder discarded",
        deviations=(
            "convolutional: each modality is encoded by itself, with hidden blocks zeroed instead of dropped, and the "
            "deepest maps are averaged over the modalities that have a visible block (published: one transformer over "
            "all visible tokens, with a tokenizer per modality)",
            "linear decoder without skips, told the modality by an embedding (published: a transformer)",
            "the modalities' errors are averaged, not summed",
            "shares are rounded by largest remainder; where 16 draws exceed a modality's tokens, the first is moved "
            "towards equal shares",
            "blocks are halved in small patches until there are four per axis",
            "no augmentation (published: flips, intensities scaled and shifted by 0.1)",
            "batch norms of an encoder, where it has any, see the repeated images of cases that lack modalities",
        ),
        views="all modalities of the patch, 75 % of their 16^3 blocks zeroed",
        heads="modality embedding and linear decoder without skips",
        budget="1000 epochs, batch 6, patch 128^3",
        citation="Robinet et al. Multimodal Masked Autoencoder Pre-training for 3D MRI-Based Brain Tumor Analysis with "
        "Missing Modalities. arXiv 2505.00568, 2025.",
        licence_note="written from the publication; nothing is taken from the released code (CC BY-NC 4.0)",
    )
    Options = BmMaeOptions

    @classmethod
    def check_settings(
        cls, options: BmMaeOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        check_slots(options.slots)
        check_blocks(patch, options.block, options.min_blocks, options.mask_ratio)

    def build(self, context: Context) -> None:
        self.decoder = ModalityDecoder(context.encoder, len(context.modalities))
        self.block = masking.fitting_block(context.patch, self.options.block, self.options.min_blocks)
        self.grid = masking.grid_shape(context.patch, self.block)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(slots=self.options.slots or self.context.most_modalities, intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        kept = self.visible(batch, self.draw(batch, generator))
        present, hidden = distinct(batch.modality), ~kept
        value = slot_error(self.rebuild(batch, kept), batch.images, present, hidden)
        return {"reconstruction": LossTerm(value, 1.0, constant_slot_error(batch.images, present, hidden))}

    def draw(self, batch: Batch, generator: torch.Generator) -> torch.Tensor:
        """Visible tokens: bool (B, K, *grid), on the CPU."""
        size, slots = batch.modality.shape
        size *= batch.shard.world
        blocks = math.prod(self.grid)
        # torch has no gamma distribution that draws from a generator of one's own.
        rng = np.random.default_rng(int(torch.randint(torch.iinfo(torch.int64).max, (1,), generator=generator)))
        drawn = BmMaeDraws(
            torch.from_numpy(rng.standard_gamma(self.options.alpha, (size, CANDIDATES, slots))),
            torch.rand(size, slots, blocks, generator=generator),
        )
        own = BmMaeDraws(*(batch.shard.own(rows) for rows in drawn))
        present = distinct(batch.modality.cpu())
        visible = visible_tokens(present, blocks, self.options.mask_ratio)
        counts = visible_counts(shares(own.gamma, present, blocks / visible.double()), present, visible, blocks)
        order = ranks(own.token.flatten(0, 1)).view_as(own.token)
        return (order < counts[:, :, None]).unflatten(2, self.grid)

    def visible(self, batch: Batch, tokens: torch.Tensor) -> torch.Tensor:
        """Visible voxels, bool (B, K, z, y, x), of visible tokens."""
        kept = masking.to_voxels(tokens.flatten(0, 1), batch.images.shape[2:], self.block)
        return kept.reshape(batch.images.shape).to(batch.images.device)

    def encode(self, batch: Batch, kept: torch.Tensor) -> list[torch.Tensor]:
        """The encoder's maps (B K, C, z, y, x) of all slots, each of its own visible voxels alone."""
        return self.encoder(masking.fill(batch.images, kept, 0.0).flatten(0, 1).unsqueeze(1))

    def rebuild(self, batch: Batch, kept: torch.Tensor) -> torch.Tensor:
        """Every slot's reconstruction (B, K, z, y, x) from what is visible of the case's modalities."""
        maps = self.encode(batch, kept)
        seen = distinct(batch.modality) & kept.flatten(2).any(dim=2)
        return self.decoder(maps, mean_over_slots(maps[-1], seen), batch.modality)

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        kept = self.visible(batch, self.draw(batch, generator))
        shown = {"target": batch.images, "input": batch.images * kept, "rebuilt": self.rebuild(batch, kept)}
        return {"views": {title: images.flatten(0, 1) for title, images in shown.items()}}
