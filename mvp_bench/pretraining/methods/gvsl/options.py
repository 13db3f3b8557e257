"""GVSL's own fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mvp_bench.config.ranges import Angle, Factor, Few, FewOrNone, Ge, Le, PartialShare, Positive, Share, Shares, Width
from mvp_bench.pretraining.parts.corruption import Probabilities
from mvp_bench.pretraining.sampling import Intensity


@dataclass(frozen=True)
class GvslOptions:
    """GVSL's own fields."""

    weight_similarity: Factor = 1.0
    """Factor of the similarity term. It is 1 - correlation between the registered pair."""
    weight_restoration: Factor = 1.0
    """Factor of the restoration's mean squared error."""
    weight_smoothness: Factor = 1.0
    """Factor of |grad flow|^2 / 3."""
    window: Annotated[int, Ge(3), Le(255)] = 9
    """Edge of the windows in which images are correlated, voxels (odd; smaller patches have smaller windows)."""
    width: Width = 16
    """Channels of the shared decoder's output, which both the flow and the restoration are made from."""
    rotation_degrees: Angle = 20.0
    """Largest random rotation, degrees. It bounds the affine head's outputs too."""
    scale: PartialShare = 0.25
    """Largest random deviation of a scale from 1. It bounds the affine head's outputs too."""
    shear_degrees: Angle = 10.0
    """Largest random shear angle, degrees. It bounds the affine head's outputs too."""
    shift: Factor = 0.1
    """Largest random shift, in half edges of the patch. The affine head's shift has no bound."""
    elastic: Factor = 2.0
    """Largest elastic displacement. Of a control point, voxels; each map has a strength below."""
    elastic_spacing: Positive = 12.0
    """Distance of the elastic map's control points. In voxels."""
    shuffle: Share = 0.8
    """Probability of shuffling voxels inside small cells."""
    shuffle_edge: Share = 0.05
    """Longest edge of a cell in which voxels are shuffled, as a share of the patch's (two voxels at least)."""
    curve: Share = 0.9
    """Probability of mapping intensities by a random Bezier curve. Half of the curves decrease."""
    most_boxes: Few = 30
    """Most boxes of noise."""
    box_edges: Shares = (0.1, 0.2)
    """Shortest and longest edge of a box as shares of the patch's."""
    again: Share = 0.95
    """Probability of each further box."""
    slots: FewOrNone = 0
    """Images read per case. 0: as many as the best-equipped case has. A modality that both cases of a pair have is
    looked for among them."""
    intensity: Intensity = "unit"
    """Intensities fed in. unit alone: percentiles 5 to 95 of the brain mapped to 0 to 1."""

    @property
    def damage(self) -> Probabilities:
        """What is done to the image that is to be restored: boxes of noise always, nothing painted around."""
        return Probabilities(
            shuffle=self.shuffle,
            curve=self.curve,
            paint=1.0,
            outer=0.0,
            shuffle_edge=self.shuffle_edge,
            boxes=self.most_boxes,
            again=self.again,
            box_edges=self.box_edges,
        )
