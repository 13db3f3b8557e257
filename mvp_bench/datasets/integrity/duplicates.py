"""Equal voxels in two places: within a dataset and across the datasets of a workspace. No image is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from mvp_bench.datasets.integrity.case_check import LABEL
from mvp_bench.datasets.integrity.report import INTEGRITY, CaseFacts
from mvp_bench.datasets.schema import Card
from mvp_bench.io import read_json
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class Duplicates:
    """What was found, in words.

    Attributes:
        faults: case -> two patients of a task share an image: training and test would not be apart.
        warnings: case -> any other duplicate.
        listed: one entry per image that is in several places.
    """

    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    warnings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    listed: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Occurrence:
    case: str
    role: str
    patient: str
    name: str

    def __str__(self) -> str:
        return f"{self.case} ({self.role}, {self.name})"


def find_duplicates(workspace: Workspace, card: Card, facts: Mapping[str, CaseFacts]) -> Duplicates:
    """Images with equal voxels (masks are left out: two empty ones are equal), whatever their orientation, type and
    compression.

    Args:
        facts: of this dataset, whose own integrity.json is not read.
    """
    found = Duplicates()
    places: dict[str, list[_Occurrence]] = defaultdict(list)
    for case_id, case in facts.items():
        for role, file in case.files.items():
            if role != LABEL and file.minimum < file.maximum:
                places[file.voxels].append(_Occurrence(case_id, role, case.patient, file.name))
    for same in places.values():
        if len(same) > 1:
            _within(same, card, found)
    for voxels, elsewhere in _other_datasets(workspace, card, places.keys()):
        for place in places[voxels]:
            found.warnings[place.case].append(f"{place.name}: the same voxels as {elsewhere}")
        found.listed.append(f"{places[voxels][0]} and {elsewhere}")
    return found


def with_duplicates(facts: Mapping[str, CaseFacts], found: Duplicates) -> dict[str, CaseFacts]:
    """The facts with the duplicates among each case's faults and warnings."""
    return {
        name: case.model_copy(
            update={
                "faults": (*case.faults, *found.faults.get(name, ())),
                "warnings": (*case.warnings, *found.warnings.get(name, ())),
            }
        )
        for name, case in facts.items()
    }


def _within(same: list[_Occurrence], card: Card, found: Duplicates) -> None:
    patients = {place.patient for place in same}
    fault = len(patients) > 1 and card.kind != "pretraining"
    for place in same:
        other = next(p for p in same if p is not place and (not fault or p.patient != place.patient))
        text = f"{place.name}: found the same voxels as {other}"
        if fault:
            text += f", though patients {place.patient} and {other.patient} count as two; expected images of its own"
        (found.faults if fault else found.warnings)[place.case].append(text)
    found.listed.append(" and ".join(map(str, same)))


def _other_datasets(workspace: Workspace, card: Card, hashes: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Hash and place of every image of another prepared dataset that has one of the hashes."""
    wanted = set(hashes)
    for path in sorted(workspace.datasets.glob(f"*/{INTEGRITY}")):
        if path.parent.name == card.dataset_name:
            continue
        for case_id, case in read_json(path)["cases"].items():
            for role, file in case["files"].items():
                if role != LABEL and file["voxels"] in wanted:
                    yield file["voxels"], f"{path.parent.name} {case_id} ({role})"
