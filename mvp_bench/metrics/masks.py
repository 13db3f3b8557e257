"""Reference and prediction of one case, counted in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

LARGEST_LABEL_SPAN = 1024
"""The joint histogram has span^2 bins; real label maps span a handful."""


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class LabelPair:
    """Two label volumes of one case on one grid.

    Args:
        reference: integers, any shape.
        predicted: integers, the same shape.
        spacing: voxel edges in mm in the order of the axes, where known.
    """

    reference: npt.NDArray[np.integer]
    predicted: npt.NDArray[np.integer]
    spacing: tuple[float, ...] | None = None

    @cached_property
    def joint(self) -> tuple[np.ndarray, int]:
        """See :func:`joint_histogram`."""
        return joint_histogram(self.reference, self.predicted)

    def voxels(self, values: Sequence[int]) -> tuple[int, int, int]:
        """Voxels of the region formed by some label values: in both volumes, in the reference, in the prediction."""
        counts, lowest = self.joint
        inside = [value - lowest for value in set(values) if 0 <= value - lowest < len(counts)]
        both = int(counts[np.ix_(inside, inside)].sum())
        return both, int(counts[inside, :].sum()), int(counts[:, inside].sum())


def joint_histogram(reference: npt.NDArray[np.integer], predicted: npt.NDArray[np.integer]) -> tuple[np.ndarray, int]:
    """Count every pair of label values in one pass.

    Args:
        reference: label volume of any shape.
        predicted: label volume of the same shape.

    Returns:
        counts (span, span): ``counts[a - lowest, b - lowest]`` voxels are ``a`` in the reference and ``b`` in the
        prediction; and ``lowest``, the smallest label value in either.

    Raises:
        ValueError: if shapes differ, a volume is empty or holds no integers, or label values are absurdly far apart.
    """
    if reference.shape != predicted.shape:
        raise ValueError(f"reference {reference.shape} and prediction {predicted.shape} are on different grids")
    if reference.size == 0:
        raise ValueError("volumes without voxels")
    for volume in (reference, predicted):
        if not np.issubdtype(volume.dtype, np.integer):
            raise ValueError(f"label volumes hold integers, not {volume.dtype}")
    lowest = int(min(reference.min(), predicted.min()))
    span = int(max(reference.max(), predicted.max())) - lowest + 1
    if span > LARGEST_LABEL_SPAN:
        raise ValueError(f"label values span {span} integers; is this a label volume?")
    joint = reference.ravel().astype(np.int32)
    joint -= lowest
    joint *= span
    # Of any integer type; the sum fits by the check above.
    np.add(joint, predicted.ravel(), out=joint, casting="unsafe")
    joint -= lowest
    return np.bincount(joint, minlength=span * span).reshape(span, span), lowest
