"""Normal variants that mimic disease: widened sulci, white-matter hyperintensities, cortical veins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_bench.datasets.phantom.pathology.common import ramp
from mvp_bench.datasets.phantom.scene import Scene


@dataclass(frozen=True)
class VariantConfig:
    """How strong they are.

    Attributes:
        lesions_from_age: age in years at which white-matter hyperintensities begin.
        lesions_per_decade: growth of their load.
        caps: brightness of the periventricular caps and rim at any age, 0 to 1.
        cortical_veins: part of sulcal fluid that veins replace where they run.
    """

    lesions_from_age: float = 40.0
    lesions_per_decade: float = 0.16
    caps: float = 0.45
    cortical_veins: float = 0.6


def widen_sulci(scene: Scene, amount: float) -> None:
    """Turn partial-volume cortex into fluid (or back, if negative): ``amount`` 0 keeps the template's sulci."""
    gm, csf = scene.of("gm"), scene.of("csf")
    if amount >= 0:
        scene.replace(np.clip(3.0 * amount * csf * gm * (1 + gm), 0, 0.7), "csf")
    else:
        scene.replace(np.clip(-2.0 * amount * csf * gm, 0, 0.7) * (scene.regions["ventricle"] < 0.1), "gm")


def add_variants(scene: Scene, config: VariantConfig, sulci: float, rng: np.random.Generator) -> None:
    """Sulci, veins in them, periventricular caps and white-matter hyperintensities of this age."""
    widen_sulci(scene, sulci)
    outer = np.clip(1 - 3 * scene.regions["periventricular"], 0, 1) * scene.regions["strip"]
    veins = ramp(scene.noise(rng, 4.0) - 1.35, 0.3) * scene.of("csf") * outer
    scene.replace(config.cortical_veins * veins, "vein")
    white = scene.of("wm") * (1 - scene.regions["infratentorial"])
    near = scene.regions["periventricular"]
    load = max(0.0, scene.age - config.lesions_from_age) / 10 * config.lesions_per_decade
    load *= float(np.exp(rng.normal(0, 0.5)))
    patches = scene.noise(rng, 6.0)
    caps = config.caps * np.clip(1.8 * near - 0.75 + 0.15 * patches, 0, 1)
    confluent = ramp(1.5 * near - 1.25 + 0.55 * load + 0.22 * patches, 0.35) * min(1.0, 2.5 * load)
    punctate = ramp(scene.noise(rng, 3.2) - (3.2 - 0.7 * load), 0.5) * min(1.0, 3 * load)
    scene.replace(np.maximum(np.maximum(caps, confluent), punctate) * white, "wmh")
