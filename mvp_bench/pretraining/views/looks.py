"""Views for contrastive methods: random resized crops, mirrored, blurred, changed in contrast and brightness, noisy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.pretraining.views.geometry import Crops, cut, draw_crops, draw_flips, flip
from mvp_bench.pretraining.views.intensity import apply_gains, apply_gammas, blur, draw_gains, draw_gammas


class LookRanges(Protocol):
    """How far views may depart from the patch; a method's options may have these fields."""

    @property
    def crop_volume(self) -> tuple[float, float]:
        """Least and largest part of the patch's volume."""

    @property
    def flip(self) -> float:
        """Probability of mirroring, per axis."""

    @property
    def blur(self) -> float:
        """Largest standard deviation of the blur, voxels."""

    @property
    def gamma(self) -> float:
        """Largest exponent (>= 1); the least is one over it."""

    @property
    def gain(self) -> float:
        """Largest departure of the factor from 1."""

    @property
    def offset(self) -> float:
        """Largest summand."""

    @property
    def noise(self) -> float:
        """Largest standard deviation of the noise."""


@dataclass(frozen=True)
class Looks(Drawn):
    """How views are made, one row each."""

    start: torch.Tensor
    """(n, 3): lower faces of the crops, voxels."""
    size: torch.Tensor
    """(n, 3): their edges."""
    flips: torch.Tensor
    """bool (n, 3)."""
    sigmas: torch.Tensor
    """(n,): of the blur, voxels."""
    gammas: torch.Tensor
    """(n,)."""
    gains: torch.Tensor
    """(n, 2): factor and summand."""
    noise: torch.Tensor
    """(n,): standard deviation."""
    shift: torch.Tensor
    """int64 (n, 3): by which the step's field of noise is rolled."""


def draw_looks(n: int, patch: Sequence[int], ranges: LookRanges, generator: torch.Generator) -> Looks:
    """Parameters of ``n`` views, all uniform but the exponents (log-uniform)."""
    crops = draw_crops(n, patch, ranges.crop_volume, generator)
    return Looks(
        crops.start,
        crops.size,
        draw_flips(n, ranges.flip, generator),
        ranges.blur * torch.rand(n, generator=generator),
        draw_gammas(n, 1 / ranges.gamma, ranges.gamma, generator),
        draw_gains(n, ranges.gain, ranges.offset, generator),
        ranges.noise * torch.rand(n, generator=generator),
        (torch.rand(n, 3, generator=generator) * torch.tensor(patch)).long(),
    )


def show(images: torch.Tensor, looks: Looks, noise: torch.Tensor) -> torch.Tensor:
    """Views (B, 1, *size) of images (B, 1, *patch); background stays 0.

    Args:
        noise: (1, 1, *size) one standard normal field for all; every view rolls it by an offset of its own.
    """
    images = flip(cut(images, Crops(looks.start, looks.size), noise.shape[2:]), looks.flips)
    brain = images != 0
    images = apply_gammas(blur(images, looks.sigmas), looks.gammas)
    images = apply_gains(images, looks.gains)
    images = images + looks.noise.to(images)[:, None, None, None, None] * rolled(noise, looks.shift)
    return images * brain


def rolled(field: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """A periodic field (1, 1, z, y, x) moved by each of the offsets (B, 3): (B, 1, z, y, x)."""
    field = field.expand(len(shift), -1, -1, -1, -1)
    for axis in range(3):
        extent, shape = field.shape[axis + 2], [len(shift), 1, 1, 1, 1]
        shape[axis + 2] = extent
        index = (torch.arange(extent) - shift[:, axis, None]) % extent
        field = field.take_along_dim(index.reshape(shape).to(field.device), dim=axis + 2)
    return field
