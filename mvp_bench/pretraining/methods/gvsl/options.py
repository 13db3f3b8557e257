"""GVSL's own fields."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mvp_bench.pretraining.parts.corruption import Probabilities
from mvp_bench.pretraining.sampling import Intensity


@dataclass(frozen=True)
class GvslOptions:
    """GVSL's own fields."""

    weight_similarity: float = 1.0
    """Factor of 1 - correlation between the registered pair."""
    weight_restoration: float = 1.0
    """Factor of the restoration's mean squared error."""
    weight_smoothness: float = 1.0
    """Factor of |grad flow|^2 / 3."""
    window: int = 9
    """Edge of the windows in which images are correlated, voxels (odd; smaller patches have smaller windows)."""
    width: int = 16
    """Channels of the shared decoder's output, which both the flow and the restoration are made from."""
    rotation: float = math.pi / 9
    """Largest angle, radians: of the random maps and of the affine head's outputs."""
    scale: float = 0.25
    """Largest deviation of a scale from 1, of both."""
    shear: float = math.pi / 18
    """Largest shear angle, radians, of both."""
    shift: float = 0.1
    """Largest random shift, half edges of the patch. The affine head's shift has no bound."""
    elastic: float = 2.0
    """Largest displacement of a control point in the random elastic maps, voxels; each map has a strength below."""
    elastic_spacing: float = 12.0
    """Distance of these control points, voxels."""
    shuffle: float = 0.8
    """Probability that voxels are shuffled inside small cells."""
    shuffle_edge: float = 0.05
    """Longest edge of such a cell as a part of the patch's; at least 2 voxels."""
    curve: float = 0.9
    """Probability of a random Bezier curve of intensities, decreasing in half of the cases."""
    boxes: int = 30
    """Most boxes of noise."""
    box_edges: tuple[float, float] = (0.1, 0.2)
    """Shortest and longest edge of these boxes as parts of the patch's."""
    again: float = 0.95
    """Probability of each further box."""
    slots: int = 0
    """Images read per case, among which a modality that both cases of a pair have is looked for; 0: as many as the
    best-equipped case has."""
    intensity: Intensity = "unit"
    """Intensities fed in: percentiles 5 to 95 of the brain mapped to 0 to 1."""

    @property
    def damage(self) -> Probabilities:
        """What is done to the image that is to be restored: boxes of noise always, nothing painted around."""
        return Probabilities(
            shuffle=self.shuffle,
            curve=self.curve,
            paint=1.0,
            outer=0.0,
            shuffle_edge=self.shuffle_edge,
            boxes=self.boxes,
            again=self.again,
            box_edges=self.box_edges,
        )
