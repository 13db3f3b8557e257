"""The check of one case: its files are read one after the other, and everything wrong or odd is noted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import xxhash
from numpy.typing import NDArray

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.geometry.intensities import Mend, judge
from mvp_bench.datasets.geometry.perceptual import perceptual_hash
from mvp_bench.datasets.geometry.volumes import (
    Grid,
    Volume,
    grid_difference,
    read_volume,
    whole_numbers,
    without_nan,
)
from mvp_bench.datasets.integrity.head import CoarseImage, coarse_image, label_is_mirrored, mirrored_images, skull_of
from mvp_bench.datasets.integrity.report import CaseFacts, FileFacts
from mvp_bench.datasets.schema import Case
from mvp_bench.errors import InputError, MachineError

LABEL = "label"
"""Role of the mask among a case's files; the other roles are the modalities."""


HASHED = ("t1", "t1c", "flair", "t2", "dwi", "adc", "pd", "mra", "t1ir")
"""Modalities in the order in which they are chosen for perceptual hashes."""
HASHES_PER_CASE = 2
NAN_OPTION = " (--nan-background reads NaN as background, and lists the file)"
"""Added to what is expected, where only NaN stands in the way."""


@dataclass(frozen=True)
class Checked:
    """What the check of one case found.

    Attributes:
        rewrite: roles whose files must be written anew, and what is changed in their values: nnU-Net refuses a fourth
            dimension of length 1, would cut off label values that are whole only after rounding, believes other fields
            of a header that contradicts itself, and cannot normalise images with a few values far from all others.
    """

    facts: CaseFacts
    rewrite: dict[str, Mend] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckJob:
    """A case to check.

    Attributes:
        case: with absolute paths.
        labels: the card's.
        failed: role -> why its file could not be made.
        nan_background: whether files with NaN are to be written anew, instead of being faulty.
    """

    case: Case
    labels: dict[str, int]
    failed: dict[str, str]
    config: CheckConfig
    nan_background: bool = False


def case_roles(case: Case) -> dict[str, str]:
    """Role (modalities in the dataset's order, then the label) -> file, of the files that are there."""
    images = {str(modality): path for modality, path in case.images.items() if path}
    return images | ({LABEL: case.label} if case.label else {})


def hashed_roles(case: Case) -> list[str]:
    """The images of a case that get a perceptual hash."""
    return [modality for modality in HASHED if case.images.get(modality)][:HASHES_PER_CASE]  # type: ignore[call-overload]


@dataclass
class _Findings:
    """What is gathered while the files of a case are read one after the other."""

    config: CheckConfig
    files: dict[str, FileFacts] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rewrite: dict[str, Mend] = field(default_factory=dict)
    label_voxels: dict[int, int] = field(default_factory=dict)
    reference: tuple[Grid, str] | None = None
    coarse: dict[str, CoarseImage] = field(default_factory=dict)

    def fault(self, where: object, found: str, expected: str) -> None:
        self.faults.append(InputError(where, found=found, expected=expected).fault)


def check_case(job: CheckJob) -> Checked:
    """Read all files of a case to their ends; see :func:`mvp_bench.datasets.integrity.cases.check_cases`."""
    findings = _Findings(job.config)
    for role, text in case_roles(job.case).items():
        if role in job.failed:
            findings.faults.append(job.failed[role])
            continue
        path = Path(text)
        try:
            volume = read_volume(path)
        except MachineError:
            raise
        except InputError as error:
            findings.faults.append(error.fault)
            continue
        if volume.doubts:
            findings.warnings.append(f"{path.name}: {volume.doubts}")
        _check_grid(path, volume, findings)
        facts = _file_facts(path, volume)
        data, unread = without_nan(volume.data) if job.nan_background else (volume.data, 0)
        volume = replace(volume, data=data)
        if volume.squeezed or volume.flaws or unread:
            findings.rewrite[role] = Mend()
        if role == LABEL:
            _check_label(path, volume, job.labels, findings)
        elif _check_image(role, path, volume, findings) and _may_hold_a_head(volume.grid, job.config):
            hashed = role in hashed_roles(job.case)
            text = perceptual_hash(volume.data, volume.grid.affine) if hashed else ""
            facts = facts.model_copy(update={"skull": skull_of(_coarse(role, volume, findings)), "perceptual": text})
        findings.files[role] = facts
    if not findings.faults:
        _check_flips(findings)
    return Checked(
        CaseFacts(
            patient=job.case.patient,
            files=findings.files,
            label_voxels=findings.label_voxels,
            voxel_ml=findings.reference[0].voxel_ml if findings.reference else 0.0,
            faults=tuple(findings.faults),
            warnings=tuple(findings.warnings),
        ),
        findings.rewrite,
    )


def _check_image(role: str, path: Path, volume: Volume, findings: _Findings) -> bool:
    """Whether the image shows something as it is, after normalisation too."""
    finite = np.isfinite(volume.data)
    if not finite.all():
        count = int(finite.size - np.count_nonzero(finite))
        where = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
        text = f"{count} voxels that are NaN or infinite, the first at index {where}"
        nan = np.count_nonzero(np.isnan(volume.data)) == count
        findings.fault(path, text, f"finite numbers{NAN_OPTION if nan else ''}")
        return False
    low, high = volume.data.min(), volume.data.max()
    if low == high:
        findings.fault(path, f"{high:g} in every voxel", "an image")
        return False
    if volume.data.dtype.kind == "i" and low == np.iinfo(volume.data.dtype).min:
        findings.warnings.append(f"{path.name}: reaches {low}, the end of its type: values may have wrapped around")
    problems, mend = judge(volume.data, findings.config)
    for problem in problems:
        findings.fault(path, problem, "values that can be normalised, see --check.* in the help")
    if mend.done:
        findings.rewrite[role] = mend
    return not problems and not mend.done  # what is written anew is checked again


