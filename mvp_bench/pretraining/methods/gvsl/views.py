"""Random maps of space, through which GVSL's images are seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from mvp_bench.pretraining.methods.gvsl.options import GvslOptions
from mvp_bench.pretraining.source import Size
from mvp_bench.pretraining.views import geometry
from mvp_bench.pretraining.views.drawn import Drawn


@dataclass(frozen=True)
class Maps(Drawn):
    """Random maps of space."""

    theta: torch.Tensor
    """(n, 3, 4)."""
    points: torch.Tensor
    """Control points of the displacement (n, 3, k_z, k_y, k_x)."""


def draw_maps(n: int, patch: Size, options: GvslOptions, generator: torch.Generator) -> Maps:
    """Affine and elastic maps, uniform in their ranges."""
    scale = (1 - options.scale, 1 + options.scale)
    theta = geometry.draw_affine(
        n,
        math.radians(options.rotation_degrees),
        scale,
        math.radians(options.shear_degrees),
        options.shift,
        generator,
        patch,
    )
    points = geometry.draw_control_points(n, patch, options.elastic, options.elastic_spacing, generator)
    return Maps(theta, points * torch.rand(n, 1, 1, 1, 1, generator=generator))


def mapped(images: torch.Tensor, maps: Maps) -> torch.Tensor:
    """The images pulled through their maps, 0 from outside."""
    points = maps.points.to(images.device)
    return geometry.warp(images, geometry.displacement_of(points, images.shape[2:]), maps.theta)
