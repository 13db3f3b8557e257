"""In-painting and out-painting as in Models Genesis (Zhou et al., MedIA 2021): parts of an image become noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mvp_bench.pretraining.views.boxes import Boxes, draw_boxes, edge_range
from mvp_bench.pretraining.views.drawn import Drawn

INNER_EDGES = (1 / 6, 1 / 3)
"""Edges of in-painted boxes as parts of the patch's."""
OUTER_EDGES = (3 / 7, 4 / 7)
"""Edges of the windows that out-painting keeps."""
MOST_BOXES = 5
"""Boxes or windows at most."""
AGAIN = 0.95
"""Probability of each further box."""


@dataclass(frozen=True)
class Paint(Drawn):
    """Where to paint, and with what."""

    hidden: torch.Tensor
    """bool (n, 1, *patch)."""
    noise: torch.Tensor
    """(n, 1, *patch), uniform in [0, 1)."""


def draw_counts(n: int, most: int, again: float, generator: torch.Generator) -> torch.Tensor:
    """Numbers 0..``most``: each further one comes with probability ``again`` if the one before came. int64 (n,)."""
    return (torch.rand(n, most, generator=generator) < again).long().cumprod(dim=1).sum(dim=1)


def draw_inner(
    n: int,
    patch: Sequence[int],
    generator: torch.Generator,
    most: int = MOST_BOXES,
    again: float = AGAIN,
    edges: tuple[float, float] = INNER_EDGES,
) -> Boxes:
    """Boxes to in-paint: 0 to ``most`` per sample, edges as parts of the patch's."""
    return draw_boxes(n, draw_counts(n, most, again, generator), *edge_range(patch, *edges), patch, generator)


def draw_windows(
    n: int,
    patch: Sequence[int],
    generator: torch.Generator,
    most: int = MOST_BOXES,
    again: float = AGAIN,
    edges: tuple[float, float] = OUTER_EDGES,
) -> Boxes:
    """Windows that out-painting keeps: 1 to ``most`` per sample, edges as parts of the patch's."""
    counts = 1 + draw_counts(n, most - 1, again, generator)
    return draw_boxes(n, counts, *edge_range(patch, *edges), patch, generator)


def draw_filler(n: int, patch: Sequence[int], generator: torch.Generator) -> torch.Tensor:
    """Noise uniform in [0, 1): (n, 1, *patch), on the CPU."""
    return torch.rand(n, 1, *patch, generator=generator)


def paint(images: torch.Tensor, painted: Paint) -> torch.Tensor:
    """The images (B, C, *patch), bit for bit, with noise where hidden (the same in all channels)."""
    return torch.where(painted.hidden.to(images.device), painted.noise.to(images), images)
