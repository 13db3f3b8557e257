"""InfoNCE between the two views' features."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from mvp_bench.pretraining.parts.contrastive import cosines


def info_nce(first: torch.Tensor, second: torch.Tensor, temperature: float) -> torch.Tensor:
    """Symmetric InfoNCE: L = (CE(S, diag) + CE(S^T, diag)) / 2 with S = V2 V1^T / temperature, rows of unit length.

    The negatives of a sample are the other samples' other views. All features equal: log B. One sample: 0.

    Args:
        first, second: (B, ...) features of the two views, flattened here without pooling or projector.
        temperature: scale of the cosines.
    """
    similarity = cosines(second, first) / temperature
    diagonal = torch.arange(len(first), device=first.device)
    return (functional.cross_entropy(similarity, diagonal) + functional.cross_entropy(similarity.T, diagonal)) / 2


def trivial_info_nce(batch: int) -> float:
    """Its value when all features are equal."""
    return math.log(batch)
