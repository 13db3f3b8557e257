"""Errors of reconstructions, and what a constant prediction would get on the same voxels."""

from __future__ import annotations

from typing import Literal

import torch

Error = Literal["mse", "l2"]
TINY = 1e-12
"""Under the root of ``l2``, whose slope at 0 is infinite."""


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


def reconstruction_error(prediction: torch.Tensor, target: torch.Tensor, error: Error) -> torch.Tensor:
    """Mean over the batch, in float32, of each sample's mean squared error over all voxels (``mse``), or of its root
    (``l2``: the Euclidean norm of the error, divided by the root of the number of voxels).

    Args:
        prediction, target: (B, 1, z, y, x).
    """
    squared = (prediction.float() - target.float()).square()
    return squared.mean() if error == "mse" else (squared.flatten(1).mean(1) + TINY).sqrt().mean()


def constant_error(target: torch.Tensor, error: Error) -> torch.Tensor:
    """The same of the best constant per sample."""
    if error == "mse":
        return constant_mse(target)
    return reconstruction_error(target.float().mean(dim=tuple(range(1, target.ndim)), keepdim=True), target, error)


def masked_l1(prediction: torch.Tensor, target: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """Sum of absolute errors over the ``counted`` voxels of the batch (default: all) / their number, in float32.

    Args:
        prediction, target: (B, 1, z, y, x).
        counted: bool, same shape.
    """
    absolute = (prediction.float() - target.float()).abs()
    if counted is None:
        return absolute.mean()
    return (absolute * counted).sum() / counted.sum().clamp_min(1)


def constant_l1(target: torch.Tensor, counted: torch.Tensor | None = None) -> torch.Tensor:
    """The same of the best constant per sample: the median of its (counted) voxels."""
    target = target.float()
    known = target if counted is None else target.masked_fill(~counted, torch.nan)
    median = known.flatten(1).nanmedian(dim=1).values.nan_to_num()
    return masked_l1(median.reshape(-1, *[1] * (target.ndim - 1)), target, counted)
