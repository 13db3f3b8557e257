"""Meningioma: a well-bordered, evenly enhancing mass on the dura that pushes the brain away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_bench.datasets.phantom.anatomy import load_atlas
from mvp_bench.datasets.phantom.deformation import HeadMap
from mvp_bench.datasets.phantom.pathology.common import (
    BRATS_2023,
    Anomaly,
    Labels,
    ellipsoidal_distance,
    log_uniform,
    ramp,
    random_place,
)
from mvp_bench.datasets.phantom.scene import Scene


@dataclass(frozen=True)
class Meningioma:
    """Knobs of the meningiomas.

    Attributes:
        radius_mm: range of the radius.
        depth: range of the centre's depth below the dura as part of the radius.
        falx: probability of one on the falx instead of the convexity.
        core: probability of a part that does not enhance (calcified or necrotic).
        oedema: probability of oedema.
        oedema_mm: range of its reach.
        enhancement: range of the degree of enhancement.
        mass: range of the mass effect.
        softness_mm: width of the border.
        labels: mask values.
    """

    radius_mm: tuple[float, float] = (7.0, 20.0)
    depth: tuple[float, float] = (0.2, 0.8)
    falx: float = 0.25
    core: float = 0.34
    oedema: float = 0.54
    oedema_mm: tuple[float, float] = (4.0, 20.0)
    enhancement: tuple[float, float] = (0.6, 1.0)
    mass: tuple[float, float] = (0.2, 0.45)
    softness_mm: float = 1.6
    labels: Labels = BRATS_2023

    def plan(self, rng: np.random.Generator, class_name: str | None) -> MeningiomaPlan:
        """Draw a place on the dura."""
        radius = log_uniform(rng, *self.radius_mm)
        seed = np.array(random_place(rng, "cortex"))
        depth = radius * float(rng.uniform(*self.depth))
        if rng.uniform() < self.falx:
            centre = np.array((np.copysign(max(2.0, depth), seed[0]), np.clip(seed[1], -60, 60), abs(seed[2]) + 15))
        else:
            centre = _below_dura(seed, depth)
        return MeningiomaPlan(
            class_name=class_name,
            mass_centre=(float(centre[0]), float(centre[1]), float(centre[2])),
            mass_reach=1.1 * radius,
            mass_strength=float(rng.uniform(*self.mass)),
            radius=radius,
        )

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """Oedema in the white matter beside it, then the mass."""
        assert isinstance(plan, MeningiomaPlan) and plan.mass_centre is not None
        centre = head.image_position(plan.mass_centre)
        reach = float(rng.uniform(*self.oedema_mm)) * (rng.uniform() < self.oedema)
        area = scene.local(centre, 1.5 * plan.radius + 1.6 * reach + 6)
        if not len(area.voxels):
            return
        distance = ellipsoidal_distance(area.position - centre, rng, 0.12)
        level = plan.radius * (1 + 0.12 * area.noise(rng, 0.7 * plan.radius)) - distance
        if reach > 0:
            tract = area.of("wm") + 0.12 * area.of("gm")
            far = level + reach * (1 + 0.35 * area.noise(rng, 9.0)) * np.clip(0.25 + 0.85 * tract, 0, 1)
            oedema = ramp(far, 6.0) * np.clip(0.1 + tract, 0, 1) * np.clip(1.4 * scene.parenchyma[area.voxels], 0, 1)
            area.replace(0.85 * oedema, "oedema")
            area.label(oedema > 0.42, self.labels.oedema)
        other_side = np.sign(plan.mass_centre[0]) * area.template[:, 0] < -1.5
        mass = ramp(level - 20.0 * other_side, self.softness_mm) * area.region("strip")
        mass = mass * np.clip(1 - area.of("bone") - area.of("marrow"), 0, 1)
        degree = np.clip(float(rng.uniform(*self.enhancement)) + 0.1 * area.noise(rng, 5.0), 0.2, 1)
        area.replace(mass, "tumour")
        area.replace(mass * degree, "meningioma")
        area.label(mass > 0.5, self.labels.enhancing)
        if rng.uniform() < self.core:
            quiet = mass * ramp(level - 0.45 * plan.radius + 3 * area.noise(rng, 5.0), 3.0)
            area.replace(0.8 * quiet, "bone" if rng.uniform() < 0.4 else "necrosis")
            area.label(quiet > 0.5, self.labels.core)


@dataclass(frozen=True)
class MeningiomaPlan(Anomaly):
    """Radius in mm."""

    radius: float = 12.0


def _below_dura(seed: np.ndarray, depth: float) -> np.ndarray:
    """The point ``depth`` mm inside the dura on the ray from the brain's middle through a cortical point."""
    middle = np.array((0.0, -18.0, 8.0))
    direction = (seed - middle) / np.linalg.norm(seed - middle)
    along = np.arange(30.0, 110.0, 1.0)
    points = (middle + along[:, None] * direction).astype(np.float32)
    strip = load_atlas(2.0).sample_channel("strip", points)
    surface = float(along[np.flatnonzero(strip > 0.5)[-1]])
    return middle + (surface - depth) * direction
