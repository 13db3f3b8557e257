"""Every file of every case is read to its end and checked before a dataset counts as prepared.

All faults stop the preparation: a benchmark must not decide by itself which cases to leave out. The explicit way to go
on without a faulty case is ``converter_options.exclude`` in a card of one's own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mvp_bench.datasets.schema import Card, Case
from mvp_bench.datasets.volumes import Grid, Volume, grid_difference, read_volume, whole_numbers
from mvp_bench.errors import InputError
from mvp_bench.parallel import run_all
from mvp_bench.workspace import hash_of

LABEL = "label"
"""Role of the mask among a case's files; the other roles are the modalities."""
EXCLUDE_HINT = "Mend the file, or name the case in converter_options.exclude of a card of your own."


@dataclass(frozen=True)
class FileRecord:
    """What identifies one file."""

    role: str
    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class CaseReport:
    """What the check of one case found.

    Attributes:
        label_voxels: label value -> number of voxels, background left out.
        voxel_ml: volume of a voxel in millilitres.
        rewrite: roles whose files must be written anew: nnU-Net refuses a fourth dimension of length 1, and would cut
            off label values that are whole only after rounding.
    """

    case: str
    files: tuple[FileRecord, ...]
    label_voxels: dict[int, int]
    voxel_ml: float
    rewrite: tuple[str, ...] = ()

    @property
    def lesion_ml(self) -> float:
        """Volume of everything that is labelled, in millilitres."""
        return sum(self.label_voxels.values()) * self.voxel_ml


@dataclass(frozen=True)
class _Job:
    case_id: str
    case: Case
    labels: dict[str, int]


def check_cases(cases: Mapping[str, Case], card: Card, pool: Executor) -> dict[str, CaseReport]:
    """Read and check all cases, several at a time; at most one file per process is in memory besides the reference.

    Checked per file: can be read to its end (check sum of the gzip stream included), three-dimensional, finite, not 0
    everywhere. Per case: one grid (shape, and corners within :data:`~mvp_bench.datasets.volumes.GRID_TOLERANCE`
    voxels). Masks: whole numbers among the card's labels. Over all: no region is empty in every case, and no image
    belongs to two patients.

    Args:
        cases: with absolute paths.

    Raises:
        InputError: at the first fault, naming the file and the number.
    """
    jobs = [_Job(case_id, case, card.labels) for case_id, case in cases.items()]
    reports = {report.case: report for report in run_all(pool, _check_case, jobs, f"check {card.name}")}
    if card.kind == "segmentation":
        _no_region_is_empty_everywhere(reports, card)
    if card.kind != "pretraining":
        _no_image_of_two_patients(reports, cases)
    return reports


def hash_data(reports: Mapping[str, CaseReport]) -> str:
    """SHA-256 (hex) over case ids and the files' roles, names, sizes and hashes: changes if any voxel does."""
    return hash_of([[case, list(reports[case].files)] for case in sorted(reports)])


def _check_case(job: _Job) -> CaseReport:
    records: list[FileRecord] = []
    rewrite: list[str] = []
    reference: tuple[Grid, str] | None = None
    for modality, text in job.case.images.items():
        if text is None:
            continue
        path = Path(text)
        volume = read_volume(path)
        _check_image(path, volume)
        reference = reference or (volume.grid, path.name)
        _check_grid(path, volume, reference)
        records.append(FileRecord(modality, path.name, volume.bytes, volume.sha256))
        rewrite += [modality] if volume.squeezed else []
    assert reference is not None  # a Case has at least one image
    counts: dict[int, int] = {}
    if job.case.label:
        path = Path(job.case.label)
        volume = read_volume(path)
        _check_grid(path, volume, reference)
        counts, rounded = _check_label(path, volume, job.labels)
        records.append(FileRecord(LABEL, path.name, volume.bytes, volume.sha256))
        rewrite += [LABEL] if rounded or volume.squeezed else []
    return CaseReport(job.case_id, tuple(records), counts, reference[0].voxel_ml, tuple(rewrite))


def _check_image(path: Path, volume: Volume) -> None:
    finite = np.isfinite(volume.data)
    if not finite.all():
        count = int(finite.size - np.count_nonzero(finite))
        where = tuple(int(i) for i in np.unravel_index(int(np.argmin(finite)), finite.shape))
        raise InputError(
            path,
            found=f"{count} voxels that are NaN or infinite, the first at index {where}",
            expected="finite numbers",
            fix=EXCLUDE_HINT,
        )
    if not volume.data.any():
        raise InputError(path, found="0 in every voxel", expected="an image", fix=EXCLUDE_HINT)


def _check_grid(path: Path, volume: Volume, reference: tuple[Grid, str]) -> None:
    if difference := grid_difference(volume.grid, reference[0]):
        raise InputError(
            path,
            found=difference,
            expected=f"the grid of {reference[1]}, as all files of a case must share one",
            fix=f"{EXCLUDE_HINT} A modality can be resampled by converter_options.reference_grid.",
        )


def _check_label(path: Path, volume: Volume, labels: Mapping[str, int]) -> tuple[dict[int, int], bool]:
    values, rounded = whole_numbers(path, volume.data)
    found, counts = np.unique(values, return_counts=True)
    declared = set(labels.values())
    unknown = [(int(v), int(n)) for v, n in zip(found, counts, strict=True) if int(v) not in declared]
    if unknown:
        shown = ", ".join(f"{value} ({count} voxels)" for value, count in unknown[:5])
        raise InputError(
            path,
            found=f"label {shown}",
            expected=f"only the card's labels ({', '.join(f'{v} {k}' for k, v in labels.items())})",
            fix="This may be another release of the dataset. Values can be changed by converter_options.label_map.",
        )
    return {int(v): int(n) for v, n in zip(found, counts, strict=True) if v != 0}, rounded


def _no_region_is_empty_everywhere(reports: Mapping[str, CaseReport], card: Card) -> None:
    for region, values in card.regions.items():
        if not any(report.label_voxels.get(value) for report in reports.values() for value in values):
            raise InputError(
                f"dataset {card.dataset_name}, region {region}",
                found=f"label {' or '.join(map(str, values))} in none of {len(reports)} masks",
                expected="at least one case that has it",
                fix="Check the label convention of this release against the card.",
            )


def _no_image_of_two_patients(reports: Mapping[str, CaseReport], cases: Mapping[str, Case]) -> None:
    owners: dict[str, dict[str, str]] = defaultdict(dict)
    for case_id, report in reports.items():
        for record in report.files:
            if record.role != LABEL:  # two empty masks are equal
                owners[record.sha256].setdefault(cases[case_id].patient, f"{case_id} ({record.name})")
    for patients in owners.values():
        if len(patients) > 1:
            (one, first), (two, second), *_ = patients.items()
            raise InputError(
                second,
                found=f"the very bytes of {first}, though patients {two} and {one} count as two",
                expected="one patient's images under one patient",
                fix=EXCLUDE_HINT,
            )
