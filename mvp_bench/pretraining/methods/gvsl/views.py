"""What GVSL shows its network: random maps of space, and damage that is to be restored."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mvp_bench.pretraining.methods.gvsl.options import GvslOptions
from mvp_bench.pretraining.sampling import Size
from mvp_bench.pretraining.views import geometry
from mvp_bench.pretraining.views.boxes import covered, draw_cells, shuffle_in_cells
from mvp_bench.pretraining.views.drawn import Drawn
from mvp_bench.pretraining.views.intensity import apply_curves, draw_curves
from mvp_bench.pretraining.views.painting import Paint, draw_filler, draw_inner, paint


@dataclass(frozen=True)
class Maps(Drawn):
    """Random maps of space."""

    theta: torch.Tensor
    """(n, 3, 4)."""
    points: torch.Tensor
    """Control points of the displacement (n, 3, k_z, k_y, k_x)."""


@dataclass(frozen=True)
class Damage(Drawn):
    """What is done to the image that is to be restored."""

    cells: torch.Tensor
    shuffled: torch.Tensor
    curves: torch.Tensor
    curved: torch.Tensor
    hidden: torch.Tensor
    noise: torch.Tensor


def draw_maps(n: int, patch: Size, options: GvslOptions, generator: torch.Generator) -> Maps:
    """Affine and elastic maps, uniform in their ranges."""
    scale = (1 - options.scale, 1 + options.scale)
    theta = geometry.draw_affine(n, options.rotation, scale, options.shear, options.shift, generator, patch)
    points = geometry.draw_control_points(n, patch, options.elastic, options.elastic_spacing, generator)
    return Maps(theta, points * torch.rand(n, 1, 1, 1, 1, generator=generator))


def mapped(images: torch.Tensor, maps: Maps) -> torch.Tensor:
    """The images pulled through their maps, 0 from outside."""
    points = maps.points.to(images.device)
    return geometry.warp(images, geometry.displacement_of(points, images.shape[2:]), maps.theta)


def draw_damage(n: int, patch: Size, options: GvslOptions, generator: torch.Generator) -> Damage:
    """Shuffled cells, curve, and boxes of noise of each sample."""
    longest = [max(2, int(options.shuffle_edge * edge)) for edge in patch]
    chance = torch.rand(2, n, 1, 1, 1, 1, generator=generator)
    boxes = draw_inner(n, patch, generator, options.boxes, options.again, options.box_edges)
    return Damage(
        cells=draw_cells(n, patch, longest, generator),
        shuffled=chance[0] < options.shuffle,
        curves=draw_curves(n, generator),
        curved=chance[1] < options.curve,
        hidden=covered(boxes, patch),
        noise=draw_filler(n, patch, generator),
    )


def damaged(images: torch.Tensor, damage: Damage) -> torch.Tensor:
    """A': the images shuffled, mapped by their curves, and painted over."""
    images = torch.where(damage.shuffled.to(images.device), shuffle_in_cells(images, damage.cells), images)
    images = torch.where(damage.curved.to(images.device), apply_curves(images, damage.curves), images)
    return paint(images, Paint(damage.hidden, damage.noise))
