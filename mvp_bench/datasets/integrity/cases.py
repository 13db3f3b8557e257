"""Every file of every case is read to its end and checked before a dataset counts as prepared.

Nothing stops at the first fault: all of them are found in one pass, and whoever asked decides (a benchmark must not
leave out cases by itself). At most one volume per process is in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.integrity.case_check import LABEL as LABEL
from mvp_bench.datasets.integrity.case_check import Checked, CheckJob, case_roles, check_case
from mvp_bench.datasets.integrity.report import CaseFacts, Integrity
from mvp_bench.datasets.journal import Journal, run_kept, step_key
from mvp_bench.datasets.schema import Card, Case, DatasetBlock
from mvp_bench.identity import code_version, hash_of


def check_cases(
    cases: Mapping[str, Case],
    card: Card,
    pool: Executor,
    config: CheckConfig,
    journal: Journal,
    failed: Mapping[str, str] | None = None,
    nan_background: bool = False,
) -> dict[str, Checked]:
    """Read and check all cases, several at a time; those that the journal holds are not read again.

    Per file: can be read to its end (check sum of the gzip stream included), three-dimensional, finite, not one value
    everywhere, and an image still after nnU-Net's normalisation. Per case: one grid (shape, and corners within
    ``config.grid_tolerance`` voxels). Masks: whole numbers among the card's labels. Implausible spacings and extents,
    and suspected left-right flips, are warnings.

    Args:
        cases: with absolute paths.
        failed: files that could not be made -> why.
        nan_background: whether files with NaN are to be written anew, instead of being faulty.
    """
    names = list(cases)
    jobs = [
        CheckJob(cases[name], card.labels, _failed_roles(cases[name], failed or {}), config, nan_background)
        for name in names
    ]
    keys = [
        step_key([name, job.failed, case_roles(job.case)], [Path(path) for path in case_roles(job.case).values()])
        for name, job in zip(names, jobs, strict=True)
    ]
    checked = run_kept(pool, check_case, jobs, keys, Checked, f"check {card.name}", journal)
    return dict(zip(names, checked, strict=True))


def hash_data(facts: Mapping[str, CaseFacts]) -> str:
    """SHA-256 (hex) over case ids, and the roles, voxels and voxel sizes of their files, brought to RAS.

    How a file is called, packed or turned does not count.
    """
    return hash_of(
        [
            [case, [[role, file.voxels, file.ras_spacing] for role, file in sorted(facts[case].files.items())]]
            for case in sorted(facts)
        ]
    )


def integrity_report(
    card: Card, block: DatasetBlock, facts: Mapping[str, CaseFacts], duplicates: list[str], settings: dict[str, Any]
) -> Integrity:
    """The content of integrity.json.

    Args:
        duplicates: in words.
        settings: what the preparation and the check were done with.
    """
    return Integrity(
        dataset=card.dataset_name,
        source=block.source,
        data_hash=block.data_hash,
        code_version=code_version(),
        config=settings,
        cases=dict(facts),
        duplicates=duplicates,
        warnings=_mixed_skulls(facts),
        excluded=block.excluded,
        repairs=block.repairs,
    )


def _mixed_skulls(facts: Mapping[str, CaseFacts]) -> list[str]:
    """A warning if some images of a modality are stripped and others are not: a network would learn the difference."""
    warnings = []
    for role in sorted({role for case in facts.values() for role in case.files}):
        states = Counter(case.files[role].skull for case in facts.values() if role in case.files)
        if states["stripped"] and states["with skull"]:
            warnings.append(f"{role}: {states['stripped']} images are skull-stripped, {states['with skull']} are not")
    return warnings


def empty_regions(facts: Mapping[str, CaseFacts], card: Card) -> list[str]:
    """A fault for each region of the card that no case has."""
    return [
        f"region {region}: found label {' or '.join(map(str, values))} in none of {len(facts)} masks; expected at "
        "least one case that has it. Check the label convention of this release against the card"
        for region, values in card.regions.items()
        if not any(case.label_voxels.get(value) for case in facts.values() for value in values)
    ]


def _failed_roles(case: Case, failed: Mapping[str, str]) -> dict[str, str]:
    return {role: failed[path] for role, path in case_roles(case).items() if path in failed}
