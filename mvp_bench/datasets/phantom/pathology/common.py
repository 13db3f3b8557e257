"""What the pathologies share: where lesions may lie, and soft borders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from mvp_bench.datasets.phantom.anatomy import load_atlas
from mvp_bench.datasets.phantom.deformation import Bump, HeadMap, MassEffect
from mvp_bench.datasets.phantom.scene import Scene
from mvp_bench.datasets.phantom.spline import Array

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Labels:
    """Mask values of a release's convention; a component without a value is not in the mask."""

    core: int = 1
    oedema: int = 2
    enhancing: int = 3


BRATS_2021 = Labels(core=1, oedema=2, enhancing=4)
BRATS_2023 = Labels(core=1, oedema=2, enhancing=3)


@dataclass(frozen=True)
class Anomaly:
    """What a pathology does to a subject before its image exists.

    Attributes:
        class_name: the subject's class, if the dataset is a classification task.
        bumps: regional growth or shrinkage.
        ventricle_mm: added to the ventricles' widening.
        sulci: added to the sulcal widening.
        mass_centre: template point from which tissue is pushed away.
        mass_reach, mass_strength: see deformation.MassEffect.
    """

    class_name: str | None = None
    bumps: tuple[Bump, ...] = ()
    ventricle_mm: float = 0.0
    sulci: float = 0.0
    mass_centre: Point | None = None
    mass_reach: float = 1.0
    mass_strength: float = 0.0

    def mass_effect(self, head: HeadMap) -> MassEffect | None:
        """The mass effect in image coordinates of this head."""
        if self.mass_centre is None or self.mass_strength == 0:
            return None
        x, y, z = (float(v) for v in head.image_position(self.mass_centre))
        return MassEffect((x, y, z), self.mass_reach, self.mass_strength)


class Pathology(Protocol):
    """A kind of disease, or of group difference."""

    def plan(self, rng: np.random.Generator, class_name: str | None) -> Anomaly:
        """Draw what there is to be, before the head is shaped."""

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """Put it into the scene: tissue fractions and labels."""


@dataclass(frozen=True)
class Healthy:
    """Nothing wrong."""

    def plan(self, rng: np.random.Generator, class_name: str | None) -> Anomaly:
        """No anomaly."""
        return Anomaly(class_name)

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """Nothing to paint."""


def ramp(level_mm: Array, width_mm: float) -> Array:
    """Partial volume of a border: 0 outside, 1 inside, linear over ``width_mm`` around level 0."""
    return np.clip(0.5 + level_mm / np.float32(width_mm), 0, 1)


def ellipsoidal_distance(offset: Array, rng: np.random.Generator, elongation: float) -> Array:
    """Distance in mm in a randomly turned frame whose axes are stretched by exp(+-elongation), volume kept.

    Args:
        offset: (n, 3) mm from the centre.
        rng: draws orientation and stretch.
        elongation: standard deviation of the log stretch of each axis.
    """
    stretch = rng.normal(0, elongation, 3)
    turn = Rotation.random(rng=rng).as_matrix()
    frame = (turn / np.exp(stretch - stretch.mean())).astype(np.float32)
    return np.linalg.norm(offset @ frame, axis=1)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """Number between the two, its logarithm uniform."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


@lru_cache(maxsize=8)
def _places(kind: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float64]]:
    """Template points (n, 3) and cumulative weights of a kind of place."""
    atlas = load_atlas(2.0)
    x, y, z = np.meshgrid(*atlas.axes(), indexing="ij")
    wm, gm, deep = atlas.channel("wm"), atlas.channel("gm"), atlas.channel("deep")
    infra, ventricle = atlas.channel("infratentorial"), atlas.channel("periventricular")
    brain = (atlas.channel("strip") > 0.9) & (z < 75)
    if kind == "hemisphere":
        weight = wm * (infra < 0.05) * (np.abs(x) > 14) * (ventricle < 0.6) * (z > -32)
    elif kind == "midline":
        pons = infra * wm * (np.abs(x) < 11) * (y > -36) * (z > -48) * 3.0
        thalamus = deep * (np.abs(x) < 18) * (y < -8) * (y > -32)
        weight = pons + thalamus + 0.15 * wm * (infra > 0.9) * (z < -20) * (np.abs(x) < 25)
    elif kind == "grey_white":
        brainstem = (infra > 0.5) & (np.abs(x) < 13) & (y > -50)
        weight = np.clip(4 * gm * wm, 0, 1) * (1 + 0.5 * (infra > 0.5)) * (deep < 0.2) * ~brainstem
    elif kind == "deep":
        weight = (deep + 0.35 * wm * (np.hypot(x, 0.6 * y) < 32) + infra * wm * (np.abs(x) < 12) * (y > -38)) * (
            z > -48
        )
    elif kind == "cortex":
        weight = gm * (deep < 0.1) * (atlas.channel("medial_temporal") < 0.2)
    else:
        raise ValueError(f"unknown kind of place {kind!r}")
    weight = weight * brain
    chosen = weight > 0.3
    points = np.stack([x[chosen], y[chosen], z[chosen]], axis=1).astype(np.float32)
    return points, np.cumsum(weight[chosen], dtype=np.float64)


def random_place(rng: np.random.Generator, kind: str) -> Point:
    """A template point (MNI mm) where a lesion of that kind may begin.

    Kinds: "hemisphere" (lobar white matter), "midline" (pons, thalamus), "grey_white" (the junction, where emboli and
    metastases lodge), "deep" (perforator territory), "cortex".
    """
    points, cumulative = _places(kind)
    index = int(np.searchsorted(cumulative, rng.uniform(0, cumulative[-1])))
    x, y, z = (float(v) for v in points[min(index, len(points) - 1)] + rng.uniform(-1, 1, 3))
    return x, y, z
