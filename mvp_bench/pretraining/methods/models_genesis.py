"""Models Genesis (Zhou et al., MedIA 2021): restore a patch that was shuffled, recoloured and painted over."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mvp_bench.config.ranges import Share
from mvp_bench.errors import InputError
from mvp_bench.models.decoders import unet_decoder
from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.method import Context, Declaration, LossTerm, Method
from mvp_bench.pretraining.parts.corruption import Probabilities, corrupt, draw_corruption, restoration
from mvp_bench.pretraining.sampling import Batch, Intensity, SamplingSpec
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views.geometry import flip
from mvp_bench.registry import METHODS

MOST_FLIPS = 3


@dataclass(frozen=True)
class ModelsGenesisOptions:
    """Models Genesis' own fields."""

    flip: Share = 0.4
    """Probability of mirroring. Along a random axis, input and target; after each mirroring, of another, up to
    three."""
    shuffle: Share = 0.5
    """Probability of shuffling voxels inside small cells."""
    shuffle_edge: Share = 0.1
    """Longest edge of a cell in which voxels are shuffled, as a share of the patch's (two voxels at least)."""
    curve: Share = 0.9
    """Probability of mapping intensities by a random Bezier curve."""
    decreasing: Share = 0.5
    """Share of the intensity curves that decrease: dark becomes bright."""
    paint: Share = 0.9
    """Probability of replacing parts of the image by noise."""
    outer: Share = 0.8
    """Share of the painted images of which only a few windows are kept; of the others a few boxes are lost."""
    intensity: Intensity = "unit"
    """Intensities fed in. unit alone: percentiles 5 to 95 of the brain mapped to 0 to 1, which curves and noise
    need."""

    @property
    def probabilities(self) -> Probabilities:
        """Those of the corruptions."""
        return Probabilities(self.shuffle, self.curve, self.decreasing, self.paint, self.outer, self.shuffle_edge)


def draw_mirrors(n: int, probability: float, generator: torch.Generator) -> torch.Tensor:
    """Up to three mirrorings, each further one with ``probability``, along uniformly drawn axes (the same axis twice is
    none): bool (n, 3)."""
    goes_on = (torch.rand(n, MOST_FLIPS, generator=generator) < probability).long().cumprod(dim=1)
    axis = torch.randint(3, (n, MOST_FLIPS), generator=generator)
    return torch.zeros(n, 3, dtype=torch.int64).scatter_add_(1, axis, goes_on) % 2 == 1


@METHODS.register("models_genesis", summary="Models Genesis: restore shuffled, recoloured, in- and out-painted patches")
class ModelsGenesis(Method[ModelsGenesisOptions]):
    """A U-Net with skips restores the patch from its corruption; squared error over all voxels, of the sigmoid of its
    output (Zhou et al., MedIA 2021).
    """

    declaration = Declaration(
        title="Models Genesis",
        intensity=("unit",),
        modalities="independent",
        transferred="stem and encoder; the decoder (transferred in the original) is discarded",
        deviations=(
            "voxels are shuffled inside the random cells of a grid that divides the patch, in place of 10 000 random "
            "boxes that may overlap",
            "intensities: percentiles 5 to 95 of the brain to 0 to 1 (original: fixed Hounsfield range)",
            "encoder only is transferred, as for every method here (original: encoder and decoder)",
            "the encoder's own U-Net; AdamW for all methods (original: SGD with learning rate 1)",
        ),
        views="the patch, mirrored (p 0.4), voxels shuffled in small cells (0.5), intensities through a Bezier curve "
        "(0.9), parts painted over with noise (0.9: outside of windows 0.8, inside of boxes 0.2)",
        heads="U-Net decoder with skips, sigmoid",
        budget="until the loss stalls for 50 epochs, batch 6, patch 64 x 64 x 32",
        citation="Zhou et al. Models Genesis. Medical Image Analysis 67, 2021.",
        licence_note="written from the publication; the released code is for non-commercial use only",
    )
    Options = ModelsGenesisOptions

    @classmethod
    def check_settings(
        cls, options: ModelsGenesisOptions, encoder: EncoderSpec, patch: Size, batch_size: int, world: int = 1
    ) -> None:
        super().check_settings(options, encoder, patch, batch_size, world)
        if not 0 <= options.flip <= 1:
            raise InputError("flip", found=options.flip, expected="a number from 0 to 1")
        options.probabilities.require_valid()

    def build(self, context: Context) -> None:
        self.decoder = unet_decoder(context.encoder)

    def sampling(self) -> SamplingSpec:
        return SamplingSpec(intensity=self.options.intensity)

    def losses(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, LossTerm]:
        corrupted, target = self.views(batch, generator)
        return {"restoration": restoration(self.decoder(self.encoder(corrupted)), target)}

    def views(self, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Corrupted patch and target, (B, 1, z, y, x) each."""
        images = batch.images[:, :1]
        samples = len(images) * batch.shard.world
        mirrors = batch.shard.own(draw_mirrors(samples, self.options.flip, generator))
        drawn = draw_corruption(samples, self.context.patch, self.options.probabilities, generator).own(batch.shard)
        target = flip(images, mirrors)
        return corrupt(target, drawn), target

    def pictures(self, batch: Batch, step: int, generator: torch.Generator) -> dict[str, dict[str, torch.Tensor]]:
        corrupted, target = self.views(batch, generator)
        restored = self.decoder(self.encoder(corrupted)).sigmoid()
        return {"views": {"target": target, "input": corrupted, "restored": restored}}
