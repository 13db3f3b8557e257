"""Vestibular schwannoma: an enhancing mass at one cerebellopontine angle, with a tongue into the auditory canal."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_bench.datasets.phantom.deformation import HeadMap
from mvp_bench.datasets.phantom.landmarks import AUDITORY_CANAL, CEREBELLOPONTINE_ANGLE
from mvp_bench.datasets.phantom.pathology.common import Anomaly, ellipsoidal_distance, log_uniform, ramp
from mvp_bench.datasets.phantom.scene import Scene


@dataclass(frozen=True)
class Schwannoma:
    """Knobs of the schwannomas.

    Attributes:
        radius_mm: range of the cisternal part's radius.
        intracanalicular: probability that there is a tongue in the canal.
        enhancement: range of the degree of enhancement.
        cystic: probability of cysts in those larger than ``cystic_from_mm``.
        cystic_from_mm: see above.
        softness_mm: width of the border.
        mass: range of the mass effect.
    """

    radius_mm: tuple[float, float] = (6.0, 14.0)
    intracanalicular: float = 0.8
    enhancement: tuple[float, float] = (0.55, 1.0)
    cystic: float = 0.4
    cystic_from_mm: float = 8.0
    softness_mm: float = 1.8
    mass: tuple[float, float] = (0.15, 0.4)

    def plan(self, rng: np.random.Generator, class_name: str | None) -> SchwannomaPlan:
        """Draw side and size."""
        side = int(rng.choice((-1, 1)))
        radius = log_uniform(rng, *self.radius_mm)
        x, y, z = CEREBELLOPONTINE_ANGLE
        shift = rng.normal(0, 1.2, 3)
        centre = (side * (x + 2.0 - 0.1 * radius + shift[0]), y + shift[1], z + shift[2])
        return SchwannomaPlan(
            class_name=class_name,
            mass_centre=(float(centre[0]), float(centre[1]), float(centre[2])),
            mass_reach=1.2 * radius,
            mass_strength=float(rng.uniform(*self.mass)),
            radius=radius,
            side=side,
        )

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """The mass replaces what it meets but bone."""
        assert isinstance(plan, SchwannomaPlan) and plan.mass_centre is not None
        centre = head.image_position(plan.mass_centre)
        area = scene.local(centre, 1.6 * plan.radius + 18)
        if not len(area.voxels):
            return
        distance = ellipsoidal_distance(area.position - centre, rng, 0.12)
        level = plan.radius * (1 + 0.14 * area.noise(rng, max(3.0, 0.7 * plan.radius))) - distance
        bone = area.of("bone") + area.of("marrow")
        mass = ramp(level, self.softness_mm) * np.clip(1 - 0.9 * bone, 0, 1)
        if rng.uniform() < self.intracanalicular:
            start, end = (np.array(p, np.float32) * (plan.side, 1, 1) for p in AUDITORY_CANAL.points)
            along = np.clip((area.template - start) @ (end - start) / np.sum((end - start) ** 2), 0, 1)
            canal = np.linalg.norm(area.template - start - along[:, None] * (end - start), axis=1)
            depth = float(rng.uniform(0.4, 1.0))
            mass = np.maximum(mass, ramp(3.0 - canal, self.softness_mm) * (along < depth))
        degree = np.clip(float(rng.uniform(*self.enhancement)) + 0.12 * area.noise(rng, 4.0), 0.15, 1)
        area.replace(mass, "tumour")
        area.replace(mass * degree, "schwannoma")
        if plan.radius > self.cystic_from_mm and rng.uniform() < self.cystic:
            area.replace(0.85 * mass * ramp(4 * area.noise(rng, 0.5 * plan.radius) - 4, 3.0), "necrosis")
        area.label(mass > 0.5, 1)


@dataclass(frozen=True)
class SchwannomaPlan(Anomaly):
    """Radius in mm and side (-1 left, 1 right)."""

    radius: float = 7.0
    side: int = 1
