"""Group differences of shape: ventricles and medial temporal lobes (dementia), or many regions a little.

Each subject has independent standard-normal latents; the class shifts their means. If the latents could be read
without error, the best classifier would be right in Phi(D / 2) of the cases, D the Euclidean norm of the shifts (equal
classes): D = 2.07 gives 0.85, D = 3.8 gives 0.97. The effects are far larger than in patients: they are set so that a
small network, trained for half a minute on voxels of 5 mm, is right in 0.55 to 0.90 of the cases.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mvp_bench.datasets.phantom.deformation import Bump, HeadMap
from mvp_bench.datasets.phantom.pathology.common import Anomaly, Point
from mvp_bench.datasets.phantom.scene import Scene


@dataclass(frozen=True)
class MedialTemporalAtrophy:
    """Knobs of the dementia-like atrophy.

    Attributes:
        affected: the class that has it.
        shift: class difference of the latents ventricle, medial temporal lobe, sulci, in standard deviations.
        ventricle_mm: motion of the ventricles' walls: mean and standard deviation.
        shrinkage: linear shrinkage of the medial temporal lobe: mean and standard deviation.
        sulci: widening: mean and standard deviation.
        loss: part of the medial temporal grey matter that turns into fluid per unit of shrinkage.
    """

    affected: str = "MCI"
    shift: tuple[float, float, float] = (2.6, 2.2, 1.8)
    ventricle_mm: tuple[float, float] = (2.5, 2.2)
    shrinkage: tuple[float, float] = (0.08, 0.13)
    sulci: tuple[float, float] = (0.4, 0.3)
    loss: float = 1.5

    def plan(self, rng: np.random.Generator, class_name: str | None) -> AtrophyPlan:
        """Draw the latents."""
        latents = rng.standard_normal(3) + 0.5 * np.array(self.shift) * (1 if class_name == self.affected else -1)
        ventricle, temporal, sulci = (
            mean + sd * latent
            for (mean, sd), latent in zip((self.ventricle_mm, self.shrinkage, self.sulci), latents, strict=True)
        )
        bump = Bump(((26.0, -16.0, -18.0), (-26.0, -16.0, -18.0)), 11.0, -float(np.clip(temporal, -0.25, 0.4)))
        return AtrophyPlan(
            class_name=class_name,
            bumps=(bump,),
            ventricle_mm=float(ventricle),
            sulci=float(sulci),
            shrinkage=float(temporal),
            latents=tuple(float(v) for v in latents),
        )

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """Fluid takes the place of lost medial temporal grey matter."""
        assert isinstance(plan, AtrophyPlan)
        lost = np.clip(self.loss * plan.shrinkage * (1 + 0.5 * scene.noise(rng, 5.0)), 0, 0.6)
        scene.replace(lost * scene.regions["medial_temporal"] * scene.of("gm"), "csf")


@dataclass(frozen=True)
class AtrophyPlan(Anomaly):
    """Shrinkage and the three latents."""

    shrinkage: float = 0.0
    latents: tuple[float, ...] = ()


@dataclass(frozen=True)
class Region:
    """A pair (or a single one) of regions that grow and shrink together."""

    name: str
    centres: tuple[Point, ...]
    reach: float
    shift: float
    """Class difference in standard deviations."""


def _pair(name: str, centre: Point, reach: float, shift: float) -> Region:
    x, y, z = centre
    return Region(name, (centre, (-x, y, z)), reach, shift)


ATTENTION_REGIONS = (
    _pair("caudate", (13, 10, 10), 10.0, -0.6),
    _pair("putamen", (26, 2, 0), 11.0, -0.5),
    _pair("amygdala and hippocampus", (25, -12, -18), 11.0, -0.4),
    _pair("prefrontal", (22, 44, 18), 17.0, -0.4),
    _pair("cerebellar hemisphere", (26, -64, -36), 17.0, -0.5),
    Region("vermis", ((0.0, -62.0, -22.0),), 12.0, -0.4),
    _pair("lateral temporal", (52, -20, -8), 14.0, 0.0),
    _pair("occipital", (18, -86, 4), 14.0, 0.0),
)
"""After the mega-analyses of ENIGMA-ADHD (Hoogman et al., Lancet Psychiatry 4 (2017) 310): smaller striatum, amygdala,
hippocampus; frontal cortex and cerebellum from the wider literature. Shifts are larger than the real 0.1-0.2."""
AUTISM_REGIONS = (
    _pair("prefrontal", (22, 44, 18), 17.0, 0.6),
    _pair("lateral temporal", (52, -20, -8), 14.0, 0.5),
    _pair("amygdala and hippocampus", (25, -12, -18), 11.0, 0.5),
    _pair("putamen", (26, 2, 0), 11.0, -0.5),
    _pair("cerebellar hemisphere", (26, -64, -36), 17.0, 0.4),
    Region("corpus callosum", ((0.0, -6.0, 26.0),), 13.0, -0.6),
    _pair("caudate", (13, 10, 10), 10.0, 0.0),
    _pair("parietal", (38, -50, 46), 16.0, 0.0),
)
"""After ENIGMA-ASD (van Rooij et al., Am J Psychiatry 175 (2018) 359) and reviews of callosal growth."""


@dataclass(frozen=True)
class RegionalDifference:
    """Many small volume differences.

    Attributes:
        affected: the class whose means are shifted.
        regions: where, and by how much.
        growth_sd: linear growth of a region per standard deviation.
        ventricle_mm: standard deviation of the ventricles' wall motion.
        ventricle_shift: class difference of it, in standard deviations.
        sulci: standard deviation of the sulcal widening, that is, of the cortex' thickness.
        sulci_shift: class difference of it, in standard deviations.
    """

    affected: str
    regions: tuple[Region, ...]
    growth_sd: float = 0.16
    ventricle_mm: float = 2.2
    ventricle_shift: float = 2.6
    sulci: float = 0.4
    sulci_shift: float = 2.4

    @property
    def separation(self) -> float:
        """D of the module's text."""
        shifts = [region.shift for region in self.regions]
        return float(np.linalg.norm([*shifts, self.ventricle_shift, self.sulci_shift]))

    def plan(self, rng: np.random.Generator, class_name: str | None) -> RegionalPlan:
        """Draw one latent per region, one for the ventricles and one for the sulci."""
        sign = 0.5 if class_name == self.affected else -0.5
        shifts = [*(region.shift for region in self.regions), self.ventricle_shift, self.sulci_shift]
        latents = rng.standard_normal(len(shifts)).clip(-2.5, 2.5) + sign * np.array(shifts)
        bumps = tuple(
            Bump(region.centres, region.reach, float(np.clip(self.growth_sd * latent, -0.3, 0.3)))
            for region, latent in zip(self.regions, latents[:-2], strict=True)
        )
        return RegionalPlan(
            class_name=class_name,
            bumps=bumps,
            ventricle_mm=float(self.ventricle_mm * latents[-2]),
            sulci=float(self.sulci * latents[-1]),
            latents=tuple(float(v) for v in latents),
        )

    def paint(self, scene: Scene, head: HeadMap, plan: Anomaly, rng: np.random.Generator) -> None:
        """Nothing beyond the shape."""


@dataclass(frozen=True)
class RegionalPlan(Anomaly):
    """The latents."""

    latents: tuple[float, ...] = ()