def _coarse(role: str, volume: Volume, findings: _Findings) -> CoarseImage:
    findings.coarse[role] = coarse_image(volume.data, volume.grid.affine)
    return findings.coarse[role]


def _check_flips(findings: _Findings) -> None:
    """Warn of files that seem to be mirrored; they are on one grid here."""
    images = {role: image for role, image in findings.coarse.items() if role != LABEL}
    first = next(iter(images), "")
    for role in mirrored_images(images):
        name, other = findings.files[role].name, findings.files[first].name
        findings.warnings.append(f"{name}: suspected to be flipped left to right relative to {other}")
        del images[role]  # no witness for the mask
    if LABEL in findings.coarse and label_is_mirrored(images, findings.coarse[LABEL]):
        findings.warnings.append(f"{findings.files[LABEL].name}: suspected to be flipped left to right")


def _check_grid(path: Path, volume: Volume, findings: _Findings) -> None:
    if findings.reference is None:
        findings.reference = volume.grid, path.name
        _check_size(path, volume.grid, findings)
        return
    grid, name = findings.reference
    if difference := grid_difference(volume.grid, grid, findings.config.grid_tolerance):
        findings.fault(path, difference, f"the grid of {name}, as all files of a case must share one")


def _check_size(path: Path, grid: Grid, findings: _Findings) -> None:
    """Warn of voxels and fields of view that no head scan has."""
    config = findings.config
    spacing, extent = grid.voxel_mm, grid.voxel_mm * grid.shape
    if spacing.min() < config.min_spacing_mm or spacing.max() > config.max_spacing_mm:
        findings.warnings.append(f"{path.name}: voxels of {_times(spacing)} mm")
    if extent.min() < config.min_extent_mm or extent.max() > config.max_extent_mm:
        findings.warnings.append(f"{path.name}: a field of view of {_times(extent)} mm")


def _may_hold_a_head(grid: Grid, config: CheckConfig) -> bool:
    return float((grid.voxel_mm * grid.shape).max()) >= config.min_extent_mm


def _check_label(path: Path, volume: Volume, labels: Mapping[str, int], findings: _Findings) -> None:
    try:
        values, rounded = whole_numbers(path, volume.data)
    except InputError as error:
        nan = volume.data.dtype.kind == "f" and np.isnan(volume.data).any()
        findings.faults.append(error.fault + (NAN_OPTION if nan else ""))
        return
    found, counts = np.unique(values, return_counts=True)
    declared = set(labels.values())
    unknown = [(int(v), int(n)) for v, n in zip(found, counts, strict=True) if int(v) not in declared]
    if unknown:
        shown = ", ".join(f"{value} ({count} voxels)" for value, count in unknown[:5])
        names = ", ".join(f"{value} {name}" for name, value in labels.items())
        expected = (
            f"only the card's labels ({names}); another release? Values are changed by converter_options.label_map"
        )
        findings.fault(path, f"label {shown}", expected)
    else:
        _coarse(LABEL, volume, findings)
    findings.label_voxels = {int(v): int(n) for v, n in zip(found, counts, strict=True) if v != 0}
    if rounded:
        findings.rewrite[LABEL] = Mend()


def _file_facts(path: Path, volume: Volume) -> FileFacts:
    grid = volume.grid
    finite = volume.data if volume.data.dtype.kind in "iu" else volume.data[np.isfinite(volume.data)]
    return FileFacts(
        name=path.name,
        bytes=volume.bytes,
        hash=volume.checksum,
        voxels=voxel_hash(volume.data, grid.affine),
        shape=grid.shape,
        spacing=tuple(round(float(edge), 6) for edge in grid.voxel_mm),  # type: ignore[arg-type]
        orientation="".join(nib.aff2axcodes(grid.affine)),
        minimum=float(finite.min()) if finite.size else 0.0,
        maximum=float(finite.max()) if finite.size else 0.0,
        nonzero=float(np.count_nonzero(volume.data) / max(volume.data.size, 1)),
    )


def voxel_hash(data: NDArray, affine: NDArray[np.float64]) -> str:
    """XXH3 (128 bits, hex) of shape and voxels in RAS order and single precision: the same for copies of an image
    that differ in orientation, type, compression or the header's origin.

    Args:
        data: (i, j, k), in the file's own axis order.
        affine: 4x4, voxel index to world millimetres.
    """
    ras = nib.orientations.apply_orientation(data, nib.io_orientation(affine))
    digest = xxhash.xxh3_128(repr(ras.shape).encode())
    with np.errstate(over="ignore"):  # what single precision cannot hold is a fault, found elsewhere
        for plane in np.moveaxis(ras, 2, 0):  # plane by plane: no second copy of the volume
            digest.update(np.ascontiguousarray(plane.T, dtype=np.float32) + np.float32(0))  # -0 becomes 0
    return digest.hexdigest()


def _times(values: Sequence[float] | NDArray[np.float64]) -> str:
    return " x ".join(f"{float(value):.3g}" for value in values)
