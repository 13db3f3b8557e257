"""Writing a phantom release: patient by patient, so that a killed run goes on where it stopped."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.datasets.phantom.anatomy import adopt, load_atlas
from mvp_bench.datasets.phantom.cohorts import Cohort, cohort_of
from mvp_bench.datasets.phantom.grids import VoxelGrid
from mvp_bench.datasets.phantom.releases import LAYOUTS
from mvp_bench.datasets.phantom.releases.base import LABEL, Stored
from mvp_bench.datasets.phantom.request import MANIFEST, patient_count, phantom_request
from mvp_bench.datasets.phantom.subject import draw_person, make_subject, resolutions
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.io import atomic_path, read_json, write_json, write_text
from mvp_bench.parallel import worker_pool
from mvp_bench.progress import progress

STATE = ".phantom"
"""Folder in an unfinished release: the request, and one record per finished patient."""
_GZIP_LEVEL = 1


def write_phantom_release(card: Card, destination: Path, config: PhantomConfig, seed: int, workers: int = 1) -> Path:
    """Write a synthetic release below ``destination``.

    A release that is already complete is left alone, an interrupted one continued, one of another key (seed, size,
    modalities or version of the generator) replaced.

    Args:
        card: dataset 501-506, 511-514 or 521-525.
        destination: folder in which the release's top folder is made.
        config: voxel size and number of patients.
        seed: fixes everything.
        workers: processes.

    Returns:
        The folder to point ``--source`` at.

    Raises:
        InputError: if files that are no phantom stand in the way.
        KeyError: if there is no phantom of this dataset.
    """
    cohort = cohort_of(card.id, tuple(card.modalities))
    layout = LAYOUTS[card.id]
    top = destination / layout.top
    request = phantom_request(card, config, seed)
    if _finished(top, request):
        return top
    _begin(top, request)
    count = patient_count(card, config)
    todo = [index for index in range(count) if not (top / STATE / f"{index}.json").is_file()]
    _write_patients([(cohort, top, config.spacing_mm, seed, index, count) for index in todo], card.name, workers)
    records = [read_json(top / STATE / f"{index}.json") for index in range(count)]
    for relative, text in layout.tables(records).items():
        write_text(top / relative, text)
    write_json(top / MANIFEST, {**request, "config": asdict(config), "subjects": records})
    shutil.rmtree(top / STATE)
    return top


def _write_patients(jobs: Sequence[tuple[Cohort, Path, float, int, int, int]], name: str, workers: int) -> None:
    """Write patients, several at a time; a job holds the arguments of :func:`write_patient`."""
    with progress(f"phantom {name}", len(jobs)) as advance:
        if workers <= 1 or len(jobs) <= 1:
            for job in jobs:
                write_patient(*job)
                advance(1)
            return
        atlases = [load_atlas(r) for r in sorted(resolutions(jobs[0][2]))]
        with worker_pool(min(workers, len(jobs)), initializer=adopt, initargs=(atlases,)) as pool:
            for future in [pool.submit(write_patient, *job) for job in jobs]:
                future.result()
                advance(1)


def write_patient(cohort: Cohort, top: Path, spacing_mm: float, seed: int, index: int, count: int) -> None:
    """Generate one patient and write its files; the record in ``STATE`` comes last and means done."""
    subject = make_subject(cohort, spacing_mm, seed, index)
    layout, person = LAYOUTS[cohort.dataset], subject.person
    files = layout.files(index, count, person)
    for modality, image in subject.images.items():
        _save(top, files[modality], subject.grid, _as_stored(image, files[modality]))
    if subject.labels is not None:
        _save(top, files[LABEL], subject.grid, subject.labels)
    record: dict[str, Any] = {"patient": layout.patient(index, count, person), "index": index, "site": person.site}
    write_json(top / STATE / f"{index}.json", {**record, **subject.facts})


def phantom_patients(card: Card, config: PhantomConfig, seed: int = 0) -> list[str]:
    """Ids of the patients that :func:`write_phantom_release` would make, in order, without making them."""
    cohort, count = cohort_of(card.id), patient_count(card, config)
    return [LAYOUTS[card.id].patient(i, count, draw_person(cohort, seed, i)) for i in range(count)]


def _finished(top: Path, request: dict[str, Any]) -> bool:
    if not (top / MANIFEST).is_file():
        return False
    written = read_json(top / MANIFEST)
    return {key: written.get(key) for key in request} == request and not (top / STATE).exists()


def _begin(top: Path, request: dict[str, Any]) -> None:
    """Keep the patients of an interrupted run of the same request; clear away any other phantom, but nothing else."""
    marker = top / STATE / "request.json"
    if marker.is_file() and read_json(marker) == request:
        (top / MANIFEST).unlink(missing_ok=True)
        return
    if top.exists() and any(top.iterdir()):
        if not ((top / STATE).is_dir() or (top / MANIFEST).is_file()):
            raise InputError(
                top,
                found="files that are not of a phantom",
                expected="an empty or missing folder to write the phantom to",
                fix="Move them away, or choose another destination.",
            )
        shutil.rmtree(top)
    write_json(marker, request)


def _as_stored(image: npt.NDArray[np.float32], stored: Stored) -> npt.NDArray:
    """Grey values as the release stores them; what is not background stays above 0."""
    if not stored.whole:
        return (image * np.float32(stored.scale)).astype(np.float32)
    whole = np.clip(np.rint(image * np.float32(stored.scale)), 1, np.iinfo(np.int16).max)
    return np.where(image > 0, whole, 0).astype(np.int16)


def _save(top: Path, stored: Stored, grid: VoxelGrid, array: npt.NDArray) -> None:
    content = grid.image(array).to_bytes()
    if stored.path.endswith(".gz"):
        content = gzip.compress(content, compresslevel=_GZIP_LEVEL, mtime=0)  # no time: same bytes on every run
    with atomic_path(top / stored.path) as temporary:
        temporary.write_bytes(content)
