"""Rigid registration within one person: mutual information, seeded, and checked whether it helped.

Needed where a release's images were taken one after the other and the headers say only where the scanner's table stood.
The measure is Mattes' mutual information (IEEE Trans. Med. Imaging 22:120, 2003), as SimpleITK has it. Everything runs
in one thread, so that the result does not depend on how many images are registered at a time.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.metrics import mutual_info_score

from mvp_bench.config.groups import RegistrationConfig
from mvp_bench.datasets.geometry.resampling import from_itk, resample, to_itk
from mvp_bench.datasets.geometry.volumes import Volume
from mvp_bench.errors import InputError

CLIP_LEVEL = 0.4
"""Foreground is what exceeds this part of the median of all that exceeds it (AFNI's 3dClipLevel)."""
CLIPPED = (1.0, 99.0)
"""Percentiles of the foreground to which intensities are clipped: vessels and fat would take most histogram bins."""
NEAR = 0.01
"""Smoothed foreground up to which shading is known."""
GRADIENT = 1e-8
"""Length of the gradient at which the optimiser stops: in effect never, the steps decide."""
CUT = 0.2
"""A foreground that ends with a plane of at least this part of its largest one was cut there: a slab padded with 0."""


@dataclass(frozen=True)
class Registration:
    """What came of a registration, measured at the header position (before) and at the transform (after).

    Attributes:
        transform: from points of the fixed image to points of the moving one, LPS mm, as ITK resamples.
        overlap_before, overlap_after: Dice of the two foregrounds inside the common field of view (0 to 1).
        information_before, information_after: mutual information there, in nats.
        moved_mm: mean distance by which the transform moves the fixed foreground's voxels.
        turned_degrees: its rotation angle.
        failed: why no transform was found; empty if one was.
    """

    transform: sitk.Transform
    overlap_before: float
    overlap_after: float
    information_before: float
    information_after: float
    moved_mm: float
    turned_degrees: float
    failed: str = ""

    def worse(self, config: RegistrationConfig) -> str:
        """That the overlap is worse than by the headers, with numbers; empty if it is not."""
        if self.overlap_after >= (1 - config.slack) * self.overlap_before:
            return ""
        return f"registration refused: overlap {self.overlap_after:.2f} after, {self.overlap_before:.2f} by the headers"

    def refused(self, config: RegistrationConfig) -> str:
        """Why a transform that was searched for must not be used; empty if it may."""
        reason = self.failed
        if not reason and self.overlap_after < config.min_overlap:
            reason = f"an overlap of {self.overlap_after:.2f} only"
        if not reason and self.information_after < config.min_information:
            reason = f"nothing in common (mutual information {self.information_after:.3f})"
        least = (1 - config.slack) * self.information_before if self.headers_fit(config) else 0.0
        if not reason and self.information_after < least:
            reason = (
                f"mutual information {self.information_after:.3f} after, {self.information_before:.3f} by the headers"
            )
        return f"registration refused: {reason}" if reason else self.worse(config)

    def headers_fit(self, config: RegistrationConfig) -> bool:
        """Whether the image may be placed by the headers alone."""
        return self.overlap_before >= config.min_overlap

    def in_words(self) -> str:
        """The outcome with its numbers, for the list of repairs."""
        return (
            f"moved {self.moved_mm:.1f} mm, turned {self.turned_degrees:.1f} degrees, "
            f"overlap {self.overlap_before:.2f} to {self.overlap_after:.2f}"
        )


def register(moving: Volume, fixed: Volume, config: RegistrationConfig) -> Registration:
    """Find the rigid transform that brings ``moving`` onto ``fixed``.

    Returns:
        The transform with what it is worth; whether to use it: :meth:`Registration.refused`.
    """
    with _one_thread():
        still, other = _View.of(fixed, config), _View.of(moving, config)
        failed = ""
        transform = _searched(still.shrunk(config.search_mm), other.shrunk(config.search_mm), config)
        if transform is None:
            transform, failed = sitk.Euler3DTransform(), "nothing in the two images can be compared"
        elif _optimised(_refinement(still, other, config), transform, still, other) is None:
            failed = "the optimisation left the common field of view"
        return _assess(transform, still, other, config, failed)


def assess(moving: Volume, fixed: Volume, transform: sitk.Transform, config: RegistrationConfig) -> Registration:
    """What a known transform is worth."""
    return _assess(transform, _View.of(fixed, config), _View.of(moving, config), config)


def read_transform(path: Path) -> sitk.Transform:
    """A transform file of ITK (.tfm, .txt, .h5).

    Raises:
        InputError: if it cannot be read as one.
    """
    try:
        return sitk.ReadTransform(str(path))
    except RuntimeError as error:
        raise InputError(path, found="a file that ITK cannot read", expected="an ITK transform (.tfm)") from error


@dataclass(frozen=True)
class _View:
    """An image as it is registered.

    Attributes:
        image: intensities of the foreground as 0 to 1, clipped.
        foreground: 1 in the head (or the brain, where it was stripped).
        field: 1 in the field of view.
    """

    image: sitk.Image
    foreground: sitk.Image
    field: sitk.Image

    @classmethod
    def of(cls, volume: Volume, config: RegistrationConfig) -> _View:
        """A volume, averaged to voxels of the working size, without shading."""
        whole = to_itk(np.nan_to_num(volume.data.astype(np.float32), posinf=0, neginf=0), volume.grid)
        image = _averaged(whole, config.working_mm)
        data = from_itk(image)
        foreground = _foreground(data)
        field = _field(data, foreground)
        data = _unshaded(image, data, foreground, config.shading_mm)
        low, high = np.percentile(data[foreground], CLIPPED) if foreground.any() else (0.0, 1.0)
        low = min(low, 0.0)  # the background stays apart from the darkest tissue
        scaled = np.clip((data - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1)
        images = [_like(image, array) for array in (scaled.astype(np.float32), foreground, field)]
        return cls(*images)

    def shrunk(self, edge_mm: float) -> _View:
        """The same in larger voxels."""
        masks = [_averaged(sitk.Cast(mask, sitk.sitkFloat32), edge_mm) >= 0.5 for mask in (self.foreground, self.field)]
        return _View(_averaged(self.image, edge_mm), *masks)

    def rim(self, margin_mm: float) -> sitk.Image:
        """The foreground and what lies around it, in the field of view."""
        radius = [max(1, round(margin_mm / edge)) for edge in self.image.GetSpacing()]
        return sitk.And(sitk.BinaryDilate(self.foreground, radius), self.field)

    @cached_property
    def points(self) -> NDArray[np.float64]:
        """Places of the foreground's voxels, LPS mm, shape (n, 3)."""
        index = np.argwhere(from_itk(self.foreground))
        direction = np.array(self.image.GetDirection()).reshape(3, 3) * self.image.GetSpacing()
        return index @ direction.T + self.image.GetOrigin()


def _averaged(image: sitk.Image, edge_mm: float) -> sitk.Image:
    factors = [max(1, round(edge_mm / edge)) for edge in image.GetSpacing()]
    factors = [min(factor, size) for factor, size in zip(factors, image.GetSize(), strict=True)]
    shrink = sitk.BinShrinkImageFilter()
    shrink.SetNumberOfThreads(1)
    shrink.SetShrinkFactors(factors)
    return shrink.Execute(image)


def _like(image: sitk.Image, data: NDArray) -> sitk.Image:
    made = sitk.GetImageFromArray(np.ascontiguousarray(data.T.astype(np.uint8 if data.dtype == bool else data.dtype)))
    made.CopyInformation(image)
    return made


def _foreground(data: NDArray) -> NDArray[np.bool_]:
    """The largest connected part above AFNI's clip level, without holes."""
    positive = data[data > 0]
    if not positive.size:
        return np.zeros(data.shape, bool)
    level = CLIP_LEVEL * float(positive.mean())
    for _ in range(20):
        last, level = level, CLIP_LEVEL * float(np.median(positive[positive > level]))
        if np.isclose(last, level, rtol=1e-3):
            break
    parts, count = ndimage.label(ndimage.binary_opening(data > level))
    if not count:
        return data > level
    largest = 1 + int(np.argmax(np.bincount(parts.ravel())[1:]))
    return ndimage.binary_fill_holes(parts == largest)


def _unshaded(
    image: sitk.Image, data: NDArray, foreground: NDArray[np.bool_], shading_mm: float
) -> NDArray[np.float32]:
    """Intensities divided by their mean around each voxel: coils make slow gradients that have nothing in common."""
    sigma = [shading_mm / edge for edge in image.GetSpacing()]
    weight, level = (
        ndimage.gaussian_filter(values.astype(np.float32), sigma, mode="constant", truncate=2)
        for values in (foreground, data * foreground)
    )
    level = level / np.maximum(weight, NEAR)
    return np.divide(data, level, out=np.zeros_like(data), where=(weight > NEAR) & (level > 0))


def _field(data: NDArray, foreground: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The field of view: everything, but for planes of 0 beyond a plane where the foreground was cut."""
    field = np.ones(data.shape, bool)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero((data != 0).any(axis=others))
        areas = np.count_nonzero(foreground, axis=others)
        if not filled.size:
            continue
        planes = np.moveaxis(field, axis, 0)
        if areas[filled[0] : filled[0] + 2].max() >= CUT * areas.max():
            planes[: filled[0]] = False
        if areas[max(0, filled[-1] - 1) : filled[-1] + 1].max() >= CUT * areas.max():
            planes[filled[-1] + 1 :] = False
    return field


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """ITK in one thread: sums over several depend on who comes first (setting a filter's own number is not enough)."""
    before = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(before)


def _method(rim: sitk.Image, other: _View, config: RegistrationConfig, steps: int) -> sitk.ImageRegistrationMethod:
    """Mutual information over the points of ``rim``, and the optimiser."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(config.bins)
    method.SetMetricFixedMask(rim)
    method.SetMetricMovingMask(other.field)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        config.step_mm, config.min_step_mm, steps, gradientMagnitudeTolerance=GRADIENT
    )
    method.SetOptimizerScalesFromPhysicalShift()
    return method


def _refinement(still: _View, other: _View, config: RegistrationConfig) -> sitk.ImageRegistrationMethod:
    """The last stage: from coarse to fine, on a share of the voxels."""
    method = _method(still.rim(config.margin_mm), other, config, config.iterations)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentagePerLevel(config.sampling, config.sampling_seed + 1)  # 0 would be the clock
    method.SetShrinkFactorsPerLevel(config.shrink_factors)
    method.SetSmoothingSigmasPerLevel(config.smoothing_mm)
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    return method


def _searched(still: _View, other: _View, config: RegistrationConfig) -> sitk.Euler3DTransform | None:
    """The best of the starting positions, each optimised at low resolution; None if the images have nothing to show."""
    if not (len(still.points) and len(other.points)):
        return None
    centre, rim = still.points.mean(axis=0), still.rim(config.margin_mm)
    shifts = [np.zeros(3), other.points.mean(axis=0) - centre]
    rotations = list(itertools.product(np.radians(config.search_degrees), repeat=3))
    starts = [sitk.Euler3DTransform(centre, *angles, shift) for shift in shifts for angles in rotations]

    def method() -> sitk.ImageRegistrationMethod:
        return _method(rim, other, config, config.search_iterations)

    rated = [(_rated(method(), start, still, other), start) for start in starts]
    best = sorted((pair for pair in rated if pair[0] is not None), key=_first)[: config.starts]
    ends = [(_optimised(method(), start, still, other), start) for _, start in best]
    return min((pair for pair in ends if pair[0] is not None), key=_first, default=(None, None))[1]


def _first(pair: tuple[Any, sitk.Transform]) -> float:
    return pair[0]


def _rated(method: sitk.ImageRegistrationMethod, transform: sitk.Transform, still: _View, other: _View) -> float | None:
    """The metric (lower is better); None where too little of the images coincides."""
    method.SetInitialTransform(transform)
    try:
        return method.MetricEvaluate(still.image, other.image)
    except RuntimeError:  # what ITK says of no common points
        return None


def _optimised(
    method: sitk.ImageRegistrationMethod, transform: sitk.Transform, still: _View, other: _View
) -> float | None:
    """Optimise ``transform`` in place; returns as :func:`_rated`."""
    method.SetInitialTransform(transform, inPlace=True)
    try:
        method.Execute(still.image, other.image)
    except RuntimeError:
        return None
    return method.GetMetricValue()


def _assess(
    transform: sitk.Transform, still: _View, other: _View, config: RegistrationConfig, failed: str = ""
) -> Registration:
    (overlap_before, information_before), (overlap_after, information_after) = (
        _agreement(still, other, how, config) for how in (sitk.Transform(3, sitk.sitkIdentity), transform)
    )
    matrix, shift = _as_matrix(transform)
    moved = np.linalg.norm(still.points @ matrix.T + shift - still.points, axis=1)
    angle = np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))
    return Registration(
        transform,
        overlap_before,
        overlap_after,
        information_before,
        information_after,
        moved_mm=float(moved.mean()) if moved.size else 0.0,
        turned_degrees=float(angle),
        failed=failed,
    )


def _agreement(
    still: _View, other: _View, transform: sitk.Transform, config: RegistrationConfig
) -> tuple[float, float]:
    """Dice of the foregrounds inside the common field of view, and mutual information where both are.

    0 and 0 where too little of them lies in it to be compared.
    """
    common = from_itk(still.field) & from_itk(resample(other.field, still.image, transform, nearest=True)) != 0
    one = from_itk(still.foreground).astype(bool) & common
    two = from_itk(resample(other.foreground, still.image, transform, nearest=True)).astype(bool) & common
    in_one, in_two, in_both = (float(np.count_nonzero(mask)) for mask in (one, two, one & two))
    voxel_mm3, other_mm3 = (float(np.prod(view.image.GetSpacing())) for view in (still, other))
    sizes = len(still.points), len(other.points) * other_mm3 / voxel_mm3
    if not in_both or max(in_one / sizes[0], in_two / sizes[1]) < config.min_common:
        return 0.0, 0.0
    moved = from_itk(resample(other.image, still.image, transform))
    counts, _, _ = np.histogram2d(from_itk(still.image)[one & two], moved[one & two], bins=config.bins)
    return 2 * in_both / (in_one + in_two), float(mutual_info_score(None, None, contingency=counts))


def _as_matrix(transform: sitk.Transform) -> tuple[NDArray, NDArray]:
    """A rigid or affine transform as matrix and shift."""
    shift = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    columns = [np.array(transform.TransformPoint(tuple(unit))) - shift for unit in np.eye(3)]
    return np.column_stack(columns), shift
