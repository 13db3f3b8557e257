"""Grey values: whether an image can be normalised, what is done where a few values or the scale forbid it, and whether
a normalised image is one.

nnU-Net subtracts the mean of the voxels that are not 0 and divides by their standard deviation, in single precision and
never by less than 1e-8. One value of 3e9 among thousands, or values of order 1e-10, and the brain is flat afterwards;
squares beyond 3e38, and it is 0 everywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mvp_bench.config.groups import CheckConfig

_SMALLEST = 1e-8
"""What nnU-Net's normalisation divides by at least."""
_QUANTILES = (0.005, 0.995)
"""Between these lie the values from which the spread is taken: a few odd ones do not matter."""
_SAMPLED = 1_000_000
"""Voxels from which quantiles are taken."""
_STEP = 3
"""Scales are changed by powers of ten that are multiples of this, so that images of one kind are changed alike."""


@dataclass(frozen=True)
class Mend:
    """What is changed in the values of an image.

    Attributes:
        low: smaller values become this one; None: none.
        high: larger values become this one; None: none.
        factor: all are multiplied by it, afterwards.
        done: this in words; empty if nothing is.
    """

    low: float | None = None
    high: float | None = None
    factor: float = 1.0
    done: str = ""

    def applied(self, data: NDArray) -> NDArray:
        """The changed values; those given where nothing is to be done."""
        if not self.done:
            return data
        return np.clip(data.astype(np.float64), self.low, self.high) * self.factor


def measure_normalised(image: NDArray, config: CheckConfig | None = None) -> list[str]:
    """What is wrong with an image after nnU-Net's normalisation, in words; nothing if all is well.

    Args:
        image: any shape; 0 outside the brain.
        config: ``min_spread``, ``max_spread``, ``outlier_spreads``, ``max_outliers``; default: as by default.
    """
    config = config or CheckConfig()
    bad = image.size - int(np.count_nonzero(np.isfinite(image)))
    if bad:
        return [f"NaN or infinity in {_voxels(bad)} after normalisation"]
    brain = image[image != 0]
    if not brain.size:
        return ["no brain after normalisation: 0 in every voxel"]
    middle, spread = _middle_and_spread(brain)
    if not config.min_spread <= spread <= config.max_spread:
        return [f"a brain with a standard deviation of {spread:.3g} after normalisation"]
    share = float(np.mean(np.abs(brain - middle) > config.outlier_spreads * spread))
    if share > config.max_outliers:
        far = f"more than {config.outlier_spreads:g} standard deviations off"
        return [f"{share:.2%} of the brain's voxels {far} after normalisation"]
    return []


def normalised_brain(data: NDArray) -> NDArray[np.float32]:
    """The voxels that are not 0, as nnU-Net's normalisation leaves them.

    Args:
        data: finite values.
    """
    with np.errstate(all="ignore"):  # what overflows is found by measuring the outcome
        brain = data[data != 0].astype(np.float32)
        if not brain.size:
            return brain
        return (brain - brain.mean()) / max(brain.std(), np.float32(_SMALLEST))


def judge(data: NDArray, config: CheckConfig) -> tuple[list[str], Mend]:
    """Whether an image can be normalised, and by which change of its values if not as it is.

    Args:
        data: finite values.
        config: see :func:`measure_normalised`; ``max_value``, ``least_contrast``.

    Returns:
        What is wrong, in words, and cannot be mended; and the change, if one helps.
    """
    largest = max(abs(float(data.min())), abs(float(data.max())))
    if largest > config.max_value:
        count = int(np.count_nonzero(np.abs(data) > config.max_value))
        return [f"values beyond {config.max_value:g} in {_voxels(count)}, up to {largest:.3g}"], Mend()
    problems = measure_normalised(normalised_brain(data), config)
    if not problems:
        return [], Mend()
    mend = _mend(data, config)
    if mend.done and not measure_normalised(normalised_brain(mend.applied(data)), config):
        return [], mend
    return problems, Mend()


def _mend(data: NDArray, config: CheckConfig) -> Mend:
    """The change that may help: far values brought nearer, a tiny scale enlarged."""
    brain = data[data != 0].astype(np.float64)
    middle, spread = _middle_and_spread(brain)
    if spread == 0:
        return Mend()
    low, high = middle - config.outlier_spreads * spread, middle + config.outlier_spreads * spread
    count = int(np.count_nonzero((brain < low) | (brain > high)))
    if count > config.max_outliers * brain.size:
        return Mend()
    done: list[str] = []
    if count:
        worst = float(brain[np.argmax(np.abs(brain - middle))])
        done.append(f"odd values in {_voxels(count)}, up to {worst:.3g}, brought to {low:.3g} to {high:.3g}")
    factor = 1.0
    if spread < config.least_contrast:
        factor = 10.0 ** (_STEP * math.ceil(math.log10(1 / spread) / _STEP))
        done.append(f"values multiplied by {factor:g}, as their standard deviation of {spread:.3g} is too small")
    return Mend(low if count else None, high if count else None, factor, "; ".join(done))


def _middle_and_spread(brain: NDArray) -> tuple[float, float]:
    """Median, and standard deviation of the values between the outer quantiles."""
    sample = brain[:: max(1, brain.size // _SAMPLED)].astype(np.float64)
    low, middle, high = np.quantile(sample, (_QUANTILES[0], 0.5, _QUANTILES[1]))
    inner = sample[(sample >= low) & (sample <= high)]
    return float(middle), float(inner.std())


def _voxels(count: int) -> str:
    return f"{count} voxel{'s' if count != 1 else ''}"
