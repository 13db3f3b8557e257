"""Where in-painting and out-painting put noise, as in Models Genesis (Zhou et al., MedIA 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mvp_bench.pretraining.views.boxes import Boxes, draw_boxes, edge_range

INNER_EDGES = (1 / 6, 1 / 3)
"""Edges of in-painted boxes as parts of the patch's."""
OUTER_EDGES = (3 / 7, 4 / 7)
"""Edges of the windows that out-painting keeps."""
MOST_BOXES = 5
"""Boxes or windows at most."""
AGAIN = 0.95
"""Probability of each further box."""


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
