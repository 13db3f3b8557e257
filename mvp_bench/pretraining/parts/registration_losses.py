"""Deformable registration as a training signal: correlation in windows, smoothness of a flow, bounded affine maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from mvp_bench.pretraining.views.geometry import affine_matrices

VARIES = 1e-5
"""Variance in a window (of images in 0 to 1) below which it counts as constant: correlation there is rounding noise."""
FOLDED = 1 / 3
"""Smoothness of u(p) = -p, the flow that draws every voxel from one place and so makes a constant image."""
AFFINE_NUMBERS = 12
"""Three rotations, three scales, three shears, three shifts."""


def window_edges(patch: Sequence[int], window: int) -> tuple[int, ...]:
    """The largest odd edge per axis that exceeds neither ``window`` nor the patch."""
    return tuple(edge - (edge + 1) % 2 for edge in (min(window, axis) for axis in patch))


def correlation_loss(first: torch.Tensor, second: torch.Tensor, window: int = 9) -> torch.Tensor:
    """1 - mean over windows of the correlation of two images, per sample: (B, 1, z, y, x) twice -> float32 (B,).

    In a window of ``window``^3 voxels (fewer along an axis that is shorter, see :func:`window_edges`) with means m and
    population variances v, the normalised cross-correlation is cov(a, b) / sqrt(v_a v_b): 1 where b = s a + t, s > 0.
    Windows lie wholly inside the patch, one at every voxel where it fits. One image constant: 0. Both constant (empty
    background): the window does not count; if none counts, the loss is 0.
    """
    with torch.autocast(first.device.type, enabled=False):
        a, b = first.float(), second.float()
        # Taking means away first costs no information and saves digits in E[x^2] - E[x]^2.
        a, b = a - a.mean(dim=(1, 2, 3, 4), keepdim=True), b - b.mean(dim=(1, 2, 3, 4), keepdim=True)
        means = torch.cat([a, b, a * a, b * b, a * b], dim=1)
        for axis, edge in enumerate(window_edges(a.shape[2:], window)):
            kernel = [1, 1, 1]
            kernel[axis] = edge
            means = functional.avg_pool3d(means, kernel, stride=1)
        mean_a, mean_b, aa, bb, ab = means.unbind(1)
        variance_a, variance_b = aa - mean_a.square(), bb - mean_b.square()
        counted = (variance_a > VARIES) | (variance_b > VARIES)
        scale = (variance_a.clamp_min(VARIES) * variance_b.clamp_min(VARIES)).sqrt()
        missing = (1 - (ab - mean_a * mean_b) / scale) * counted
        return missing.sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3)).clamp_min(1)


def smoothness(flow: torch.Tensor) -> torch.Tensor:
    """|grad u|^2 / 3, per sample: (B, 3, z, y, x) in voxels -> float32 (B,).

    Squared differences of neighbours, averaged over components and voxels, and over the three axes. Constant flow: 0.
    u(p) = G p: sum of the squares of G's entries / 9.
    """
    flow = flow.float()
    return torch.stack([flow.diff(dim=axis).square().mean(dim=(1, 2, 3, 4)) for axis in (2, 3, 4)]).mean(dim=0)


def bounded_affine(
    numbers: torch.Tensor, rotation: float, scale: float, shear: float, patch: Sequence[int]
) -> torch.Tensor:
    """theta (B, 3, 4) from free numbers (B, 12); all zero: the identity.

    Args:
        numbers: of rotations, scales, shears and shifts about or along x, y, z.
        rotation, shear: largest angles, radians (times tanh).
        scale: factors are 1 +- ``scale`` (times tanh). Shifts, in half edges of the patch, have no bound.
        patch: voxels (z, y, x), for angles in voxel space.
    """
    turned, scaled, sheared, shift = numbers.float().reshape(-1, 4, 3).unbind(1)
    return affine_matrices(rotation * turned.tanh(), 1 + scale * scaled.tanh(), shear * sheared.tanh(), shift, patch)
