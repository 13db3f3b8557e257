"""Changes of intensity: Bezier curves, gains, gammas, noise, blur. Parameters are drawn on the CPU, one row per sample;
images (B, C, z, y, x) are changed on their device, with a few temporary copies of the batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

CURVE_POINTS = 1024
"""Points of a curve that are computed, and intervals of its look-up table."""
TRUNCATE = 4.0
"""Radius of a Gaussian's kernel in standard deviations, rounded (as scipy's)."""
SMALLEST_SIGMA = 1e-3
"""Below, in voxels, a Gaussian is its centre alone."""


def _per_sample(values: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """(B,) -> (B, 1, 1, 1, 1) on the images' device and in their type."""
    return values.to(images)[:, None, None, None, None]


def draw_curves(n: int, generator: torch.Generator, decreasing: float = 0.5) -> torch.Tensor:
    """Control points (n, 4, 2) = (in, out) of cubic Bezier curves with two uniform inner points.

    Their ends are (0, 0) and (1, 1); with probability ``decreasing`` (0, 1) and (1, 0). Inner points in the unit square
    leave both coordinates monotone, so that a curve is a function, and increasing or decreasing.
    """
    curves = torch.zeros(n, 4, 2)
    curves[:, 1:3] = torch.rand(n, 2, 2, generator=generator)
    swapped = (torch.rand(n, generator=generator) < decreasing).float()
    curves[:, 0, 1], curves[:, 3, 1] = swapped, 1 - swapped
    curves[:, 3, 0] = 1
    return curves


def apply_curves(images: torch.Tensor, curves: torch.Tensor) -> torch.Tensor:
    """Map intensities in [0, 1] (clamped) by each image's curve (B, 4, 2): to [0, 1], by a table with 1/1024 steps.

    Background 0 becomes 1 under a decreasing curve, as in Models Genesis. Memory: one int64 and two floats per voxel.
    """
    table = _tables(curves).to(images)
    place = images.clamp(0, 1).flatten(1) * CURVE_POINTS
    index = place.long().clamp(max=CURVE_POINTS - 1)
    low, high = table.gather(1, index), table.gather(1, index + 1)
    return (low + (high - low) * (place - index)).reshape(images.shape)


def _tables(curves: torch.Tensor) -> torch.Tensor:
    """Each curve's value at 0, 1/1024, ..., 1: (B, 1025), monotone, both ends exact."""
    t = torch.linspace(0, 1, CURVE_POINTS + 1, dtype=torch.float64)
    weights = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    along, value = torch.einsum("bkc,kt->cbt", curves.double().cpu(), weights).contiguous()
    wanted = t.expand(len(curves), -1).contiguous()
    right = torch.searchsorted(along, wanted).clamp(1, CURVE_POINTS)
    a, b = along.gather(1, right - 1), along.gather(1, right)
    upper = ((wanted - a) / (b - a).clamp(min=torch.finfo(torch.float64).eps)).clamp(0, 1)
    table = torch.lerp(value.gather(1, right - 1), value.gather(1, right), upper)
    return table.clamp(0, 1).float()


def draw_gains(n: int, gain: float, offset: float, generator: torch.Generator) -> torch.Tensor:
    """(n, 2): a factor uniform in 1 +- ``gain`` and a summand uniform in +- ``offset``."""
    unit = 2 * torch.rand(n, 2, generator=generator) - 1
    return unit * torch.tensor([gain, offset]) + torch.tensor([1.0, 0.0])


def apply_gains(images: torch.Tensor, gains: torch.Tensor, only_where: torch.Tensor | None = None) -> torch.Tensor:
    """image * factor + summand; where ``only_where`` (bool, of the images' shape) is False, the image as it is."""
    changed = images * _per_sample(gains[:, 0], images) + _per_sample(gains[:, 1], images)
    return changed if only_where is None else torch.where(only_where, changed, images)


def draw_gammas(n: int, lo: float, hi: float, generator: torch.Generator) -> torch.Tensor:
    """Exponents (n,), log-uniform in [lo, hi], so that 1/2 and 2 are equally likely."""
    ends = torch.tensor([lo, hi]).log()
    return torch.lerp(ends[0], ends[1], torch.rand(n, generator=generator)).exp()


def apply_gammas(images: torch.Tensor, gammas: torch.Tensor, only_where: torch.Tensor | None = None) -> torch.Tensor:
    """((image - min) / (max - min)) ^ gamma, scaled back to the image's own range; a constant image stays.

    Where ``only_where`` (bool, of the images' shape) is False, the image stays as it is.
    """
    low, high = images.amin((1, 2, 3, 4), keepdim=True), images.amax((1, 2, 3, 4), keepdim=True)
    span = high - low
    unit = (images - low) / span.clamp(min=torch.finfo(torch.float32).tiny)
    changed = torch.where(span > 0, unit ** _per_sample(gammas, images) * span + low, images)
    return changed if only_where is None else torch.where(only_where, changed, images)


def gaussian_noise(shape: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Standard normal numbers, on the CPU."""
    return torch.randn(*shape, generator=generator)


def blur(images: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Gaussian blur of each image with its own standard deviation (B,), voxels; 0 leaves an image as it is.

    Separable; edge values go on beyond the border; kernels end after 4 standard deviations (scipy's
    ``gaussian_filter(mode="nearest")``). As sums of shifted images, 3 (8 sigma + 1) of them, whatever the batch; in
    float32 also under autocast.
    """
    sigmas = sigmas.double().cpu()
    radius = int(TRUNCATE * float(sigmas.max()) + 0.5)
    distance = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernels = torch.exp(-0.5 * (distance / sigmas.clamp(min=SMALLEST_SIGMA)[:, None]) ** 2)
    kernels = kernels * (distance.abs() <= (TRUNCATE * sigmas + 0.5).floor()[:, None])
    kernels = (kernels / kernels.sum(dim=1, keepdim=True)).to(images)[:, :, None, None, None, None]
    for axis in range(2, 5):
        extent = images.shape[axis]
        blurred = torch.zeros_like(images)
        for offset, weight in zip(range(-radius, radius + 1), kernels.unbind(1), strict=True):
            index = (torch.arange(extent, device=images.device) + offset).clamp(0, extent - 1)
            blurred.addcmul_(images.index_select(axis, index), weight)
        images = blurred
    return images
