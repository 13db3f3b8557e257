"""Errors of reconstructions, and what a constant prediction would get on the same voxels."""

from __future__ import annotations

import torch


def masked_mse(prediction: torch.Tensor, target: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
    """Sum of squared errors over the ``counted`` voxels of the batch / their number, in float32.

    Args:
        prediction, target: (B, 1, z, y, x).
        counted: bool, same shape.
    """
    squared = (prediction.float() - target.float()).square()
    return (squared * counted).sum() / counted.sum().clamp_min(1)


def constant_mse(target: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Error of the best constant per sample: the variance of its (counted) voxels, averaged like the loss itself."""
    target = target.float()
    if counted is None:
        counted = torch.ones_like(target, dtype=torch.bool)
    axes = tuple(range(1, target.ndim))
    voxels = counted.sum(dim=axes, keepdim=True)
    mean = (target * counted).sum(dim=axes, keepdim=True) / voxels.clamp_min(1)
    return ((target - mean).square() * counted).sum() / voxels.sum().clamp_min(1)
