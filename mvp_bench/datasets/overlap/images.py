"""People who are in two places by the images alone: candidates by perceptual hash, each verified on the voxels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mvp_bench.config.groups import OverlapConfig
from mvp_bench.datasets.integrity.report import INTEGRITY, FileFacts, load_integrity
from mvp_bench.datasets.schema import Card, DatasetBlock, resolve_path
from mvp_bench.io import read_json, write_json
from mvp_bench.parallel import run_all
from mvp_bench.workspace import Workspace

CACHE = ".overlap_cache.json"
CACHE_FORMAT = 1
"""Raised whenever the verification changes."""
SAVE_EVERY = 64
"""Verified pairs between two writings of the cache."""

Patient = tuple[str, str]
"""(dataset, patient)"""


@dataclass(frozen=True)
class PreparedImage:
    """One image of a prepared dataset."""

    patient: Patient
    modality: str
    path: Path
    facts: FileFacts


def scans_of(workspace: Workspace, card: Card, block: DatasetBlock) -> list[PreparedImage] | None:
    """The images that integrity.json knows; None if it is not there or speaks of other data."""
    folder = workspace.dataset(card.dataset_name).resolve()
    if not (folder / INTEGRITY).is_file():
        return None
    integrity = load_integrity(workspace, card)
    if integrity.data_hash != block.data_hash:
        return None
    return [
        PreparedImage((card.dataset_name, case.patient), modality, resolve_path(folder, path), facts.files[modality])
        for case_id, case in block.cases.items()
        if (facts := integrity.cases.get(case_id))
        for modality, path in case.images.items()
        if path and modality in facts.files
    ]


def image_twins(
    workspace: Workspace,
    scans: Sequence[PreparedImage],
    people: Mapping[Patient, int],
    config: OverlapConfig,
    pool: Executor,
) -> list[tuple[Patient, Patient]]:
    """Pairs of patients who share a scan.

    Pairs of one person, as far as known, are not looked at. Equal voxels need no verification; other candidates are
    read, registered and compared once, after which the cache in the workspace's ``datasets/`` knows the outcome.

    Args:
        scans: of all datasets.
        people: patient -> person, by ids and crosswalks.
        pool: on which candidates are verified.

    Raises:
        InputError: if an image cannot be read.
    """
    candidates = _candidates(scans, people, config)
    path = workspace.datasets / CACHE
    known = _read_cache(path)
    twins: list[tuple[Patient, Patient]] = []
    while candidates:  # one pair of images per pair of patients at a time: mostly the first one decides
        first = {patients: pairs[0] for patients, pairs in candidates.items()}
        unknown = {key: pair for pair in first.values() if (key := _key(*pair)) not in known and not _equal(*pair)}
        for start in range(0, len(unknown), SAVE_EVERY):
            keys = list(unknown)[start : start + SAVE_EVERY]
            jobs = [(unknown[key][0].path, unknown[key][1].path, config) for key in keys]
            known |= zip(keys, run_all(pool, _correlation, jobs, "compare images"), strict=True)
            write_json(path, {"format": CACHE_FORMAT, "correlations": dict(sorted(known.items()))})
        found = [
            patients
            for patients, pair in first.items()
            if _equal(*pair) or known[_key(*pair)] >= config.scan_correlation
        ]
        twins += found
        candidates = {p: pairs[1:] for p, pairs in candidates.items() if p not in set(found) and len(pairs) > 1}
    return sorted(twins)


def _candidates(
    scans: Sequence[PreparedImage], people: Mapping[Patient, int], config: OverlapConfig
) -> dict[tuple[Patient, Patient], list[tuple[PreparedImage, PreparedImage]]]:
    """Pairs of patients -> pairs of their images that may show one scan, those of equal voxels first."""
    from mvp_bench.datasets.geometry.perceptual import twin_pairs  # slow to import

    pairs = [*_equal_pairs(scans)]
    near = twin_pairs([s.facts.perceptual for s in scans], [s.modality for s in scans], config)
    pairs += [(scans[i], scans[j]) for i, j in near]
    found: dict[tuple[Patient, Patient], list[tuple[PreparedImage, PreparedImage]]] = defaultdict(list)
    for one, other in pairs:
        if people[one.patient] != people[other.patient]:
            one, other = sorted((one, other), key=lambda scan: scan.patient)
            found[one.patient, other.patient].append((one, other))
    return dict(found)


def _equal_pairs(scans: Iterable[PreparedImage]) -> Iterable[tuple[PreparedImage, PreparedImage]]:
    first: dict[str, PreparedImage] = {}
    for scan in scans:
        other = first.setdefault(scan.facts.voxels, scan)
        if other is not scan:
            yield other, scan


def _equal(one: PreparedImage, other: PreparedImage) -> bool:
    return one.facts.voxels == other.facts.voxels


def _key(one: PreparedImage, other: PreparedImage) -> str:
    return "-".join(sorted((one.facts.hash, other.facts.hash)))


def _correlation(job: tuple[Path, Path, OverlapConfig]) -> float:
    from mvp_bench.datasets.geometry.perceptual import same_scan
    from mvp_bench.datasets.geometry.volumes import read_volume

    one, other, config = job
    return round(same_scan(read_volume(one), read_volume(other), config)[1], 6)


def _read_cache(path: Path) -> dict[str, float]:
    content: Any = read_json(path) if path.is_file() else {}
    usable = isinstance(content, dict) and content.get("format") == CACHE_FORMAT
    return dict(content["correlations"]) if usable else {}
