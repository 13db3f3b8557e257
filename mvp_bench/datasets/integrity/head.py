"""What can be said of a head without a template: whether the skull is there, and whether two images are mirrored.

Both work on voxels averaged to about 4 mm. A skull is a dark layer between scalp and brain: mean intensity is followed
inwards from the surface of the foreground. Left and right of *one* image cannot be told apart by comparison with the
common templates, which are symmetric; but within a case an image or a mask that was mirrored fits the others better
when it is mirrored back (mutual information, as in Wells et al., Med Image Anal 1 (1996) 35).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.filters import threshold_otsu

from mvp_bench.datasets.integrity.report import Skull

Array = NDArray[np.float32]


@dataclass(frozen=True)
class HeadRules:
    """Numbers behind the two tests, all far from both sides on phantom releases and real scans (see the tests).

    Attributes:
        edge_mm: voxel edge of the averaged images.
        shells_mm: borders of the layers below the surface of the foreground: two where scalp would lie, two for skull,
            two for brain.
        vault_mm: only this much from the top of the head down is looked at (the face has no such layers).
        skull_dip: intensity of the skull's layers as part of the scalp's or the brain's (the darker one), below which
            there is a skull.
        no_skull_dip: above this there may be none: T2 and angiography may hide a skull between bright layers.
        masked: share of voxels that hold the very same background value, from which on an image counts as masked.
        brain_ml: a masked foreground above this is more than a brain with its cerebrospinal fluid.
        bins: intensity bins (quantiles) for mutual information.
        min_voxels: averaged voxels in the foreground below which nothing is said about flips.
        mirrored_image: mutual information with the mirrored image over that with the image, from which on a flip is
            suspected. Sound pairs are at 0.1 to 0.6.
        mirrored_label: the same for a mask and the image it fits best. Sound masks are below 0.9.
        label_information: mutual information in nats below which a mask tells nothing.
    """

    edge_mm: float = 4.0
    shells_mm: tuple[float, ...] = (0.0, 5.0, 9.0, 13.0, 17.0, 25.0, 40.0)
    vault_mm: float = 90.0
    skull_dip: float = 0.8
    no_skull_dip: float = 0.9
    masked: float = 0.25
    brain_ml: float = 2500.0
    bins: int = 32
    min_voxels: int = 2000
    mirrored_image: float = 1.2
    mirrored_label: float = 1.5
    label_information: float = 0.02


RULES = HeadRules()


@dataclass(frozen=True)
class CoarseImage:
    """An image at low resolution, axes right, anterior, superior.

    Attributes:
        values: block means.
        edges_mm: of its voxels.
        background: share of the original voxels that hold exactly the value most common on the volume's faces.
    """

    values: Array
    edges_mm: NDArray[np.float64]
    background: float

    @property
    def foreground_ml(self) -> float:
        """Volume of what is not background."""
        return (1 - self.background) * self.values.size * float(np.prod(self.edges_mm)) / 1000.0


def coarse_image(data: NDArray, affine: NDArray[np.float64], rules: HeadRules = RULES) -> CoarseImage:
    """Average an image over blocks of about ``rules.edge_mm``.

    Args:
        data: (i, j, k) finite values in any axis order.
        affine: 4x4, voxel index to RAS mm.
    """
    orientation = nib.io_orientation(affine)
    ras = nib.orientations.apply_orientation(data, orientation)
    edges = np.linalg.norm(affine[:3, :3], axis=0)[np.argsort(orientation[:, 0])]
    block = np.clip(np.rint(rules.edge_mm / edges), 1, ras.shape).astype(int)
    values = ras
    for axis, edge in enumerate(block):
        count = ras.shape[axis] // edge
        rest = ras.shape[axis] - count * edge  # left out on both sides, so that the middle stays the middle
        values = values.take(range(rest // 2, rest // 2 + count * edge), axis) if rest else values
        values = values.reshape((*values.shape[:axis], count, edge, *values.shape[axis + 1 :]))
        values = values.mean(axis=axis + 1, dtype=np.float32)
    return CoarseImage(values, edges * block, _background_share(ras))


def skull_of(image: CoarseImage, rules: HeadRules = RULES) -> Skull:
    """Whether the head's skull is in the image, by the dark layer below its surface."""
    dip = skull_dip(image, rules)
    if np.isnan(dip):
        return "unclear"
    if dip < rules.skull_dip:
        return "with skull"
    masked = image.background >= rules.masked and image.foreground_ml <= rules.brain_ml
    return "stripped" if masked and dip > rules.no_skull_dip else "unclear"


