"""PCRLv2's up path, all of whose scales are looked at, the heads at each scale, and the similarity of features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from dynamic_network_architectures.initialization.weight_init import InitWeights_He
from torch import nn

from mvp_bench.models.encoders.base import EncoderSpec
from mvp_bench.pretraining.parts.contrastive import normalised
from mvp_bench.pretraining.parts.heads import pooled

WIDENING = 2
"""Hidden width of a predictor as a multiple of its input's."""


class UpPath(nn.Module):
    """A way from the deepest map to the input's resolution without skips; per scale a transposed convolution and one of
    3^3, each followed by LeakyReLU.

    No norms: instance norm would leave next to nothing of a map's average, which the heads look at.

    Args:
        encoder: whose deepest map is decoded.
    """

    def __init__(self, encoder: EncoderSpec) -> None:
        super().__init__()
        stages = [stage for stage in reversed(range(len(encoder.features))) if encoder.strides[stage] > 1]
        self.widths = [encoder.features[max(stage - 1, 0)] for stage in stages]
        """Channels of the maps, coarsest first."""
        sources = [encoder.out_channels, *self.widths]
        self.steps = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose3d(sources[i], width, encoder.strides[stage], encoder.strides[stage]),
                nn.LeakyReLU(inplace=True),
                nn.Conv3d(width, width, 3, padding=1),
                nn.LeakyReLU(inplace=True),
            )
            for i, (stage, width) in enumerate(zip(stages, self.widths, strict=True))
        )
        self.apply(InitWeights_He(1e-2))

    def forward(self, deepest: torch.Tensor, last: int) -> list[torch.Tensor]:
        """Maps of the scales 0 (coarsest) to ``last``."""
        maps = []
        for step in self.steps[: last + 1]:
            deepest = step(deepest)
            maps.append(deepest)
        return maps


class SiameseHead(nn.Module):
    """A map -> (prediction, projection), (B, C) each: average and batch norm; and a perceptron with one hidden layer on
    top of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Without scale and bias: the predictor's norm takes a bias away, so that no gradient would hold it, and the
        # targets would wander with rounding noise.
        self.norm = nn.BatchNorm1d(width, affine=False)
        hidden = WIDENING * width
        self.predictor = nn.Sequential(
            nn.Linear(width, hidden, bias=False),  # the norm that follows would take a bias away
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, width),
        )

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast(features.device.type, enabled=False):
            projection = self.norm(pooled([features]))
            return self.predictor(projection), projection


def mean_cosine(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cosine of rows (N, C); no gradient reaches the targets."""
    return (normalised(predictions) * normalised(targets.detach())).sum(dim=1).mean()


def simsiam(predictions: Sequence[torch.Tensor], projections: Sequence[torch.Tensor]) -> torch.Tensor:
    """-(cos(p1, z2) + cos(p2, z1)) / 2 with the gradient stopped at z (Chen and He, CVPR 2021): -1 for equal rows.

    Args:
        predictions, projections: p and z of the two views, (N, C) each.
    """
    (p1, p2), (z1, z2) = predictions, projections
    return -(mean_cosine(p1, z2) + mean_cosine(p2, z1)) / 2


def local_global(predictions: torch.Tensor, projections: Sequence[torch.Tensor]) -> torch.Tensor:
    """Minus the mean over the 2 L pairs of L local predictions and two global projections of their cosines.

    Args:
        predictions: (L N, C), one local crop of all samples below the other.
        projections: z of the two global crops, (N, C) each.
    """
    repeats = len(predictions) // len(projections[0])
    return -(sum(mean_cosine(predictions, z.repeat(repeats, 1)) for z in projections) / len(projections))
