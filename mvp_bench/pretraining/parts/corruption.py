"""The corruptions of Models Genesis (Zhou et al., MedIA 2021): local shuffling, intensity curves, in- and out-painting.

What is drawn is small (cuts, boxes, curves, seeds), whatever the patch; see :mod:`mvp_bench.pretraining.views.cells`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mvp_bench.config.check import check
from mvp_bench.config.ranges import Few, Share, Shares
from mvp_bench.errors import InputError
from mvp_bench.pretraining.method import LossTerm
from mvp_bench.pretraining.reconstruction import constant_mse, reconstruction_error
from mvp_bench.pretraining.views.boxes import Boxes, covered
from mvp_bench.pretraining.views.cells import cells_of, draw_cuts, draw_seeds, shuffle_in_cells, voxel_noise
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.pretraining.views.intensity import apply_curves, draw_curves
from mvp_bench.pretraining.views.painting import AGAIN, INNER_EDGES, MOST_BOXES, draw_inner, draw_windows

LEAST_SHUFFLED = 2
"""Voxels: a cell of one has nothing to shuffle."""


@dataclass(frozen=True)
class Probabilities:
    """How often each corruption is met with."""

    shuffle: Share = 0.5
    curve: Share = 0.9
    decreasing: Share = 0.5
    """Share of decreasing curves among all."""
    paint: Share = 0.9
    outer: Share = 0.8
    """Share of the painted samples that are out-painted; the others are in-painted."""
    shuffle_edge: Share = 0.1
    """No probability: longest edge of a cell that is shuffled, as a part of the patch's (two voxels at least)."""
    boxes: Few = MOST_BOXES
    """No probability: most boxes that are in-painted."""
    again: Share = AGAIN
    """Probability of each further box of them."""
    box_edges: Shares = INNER_EDGES
    """No probabilities: their shortest and longest edge as parts of the patch's."""

    def require_valid(self) -> None:
        """Refuse what is no probability, and a task without corruption.

        Raises:
            InputError: naming the options.
        """
        check(self)
        if not (self.shuffle or self.curve or self.paint):
            raise InputError(
                "--shuffle, --curve, --paint",
                found="all 0",
                expected="at least one above 0: the network would be asked to copy its input",
            )


@dataclass(frozen=True)
class Corruption(Drawn):
    """What is done to each of n samples. On the CPU."""

    shuffled: torch.Tensor
    """bool (n,): voxels change places inside small cells."""
    cuts: torch.Tensor
    """bool (n, z + y + x): whether a new cell begins at a coordinate, axis after axis."""
    curved: torch.Tensor
    """bool (n,): intensities go through a curve."""
    curves: torch.Tensor
    """(n, 4, 2): control points, see ``draw_curves``."""
    start: torch.Tensor
    """int64 (n, N, 3): first voxels of in-painted boxes, or of windows that out-painting keeps."""
    stop: torch.Tensor
    """int64 (n, N, 3): behind their last voxels."""
    inner: torch.Tensor
    """bool (n, N): the box is there if the sample is in-painted."""
    outer: torch.Tensor
    """bool (n, N): the window is there if the sample is out-painted."""
    painted: torch.Tensor
    """bool (n, 2): in-painted, out-painted; never both."""
    seeds: torch.Tensor
    """int64 (n, 2), below 2^32: of the shuffling, of the noise."""

    @property
    def boxes(self) -> Boxes:
        """The boxes or windows that are there."""
        valid = (self.inner & self.painted[:, :1]) | (self.outer & self.painted[:, 1:])
        return Boxes(self.start, self.stop, valid)


def draw_corruption(
    n: int, patch: Sequence[int], probabilities: Probabilities, generator: torch.Generator
) -> Corruption:
    """Each kind of corruption with its own probability, independently, as in Models Genesis."""
    chance = torch.rand(4, n, generator=generator)
    inner = draw_inner(n, patch, generator, probabilities.boxes, probabilities.again, probabilities.box_edges)
    windows = draw_windows(n, patch, generator)
    longest = [max(int(probabilities.shuffle_edge * edge), LEAST_SHUFFLED) for edge in patch]
    none = (torch.zeros_like(inner.valid), torch.zeros_like(windows.valid))
    outward = chance[3] < probabilities.outer
    painted = (chance[2] < probabilities.paint)[:, None] & torch.stack([~outward, outward], dim=1)
    return Corruption(
        shuffled=chance[0] < probabilities.shuffle,
        cuts=draw_cuts(n, patch, longest, generator),
        curved=chance[1] < probabilities.curve,
        curves=draw_curves(n, generator, probabilities.decreasing),
        start=torch.cat([inner.start, windows.start], dim=1),
        stop=torch.cat([inner.stop, windows.stop], dim=1),
        inner=torch.cat([inner.valid, none[1]], dim=1),
        outer=torch.cat([none[0], windows.valid], dim=1),
        painted=painted,
        seeds=torch.stack([draw_seeds(n, generator), draw_seeds(n, generator)], dim=1),
    )


def draw_one_corruption(
    n: int, patch: Sequence[int], probabilities: Probabilities, generator: torch.Generator
) -> Corruption:
    """Exactly one of shuffling, curve, in-painting and out-painting per sample, equally likely, as in TransVW.

    Of ``probabilities`` only ``decreasing`` and ``shuffle_edge`` are looked at.
    """
    choice = torch.randint(4, (n,), generator=generator)
    drawn = draw_corruption(n, patch, probabilities, generator)
    painted = torch.stack([choice == 2, choice == 3], dim=1)
    return replace(drawn, shuffled=choice == 0, curved=choice == 1, painted=painted)


def corrupt(images: torch.Tensor, drawn: Corruption) -> torch.Tensor:
    """Shuffle, map and paint, in this order; samples that were drawn none of it stay as they are, bit for bit.

    Args:
        images: (B, C, z, y, x) in [0, 1].
        drawn: B rows, on the CPU.
    """
    patch, device = images.shape[2:], images.device
    rows = drawn.shuffled.nonzero()[:, 0]
    if len(rows):
        cells = cells_of(drawn.cuts[rows].to(device), drawn.seeds[rows, 0].to(device), patch)
        rows = rows.to(device)
        images = images.index_copy(0, rows, shuffle_in_cells(images[rows], cells))
    rows = drawn.curved.nonzero()[:, 0]
    if len(rows):
        curves, rows = drawn.curves[rows], rows.to(device)
        images = images.index_copy(0, rows, apply_curves(images[rows], curves))
    if drawn.painted.any():
        noise = voxel_noise(drawn.seeds[:, 1].to(device), patch)
        images = torch.where(hidden(drawn, patch, device), noise.to(images.dtype), images)
    return images


def hidden(drawn: Corruption, patch: Sequence[int], device: torch.device) -> torch.Tensor:
    """Voxels that become noise: inside in-painted boxes, outside the windows of out-painting; bool (B, 1, *patch)."""
    outward = drawn.painted[:, 1].to(device)[:, None, None, None, None]
    return covered(drawn.boxes.to(device), patch) ^ outward


def restoration(output: torch.Tensor, target: torch.Tensor) -> LossTerm:
    """Mean squared error over all voxels of sigmoid(output) against the un-corrupted images in [0, 1]; trivial: each
    sample's mean.

    Args:
        output, target: (B, 1, z, y, x).
    """
    return LossTerm(reconstruction_error(output.float().sigmoid(), target, "mse"), 1.0, constant_mse(target))
