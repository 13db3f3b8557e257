"""Contrastive losses as pure functions of features, in float32 whatever the autocast."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch.nn import functional


def normalised(features: torch.Tensor) -> torch.Tensor:
    """Rows (N, ...) flattened to (N, D), of unit length, float32; zero rows stay zero."""
    return functional.normalize(features.float().flatten(1), dim=1)


def cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Cosines of all pairs of rows: (N, D), (M, D) -> (N, M)."""
    with torch.autocast(first.device.type, enabled=False):  # they need more than bfloat16's three digits
        return normalised(first) @ normalised(second).T


def case_numbers(cases: Sequence[str], device: torch.device) -> torch.Tensor:
    """int64 (N,): equal for equal names, in every process; different names differ but for one chance in 2^64."""
    digests = [hashlib.blake2b(case.encode(), digest_size=8).digest() for case in cases]
    return torch.tensor([int.from_bytes(d, "little", signed=True) for d in digests], device=device)


def _no_negatives(groups: torch.Tensor) -> torch.Tensor:
    """bool (2N, 2N): pairs of views that are neither positives nor negatives: each view with itself, and other samples
    of the same group."""
    size = len(groups)
    both = groups.repeat(2)
    sample = torch.arange(size, device=groups.device).repeat(2)
    same_sample = sample[:, None] == sample
    itself = torch.eye(2 * size, dtype=torch.bool, device=groups.device)
    return itself | ((both[:, None] == both) & ~same_sample)


def nt_xent(
    first: torch.Tensor, second: torch.Tensor, temperature: float, groups: torch.Tensor | None = None
) -> torch.Tensor:
    """NT-Xent (Chen et al., SimCLR, ICML 2020) of N pairs of views.

    The mean over all 2N views of -log(e^{s_pos / t} / sum_k e^{s_k / t}) with s the cosines, k over the 2N - 1 other
    views. All features equal: log(2N - 1). Symmetric in the views.

    Args:
        first, second: (N, ...) features of the two views.
        temperature: t.
        groups: (N,) integers; samples of the same number are no negatives of each other.
    """
    size = len(first)
    views = torch.cat([first, second])
    if groups is None:
        groups = torch.arange(size, device=views.device)
    similarity = (cosines(views, views) / temperature).masked_fill(_no_negatives(groups), -torch.inf)
    positive = torch.arange(2 * size, device=views.device).roll(size)
    return functional.cross_entropy(similarity, positive)


def trivial_nt_xent(groups: torch.Tensor) -> torch.Tensor:
    """:func:`nt_xent` of equal features: the mean of the logarithms of how many views a view is compared with."""
    return (~_no_negatives(groups)).sum(dim=1).double().log().mean().float()
