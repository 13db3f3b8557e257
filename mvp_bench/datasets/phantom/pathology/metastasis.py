"""One to eight metastases at the junction of grey and white matter, solid or ring-enhancing, with oedema."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_bench.datasets.phantom.deformation import HeadMap
from mvp_bench.datasets.phantom.pathology.common import (
    BRATS_2023,
    Anomaly,
    Labels,
    Point,
    ellipsoidal_distance,
    ramp,
    random_place,
)
from mvp_bench.datasets.phantom.scene import Scene


@dataclass(frozen=True)
class Metastases:
    """Knobs of the metastases.

    Attributes:
        count: smallest and largest number.
        radius_mm: median and log standard deviation of the radius.
        radius_limits_mm: its bounds.
        ring_from_mm: radius above which the centre is necrotic in ``ring`` of the lesions.
        ring: see above.
        rim_mm: range of the rim's thickness.
        oedema_mm: range of the oedema's reach, times the root of the radius over 5 mm.
        oedema: probability that a lesion has any.
        enhancement: range of the degree of enhancement.
        contrast: part of the tissue that lesions replace.
        softness_mm: width of the enhancing border.
        labels: mask values.
    """

    count: tuple[int, int] = (1, 8)
    radius_mm: tuple[float, float] = (4.8, 0.45)
    radius_limits_mm: tuple[float, float] = (2.2, 14.0)
    ring_from_mm: float = 6.0
    ring: float = 0.8
    rim_mm: tuple[float, float] = (1.8, 3.5)
    oedema_mm: tuple[float, float] = (3.0, 13.0)
    oedema: float = 0.7
    enhancement: tuple[float, float] = (0.55, 1.0)
    contrast: float = 0.9
    softness_mm: float = 1.8
    labels: Labels = BRATS_2023

    def plan(self, rng: np.random.Generator, class_name: str | None) -> MetastasisPlan:
        """Draw number, places and sizes; at least one is not tiny."""
        count = int(rng.integers(self.count[0], self.count[1] + 1))
        radii = np.exp(rng.normal(np.log(self.radius_mm[0]), self.radius_mm[1], count)).clip(*self.radius_limits_mm)
        radii[0] = max(radii[0], self.radius_mm[0])
        places = tuple(random_place(rng, "grey_white") for _ in range(count))
        return MetastasisPlan(class_name=class_name, lesions=tuple(zip(places, radii.tolist(), strict=True)))

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """All oedema first, so that no lesion is overpainted by its neighbour's."""
        assert isinstance(plan, MetastasisPlan)
        painted = []
        for place, radius in plan.lesions:
            centre = head.image_position(place)
            reach = float(rng.uniform(*self.oedema_mm)) * np.sqrt(radius / 5) * (rng.uniform() < self.oedema)
            area = scene.local(centre, 1.5 * radius + 1.6 * reach + 5)
            distance = ellipsoidal_distance(area.position - centre, rng, 0.12)
            level = radius * (1 + 0.2 * area.noise(rng, max(3.0, 0.6 * radius))) - distance
            here = np.clip(1.4 * scene.parenchyma[area.voxels] - 0.1, 0, 1)
            tract = area.of("wm") + 0.3 * area.of("deep") + 0.12 * area.of("gm")
            if reach > 0:
                far = level + reach * (1 + 0.35 * area.noise(rng, 7.0)) * np.clip(0.25 + 0.85 * tract, 0, 1)
                oedema = ramp(far, 5.0) * here * np.clip(0.15 + tract, 0, 1)
                area.replace(self.contrast * oedema * float(rng.uniform(0.75, 1.0)), "oedema")
                area.label(oedema > 0.42, self.labels.oedema)
            painted.append((area, level, radius))
        for area, level, radius in painted:
            core = ramp(level, self.softness_mm) * (1 - area.of("bone") - area.of("marrow"))
            rim = float(rng.uniform(*self.rim_mm)) * (1 + 0.35 * np.clip(area.noise(rng, 5.0), -1.5, 2.0))
            ring = radius > self.ring_from_mm and rng.uniform() < self.ring
            necrosis = core * ramp(level - rim, self.softness_mm) if ring else 0 * core
            degree = np.clip(float(rng.uniform(*self.enhancement)) + 0.15 * area.noise(rng, 4.0), 0.1, 1)
            area.replace(self.contrast * core, "tumour")
            area.replace(self.contrast * (core - necrosis) * degree, "enhancing")
            area.replace(0.9 * necrosis, "necrosis")
            area.label(core > 0.5, self.labels.enhancing)
            area.label(necrosis > 0.5, self.labels.core)


@dataclass(frozen=True)
class MetastasisPlan(Anomaly):
    """Template points and radii in mm."""

    lesions: tuple[tuple[Point, float], ...] = ()