def skull_dip(image: CoarseImage, rules: HeadRules = RULES) -> float:
    """Mean intensity where the skull would lie over that of scalp or brain (the darker one); nan if there is no depth.

    The foreground is all that is brighter than half of Otsu's threshold, in one piece and without holes.
    """
    values = image.values - np.percentile(image.values, 1)
    pieces, count = ndimage.label(values > threshold_otsu(values.ravel()) / 2)
    if count == 0:
        return float("nan")
    head = ndimage.binary_fill_holes(pieces == 1 + int(np.argmax(np.bincount(pieces.ravel())[1:])))
    padded = np.pad(head, 1, mode="edge")  # a head that is cut by the field of view goes on
    depth = ndimage.distance_transform_edt(padded, sampling=image.edges_mm)[1:-1, 1:-1, 1:-1]
    top = int(np.flatnonzero(head.any((0, 1))).max())
    vault = np.arange(head.shape[2]) > top - rules.vault_mm / image.edges_mm[2]
    layers = []
    for inner, outer in zip(rules.shells_mm[:-1], rules.shells_mm[1:], strict=True):
        layer = (depth > inner) & (depth <= outer) & vault
        layers.append(float(values[layer].mean()) if layer.any() else np.nan)
    scalp, skull, brain = max(layers[:2]), min(layers[2:4]), max(layers[4:])
    return skull / min(scalp, brain) if min(scalp, brain) > 0 else float("nan")


def mirrored_images(images: Mapping[str, CoarseImage], rules: HeadRules = RULES) -> list[str]:
    """Modalities that seem to be mirrored left to right relative to the case's first one.

    Images on another grid than the first are left out.
    """
    if len(images) < 2:
        return []
    (_, first), *others = images.items()
    same_grid = [(name, image) for name, image in others if image.values.shape == first.values.shape]
    return [
        name for name, image in same_grid if _mirror_ratio(first.values, image.values, rules) > rules.mirrored_image
    ]


def label_is_mirrored(images: Mapping[str, CoarseImage], label: CoarseImage, rules: HeadRules = RULES) -> bool:
    """Whether a mask seems to be mirrored left to right relative to the images: mirrored, it tells more of the grey
    values of the image it fits best."""
    same_grid = [image.values for image in images.values() if image.values.shape == label.values.shape]
    share = np.rint(3 * np.clip(label.values / max(float(label.values.max()), 1e-6), 0, 1)).astype(np.int64)
    kept, mirrored = 0.0, 0.0
    for values in same_grid:
        inside = _foreground(values)
        if np.count_nonzero(inside) < rules.min_voxels:
            continue
        grey = _quantile_bins(values[inside], rules.bins)
        kept = max(kept, _mutual_information(grey, share[inside], rules.bins))
        mirrored = max(mirrored, _mutual_information(grey, share[::-1][inside], rules.bins))
    return mirrored > rules.label_information and mirrored > rules.mirrored_label * kept


def _mirror_ratio(first: Array, other: Array, rules: HeadRules) -> float:
    back = other[::-1]
    inside = _foreground(first) | _foreground(other) | _foreground(back)
    if np.count_nonzero(inside) < rules.min_voxels:
        return 0.0
    one, two, three = (_quantile_bins(values[inside], rules.bins) for values in (first, other, back))
    information = _mutual_information(one, two, rules.bins)
    return _mutual_information(one, three, rules.bins) / information if information > 0 else 0.0


def _foreground(values: Array) -> NDArray[np.bool_]:
    low = values.min()
    return values > low + 0.05 * (np.percentile(values, 99) - low)


def _quantile_bins(values: Array, bins: int) -> NDArray[np.int64]:
    return np.searchsorted(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]), values)


def _mutual_information(one: NDArray[np.int64], two: NDArray[np.int64], bins: int) -> float:
    """In nats, of two sequences of bin numbers below ``bins``."""
    joint = np.bincount(one * bins + two, minlength=bins * bins).reshape(bins, bins) / max(one.size, 1)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    met = joint > 0
    return float((joint[met] * np.log(joint[met] / apart[met])).sum())


def _background_share(data: NDArray) -> float:
    faces = [data[[0, -1]], data[:, [0, -1]], data[:, :, [0, -1]]]
    values, counts = np.unique(np.concatenate([face.ravel() for face in faces]), return_counts=True)
    return float(np.mean(data == values[np.argmax(counts)]))
