"""Visual words by position: places in the brain, in mm from its middle, that all crops of one class are centred at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from scipy.stats import qmc

from mvp_bench.pretraining.sampling import Batch
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.pretraining.views.geometry import Crops

POINTS = 64
"""Points per word from which the words' places are found."""
ROUNDS = 30
"""Rounds of k-means."""
SLACK = 1e-9
"""Part of a patch's edge by which a place may be out of reach: rounding."""


def spread_places(number: int, reach: Sequence[float], axes: Sequence[float], patch: Sequence[float]) -> torch.Tensor:
    """Evenly spread places in a box around the middle of the brain, inside its ellipsoid. Nothing is random.

    The centres of k-means clusters of a Halton sequence: as near as can be to wherever a patch may lie.

    Args:
        number: of places.
        reach: half edges of the box, mm.
        axes: semi-axes of the ellipsoid, mm.
        patch: edges of a patch in mm, the unit of distances.

    Returns:
        float64 (number, 3), (z, y, x), mm.
    """
    box, ellipsoid, unit = (np.asarray(v, dtype=np.float64) for v in (reach, axes, patch))
    halton = qmc.Halton(3, scramble=False)
    points = np.empty((0, 3))
    while len(points) < POINTS * number:
        more = (2 * halton.random(POINTS * number) - 1) * box
        points = np.concatenate([points, more[((more / ellipsoid) ** 2).sum(axis=1) <= 1]])
    points = points[: POINTS * number] / unit
    centres, _ = kmeans2(points, points[:number].copy(), iter=ROUNDS, minit="matrix")
    return torch.from_numpy(centres * unit)


@dataclass(frozen=True)
class CropPlacement(Drawn):
    """How each of n crops is placed."""

    edge: torch.Tensor
    """float64 (n,): edges of the crop as a part of the patch's."""
    jitter: torch.Tensor
    """float64 (n, 3): distance from the place, as a part of the patch's edge."""
    preference: torch.Tensor
    """(n, places): of the places within reach the one with the highest number is taken."""


def draw_placement(
    n: int, places: int, crop: tuple[float, float], jitter: float, generator: torch.Generator
) -> CropPlacement:
    """Edges uniform in ``crop``, distances uniform in +-``jitter``, all places alike."""
    unit = torch.rand(n, 4, generator=generator, dtype=torch.float64)
    edge = crop[0] + (crop[1] - crop[0]) * unit[:, 0]
    return CropPlacement(edge, jitter * (2 * unit[:, 1:] - 1), torch.rand(n, places, generator=generator))


class Words(NamedTuple):
    """Crops and what they show."""

    crops: Crops
    word: torch.Tensor
    """int64 (B,): index of the place."""
    there: torch.Tensor
    """bool (B,): the crop is centred at the place, up to the jitter. Otherwise no place was within the patch's reach,
    and the crop is as near to the nearest as the patch allows."""


def place_crops(batch: Batch, places: torch.Tensor, drawn: CropPlacement) -> Words:
    """A crop inside each patch, centred at one of the places: drawn among those that the crop can be centred at.

    Args:
        batch: patches, by their positions.
        places: float64 (places, 3), mm from the middle of the case, (z, y, x).
        drawn: B rows.
    """
    patch = torch.tensor(batch.images.shape[2:], dtype=torch.float64)
    length = patch * batch.spacing
    middle = batch.centre_offset + (length - batch.spacing) / 2  # centre_offset is that of the first voxel's centre
    room = (1 - drawn.edge[:, None]) / 2  # for the crop's centre on either side of the patch's, in patch edges
    away = (places - middle[:, None]) / length[:, None] + drawn.jitter[:, None]
    excess = (away.abs() / room[:, None]).amax(dim=2)
    reached = excess <= 1 + SLACK
    word = torch.where(reached, 1 + drawn.preference.double(), -excess).argmax(dim=1)
    rows = torch.arange(len(word))
    shift = torch.maximum(torch.minimum(away[rows, word], room), -room)
    start = (room + shift) * patch
    return Words(Crops(start, drawn.edge[:, None] * patch), word, reached[rows, word])
