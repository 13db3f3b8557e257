"""PCRLv2's own fields, and the sizes of crops that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mvp_bench.config.ranges import Angle, Edge, Factor, Few, Gamma, PartialShare, Share, Shares, SomeShare
from mvp_bench.pretraining.sampling import Intensity
from mvp_bench.pretraining.source import Size

SLACK = 1e-9
"""So that what is whole in exact arithmetic is not rounded away from itself."""


@dataclass(frozen=True)
class Pcrlv2Options:
    """PCRLv2's own fields."""

    weight_reconstruction: Factor = 1.0
    """Factor of the reconstruction's error. The squared one at full resolution."""
    weight_middle: Factor = 1.0
    """Factor of the squared error at the middle scale, beside the one that falls from 1 to 0 during training."""
    weight_similarity: Factor = 1.0
    """Factor of the similarity term. It is 1 - the cosine between the global crops' features."""
    weight_local: Factor = 1.0
    """Factor of 1 - the cosine between the local and the global crops' features."""
    local_crops: Few = 6
    """Local crops per patch (beside two global ones)."""
    global_scale: Shares = (0.3, 1.0)
    """Least and largest share of the patch's volume that a global crop shows."""
    local_scale: Shares = (0.02, 0.1)
    """Least and largest share of the patch's volume that a local crop shows."""
    global_edge: SomeShare = 2 / 3
    """Edges that global crops are resized to as a share of the patch's, rounded up to multiples of the encoder's
    stride."""
    local_edge: SomeShare = 1 / 3
    """Edges that local crops are resized to as a share of the patch's, rounded down to multiples of the encoder's
    stride."""
    least_overlap: PartialShare = 0.3
    """Intersection over union above which the two global crops must lie."""
    attempts: Few = 16
    """Pairs of global crops drawn; if none overlaps enough, the first pair's first crop is taken twice."""
    rotation_degrees: Angle = 10.0
    """Largest random rotation, degrees. Of a crop."""
    scale: PartialShare = 0.1
    """Largest random deviation of a scale from 1. Of a crop."""
    change: Share = 0.5
    """Probability of each of blur, noise, gamma and swaps in an input."""
    blur: Factor = 1.5
    """Largest standard deviation of the blur, voxels."""
    noise: Factor = 0.1
    """Largest standard deviation of the noise. As a share of the crop's own."""
    gamma: Gamma = 1.5
    """Largest exponent of the change of contrast; the least is one over it."""
    swapped: Share = 0.2
    """Share of the blocks of a crop that change places in pairs."""
    swap_block: Edge = 8
    """Edge in voxels of a block that changes places; less where it does not divide the crops."""
    intensity: Intensity = "zscore"
    """Intensities fed in. zscore: z-scores as preprocessed; unit: percentiles 5 to 95 of the brain mapped to 0 to 1."""


def crop_sizes(patch: Size, stride: int, options: Pcrlv2Options) -> tuple[Size, Size]:
    """Voxels that global and local crops are resized to: their parts of the patch's edges, rounded to multiples of
    ``stride``, for global crops up and for local ones down, but to at least one."""
    whole = [math.ceil(options.global_edge * edge / stride - SLACK) for edge in patch]
    part = [max(1, math.floor(options.local_edge * edge / stride + SLACK)) for edge in patch]
    return _two_deepest(whole, patch, stride), _two_deepest(part, patch, stride)


def _two_deepest(blocks: list[int], patch: Size, stride: int) -> Size:
    """Edges of so many strides; if the deepest map had but one voxel, two strides along the patch's longest axis."""
    if math.prod(blocks) == 1:
        blocks[patch.index(max(patch))] = 2
    return blocks[0] * stride, blocks[1] * stride, blocks[2] * stride


def smallest_global(patch: Size, options: Pcrlv2Options) -> tuple[float, float, float]:
    """Edges of the smallest part of the patch that a global crop may show, in the patch's proportions, voxels."""
    part = options.global_scale[0] ** (1 / 3)
    return part * patch[0], part * patch[1], part * patch[2]


def middle_weight(fraction: float) -> float:
    """beta = (1 + cos(pi e / E)) / 2 from the part e / E of the training that is done: from 1 to 0."""
    return (1 + math.cos(math.pi * fraction)) / 2
