"""Diffuse gliomas: necrosis, enhancing rim and infiltrating oedema, or solid and hardly enhancing.

The tumour is a level set: distance to the centre in a random ellipsoidal frame, plus smooth noise. Its shells are cut
at different levels with noise of their own, so that rim thickness varies and the rim has gaps. Oedema follows white
matter, spares cortex and does not enter the ventricles.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from mvp_bench.datasets.phantom.deformation import HeadMap
from mvp_bench.datasets.phantom.pathology.common import (
    BRATS_2021,
    Anomaly,
    Labels,
    ellipsoidal_distance,
    log_uniform,
    ramp,
    random_place,
)
from mvp_bench.datasets.phantom.scene import Scene


@dataclass(frozen=True)
class GliomaConfig:
    """One grade of glioma.

    Attributes:
        place: see common.random_place.
        radius_mm: range of the core's radius (log-uniform).
        necrosis: probability that the core has a necrotic centre.
        rim_mm: range of the rim's thickness in a small tumour.
        rim_growth: what is added per mm of radius.
        enhancement: range of the mean degree of enhancement, 0 (none) to 1.
        patchiness: how much the degree varies inside a tumour.
        enhancing_from: degree above which tissue is labelled enhancing.
        oedema_mm: range of the oedema's reach beyond the core.
        oedema_softness_mm: width of its border.
        core_softness_mm: width of the border of rim and necrosis.
        raggedness: size of the border's bumps as part of the radius.
        contrast: part of the tissue that lesions replace (1: all; lower is harder to see).
        mass: range of the mass effect (0: infiltrates without pushing).
        cyst: probability of fluid in place of part of the solid tumour.
        haemorrhage: probability of a small bleeding in the core.
    """

    place: str = "hemisphere"
    radius_mm: tuple[float, float] = (11.0, 26.0)
    necrosis: float = 0.9
    rim_mm: tuple[float, float] = (2.5, 6.0)
    rim_growth: float = 0.12
    enhancement: tuple[float, float] = (0.55, 1.0)
    patchiness: float = 0.3
    enhancing_from: float = 0.35
    oedema_mm: tuple[float, float] = (6.0, 26.0)
    oedema_softness_mm: float = 7.0
    core_softness_mm: float = 2.5
    raggedness: float = 0.28
    contrast: float = 0.85
    mass: tuple[float, float] = (0.1, 0.35)
    cyst: float = 0.15
    haemorrhage: float = 0.25


HIGH_GRADE = GliomaConfig()
LOW_GRADE = GliomaConfig(
    radius_mm=(10.0, 26.0),
    necrosis=0.0,
    enhancement=(0.0, 0.18),
    patchiness=0.15,
    enhancing_from=0.35,
    oedema_mm=(0.0, 5.0),
    core_softness_mm=6.0,
    mass=(0.05, 0.25),
    cyst=0.25,
    haemorrhage=0.0,
)
DIFFUSE_MIDLINE = GliomaConfig(
    place="midline",
    radius_mm=(10.0, 18.0),
    necrosis=0.12,
    rim_mm=(2.0, 4.0),
    enhancement=(0.0, 0.42),
    patchiness=0.38,
    enhancing_from=0.55,
    oedema_mm=(-3.0, 14.0),
    core_softness_mm=4.0,
    raggedness=0.22,
    contrast=0.75,
    mass=(0.05, 0.3),
    cyst=0.25,
    haemorrhage=0.1,
)


@dataclass(frozen=True)
class Glioma:
    """Gliomas of one or two grades.

    Attributes:
        grades: class name ("" if there is one kind only) -> config.
        atypical: probability that a tumour looks like one of the other class.
        labels: mask values.
    """

    grades: tuple[tuple[str, GliomaConfig], ...] = (("", HIGH_GRADE),)
    atypical: float = 0.0
    labels: Labels = BRATS_2021

    def plan(self, rng: np.random.Generator, class_name: str | None) -> GliomaPlan:
        """Draw grade, place and size."""
        names = [name for name, _ in self.grades]
        own = names.index(class_name) if class_name in names else int(rng.integers(len(names)))
        looks = own
        if rng.uniform() < self.atypical:
            looks = (own + 1) % len(names)
        config = self.grades[looks][1]
        radius = log_uniform(rng, *config.radius_mm)
        centre = random_place(rng, config.place)
        return GliomaPlan(
            class_name=class_name,
            mass_centre=centre,
            mass_reach=1.1 * radius,
            mass_strength=float(rng.uniform(*config.mass)),
            radius=radius,
            config=config,
        )

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """Oedema first, then the core over it."""
        assert isinstance(plan, GliomaPlan) and plan.mass_centre is not None
        paint_glioma(scene, head, plan, rng, self.labels)


@dataclass(frozen=True)
class GliomaPlan(Anomaly):
    """A glioma to be painted."""

    radius: float = 15.0
    config: GliomaConfig = HIGH_GRADE


def paint_glioma(scene: Scene, head: HeadMap, plan: GliomaPlan, rng: np.random.Generator, labels: Labels) -> None:
    """Put a glioma into the scene (see the module's text)."""
    config, radius = plan.config, plan.radius
    assert plan.mass_centre is not None
    centre = head.image_position(plan.mass_centre)
    reach = float(rng.uniform(*config.oedema_mm))
    area = scene.local(centre, 1.9 * radius + 1.6 * max(reach, 0) + 8)
    if not len(area.voxels):
        return
    distance = ellipsoidal_distance(area.position - centre, rng, 0.18)
    coarse, fine = area.noise(rng, max(5.0, 0.55 * radius)), area.noise(rng, 3.5)
    level = radius * (1 + config.raggedness * (0.75 * coarse + 0.3 * fine)) - distance

    parenchyma = scene.parenchyma[area.voxels]
    ventricle = area.region("ventricle")
    here = np.clip(1.4 * parenchyma - 0.1, 0, 1) * (1 - 0.9 * ventricle)
    other_side = np.sign(plan.mass_centre[0]) * area.template[:, 0] < -2.5
    lateral = abs(plan.mass_centre[0]) > 12

    tract = area.of("wm") + 0.45 * (area.of("deep") + area.of("iron")) + 0.12 * area.of("gm")
    oedema_level = level + reach * (1 + 0.35 * area.noise(rng, 9.0)) * np.clip(0.25 + 0.85 * tract, 0, 1)
    own_side = scene.compartment(plan.mass_centre)
    tentorium = np.abs(area.region("infratentorial") - own_side) > 0.5
    level = level - 5.0 * tentorium
    oedema_level = oedema_level - 4.0 * tentorium
    if lateral:
        oedema_level = oedema_level - 9.0 * other_side
        level = level - 6.0 * other_side
    core = ramp(level, config.core_softness_mm) * np.maximum(here, 0.75 * (level > 2) * (1 - ventricle))
    oedema = ramp(oedema_level, config.oedema_softness_mm) * here * np.clip(0.15 + tract, 0, 1) * (1 - core)
    area.replace(config.contrast * oedema * float(rng.uniform(0.75, 1.0)), "oedema")

    necrotic = rng.uniform() < config.necrosis
    thickness = float(rng.uniform(*config.rim_mm)) + config.rim_growth * radius
    rim = thickness * (1 + 0.5 * np.clip(area.noise(rng, 8.0), -1.6, 2.5))
    necrosis = core * ramp(level - rim, config.core_softness_mm) if necrotic else 0 * core
    degree = float(rng.uniform(*config.enhancement)) + config.patchiness * area.noise(rng, 6.0)
    degree = np.clip(degree, 0, 1)
    solid = core - necrosis
    area.replace(config.contrast * core, "tumour")
    area.replace(config.contrast * solid * degree, "enhancing")
    area.replace(necrosis * (0.55 + 0.4 * ramp(level - rim - 2, 6.0)), "necrosis")
    if rng.uniform() < config.cyst:
        area.replace(solid * (1 - degree) * ramp(4 * area.noise(rng, 0.5 * radius) - 5, 4.0), "necrosis")
    if rng.uniform() < config.haemorrhage:
        area.replace(0.7 * core * ramp(5 * area.noise(rng, 5.0) - 9, 5.0), "haemorrhage")

    area.label(oedema > 0.42, labels.oedema)
    area.label(core > 0.5, labels.core)
    area.label((solid > 0.5) & (degree > config.enhancing_from), labels.enhancing)


def midline(labels: Labels) -> Glioma:
    """Paediatric diffuse midline glioma."""
    return Glioma((("", DIFFUSE_MIDLINE),), labels=labels)


def high_grade(labels: Labels, **changes: object) -> Glioma:
    """Glioblastoma."""
    return Glioma((("", replace(HIGH_GRADE, **changes)),), labels=labels)  # type: ignore[arg-type]
