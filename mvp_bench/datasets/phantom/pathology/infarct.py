"""Acute ischaemic stroke: ADC falls within minutes, FLAIR brightens over hours.

Three kinds: territorial (a wedge of one artery's territory, cortex and white matter), lacunar (a perforator) and
embolic (several small cortical ones). Old lacunes and white-matter lesions are put beside them: bright on FLAIR, but
diffusion is not restricted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_bench.datasets.phantom.deformation import HeadMap
from mvp_bench.datasets.phantom.pathology.common import (
    Anomaly,
    Point,
    ellipsoidal_distance,
    log_uniform,
    ramp,
    random_place,
)
from mvp_bench.datasets.phantom.scene import Local, Scene

TERRITORIES: dict[str, tuple[Point, Point, float]] = {
    "mca_superior": ((24, 4, 2), (58, 2, 34), 38.0),
    "mca_inferior": ((26, -8, 0), (60, -42, 12), 36.0),
    "mca_deep": ((22, 4, 0), (30, 4, 14), 60.0),
    "aca": ((4, 16, 12), (10, 40, 44), 34.0),
    "pca": ((16, -30, -4), (14, -88, 4), 34.0),
    "pica": ((8, -48, -48), (26, -72, -52), 45.0),
    "sca": ((8, -40, -22), (30, -62, -26), 40.0),
}
"""Artery -> apex of the wedge, point on its axis (right side, MNI mm), half angle in degrees."""


@dataclass(frozen=True)
class Infarct:
    """Knobs of the infarcts.

    Attributes:
        kinds: probabilities of territorial, lacunar and embolic strokes.
        extent: range of the territorial wedge's angle as part of its territory.
        lacune_mm: range of the radius of a perforator infarct.
        emboli: smallest and largest number of small ones.
        embolus_mm: range of their radius.
        severity: range of how far water is restricted (1: the core's ADC).
        heterogeneity: how much that varies inside.
        hours: range of the time since onset; half of the water has come after ``half_time`` hours.
        half_time: see above.
        old_lacunes: mean number of old, fluid-filled ones.
        softness_mm: width of the border.
    """

    kinds: tuple[float, float, float] = (0.5, 0.25, 0.25)
    extent: tuple[float, float] = (0.3, 0.95)
    lacune_mm: tuple[float, float] = (3.0, 7.5)
    emboli: tuple[int, int] = (2, 6)
    embolus_mm: tuple[float, float] = (2.5, 8.0)
    severity: tuple[float, float] = (0.35, 0.9)
    heterogeneity: float = 0.3
    hours: tuple[float, float] = (1.0, 48.0)
    half_time: float = 10.0
    old_lacunes: float = 1.2
    softness_mm: float = 4.0

    def plan(self, rng: np.random.Generator, class_name: str | None) -> InfarctPlan:
        """Draw kind, side and time since onset."""
        kind = ("territorial", "lacunar", "embolic")[int(rng.choice(3, p=self.kinds))]
        hours = log_uniform(rng, *self.hours)
        return InfarctPlan(class_name=class_name, kind=kind, side=int(rng.choice((-1, 1))), hours=hours)

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """Old lesions, then the acute ones, then their mask."""
        assert isinstance(plan, InfarctPlan)
        scene.notes["hours_since_onset"] = round(plan.hours, 1)
        for _ in range(int(rng.poisson(self.old_lacunes))):
            self._old_lacune(scene, head, rng)
        late = plan.hours / (plan.hours + self.half_time)
        severity = float(rng.uniform(*self.severity))
        if plan.kind == "territorial":
            names = list(TERRITORIES)
            weights = np.array([3, 3, 2, 1, 2, 1, 0.7])
            apex, aim, angle = TERRITORIES[names[int(rng.choice(len(names), p=weights / weights.sum()))]]
            flip = np.array((plan.side, 1, 1), np.float32)
            angle *= float(rng.uniform(*self.extent))
            level = _wedge(scene, np.array(apex) * flip, np.array(aim) * flip, angle, rng)
            self._fill(Local(scene, np.flatnonzero(level > -12)), level[level > -12], severity, late, rng)
            return
        small = plan.kind == "lacunar"
        count = 1 if small else int(rng.integers(self.emboli[0], self.emboli[1] + 1))
        sizes = self.lacune_mm if small else self.embolus_mm
        for _ in range(count):
            place = random_place(rng, "deep" if small else "grey_white")
            if not small:
                place = (plan.side * abs(place[0]), place[1], place[2])
            radius = log_uniform(rng, *sizes)
            centre = head.image_position(place)
            area = scene.local(centre, 2 * radius + 6)
            distance = ellipsoidal_distance(area.position - centre, rng, 0.2)
            level = radius * (1 + 0.25 * area.noise(rng, max(3.0, 0.6 * radius))) - distance
            self._fill(area, level, severity, late, rng)

    def _fill(self, area: Local, level: np.ndarray, severity: float, late: float, rng: np.random.Generator) -> None:
        if not len(area.voxels):
            return
        tissue = np.clip(1.3 * area.scene.parenchyma[area.voxels], 0, 1)
        amount = ramp(level, self.softness_mm) * tissue
        degree = np.clip(severity * (1 + self.heterogeneity * area.noise(rng, 6.0)), 0.2, 1)
        area.replace(amount * degree, "infarct")
        area.replace(amount * degree * np.clip(late * (1 + 0.3 * area.noise(rng, 8.0)), 0, 1), "infarct_late")
        area.label((amount > 0.5) & (degree > 0.25), 1)

    def _old_lacune(self, scene: Scene, head: HeadMap, rng: np.random.Generator) -> None:
        centre = head.image_position(random_place(rng, "deep"))
        radius = log_uniform(rng, 1.5, 4.5)
        area = scene.local(centre, 3 * radius + 4)
        if not len(area.voxels):
            return
        level = radius * (1 + 0.2 * area.noise(rng, 4.0)) - np.linalg.norm(area.position - centre, axis=1)
        tissue = np.clip(1.3 * scene.parenchyma[area.voxels], 0, 1)
        area.replace(0.8 * ramp(level + 2.0, 3.0) * tissue, "wmh")
        area.replace(0.9 * ramp(level, 2.0) * tissue, "lacune")


def _wedge(scene: Scene, apex: np.ndarray, aim: np.ndarray, half_angle: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) depth in mm inside a ragged cone in template space; negative outside."""
    axis = (aim - apex) / np.linalg.norm(aim - apex)
    offset = scene.template - apex.astype(np.float32)
    distance = np.linalg.norm(offset, axis=1)
    along = offset @ axis.astype(np.float32)
    angle = np.degrees(np.arccos(np.clip(along / np.maximum(distance, 1e-3), -1, 1)))
    ragged = half_angle * (1 + 0.22 * scene.noise(rng, 11.0) + 0.08 * scene.noise(rng, 4.5))
    depth = np.deg2rad(np.clip(ragged - angle, -60, 60)) * np.maximum(distance, 6.0)
    same_side = np.sign(apex[0]) * scene.template[:, 0]
    return np.minimum(np.minimum(depth, along - 2.0), 3.0 * (same_side - 0.5)).astype(np.float32)


@dataclass(frozen=True)
class InfarctPlan(Anomaly):
    """Kind, side (-1 left, 1 right) and hours since onset."""

    kind: str = "territorial"
    side: int = 1
    hours: float = 6.0
