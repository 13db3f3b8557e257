"""The leak audit: which patients of one dataset are, as people, in another.

Three kinds of evidence, each added to the ones before: ids, crosswalks (and what is known of the releases), images. A
person is shared by the first kind that shows it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from mvp_bench.config.groups import OverlapConfig
from mvp_bench.datasets.overlap.crosswalk import Crosswalk, read_crosswalks
from mvp_bench.datasets.overlap.identity import patient_tokens, people, release_links
from mvp_bench.datasets.overlap.images import Patient, image_twins, scans_of
from mvp_bench.datasets.prepared import load_block
from mvp_bench.datasets.schema import Card
from mvp_bench.io import write_json_if_changed
from mvp_bench.parallel import Inline
from mvp_bench.progress import console, log
from mvp_bench.workspace import Workspace

Evidence = Literal["id", "crosswalk", "image"]
EVIDENCE: tuple[Evidence, ...] = ("id", "crosswalk", "image")
OVERLAP = "overlap.json"
"""File of the last audit, in the workspace's ``datasets/``."""


@dataclass(frozen=True)
class SharedPerson:
    """Someone who is in two datasets, or in one under two ids."""

    patients: tuple[Patient, ...]
    """Every (dataset, patient) of these datasets that is this person."""
    evidence: Evidence


@dataclass(frozen=True)
class Leak:
    """How much of a task's test part an encoder has seen in pre-training."""

    task: str
    fold: int
    test_patients: int
    shared: tuple[str, ...]
    """Test patients who were seen, as ids of the task."""

    @property
    def percent(self) -> float:
        """Share of the test patients, 0 to 100."""
        return round(100 * len(self.shared) / self.test_patients, 4) if self.test_patients else 0.0

    def as_json(self) -> dict[str, Any]:
        """The content of a cell's ``leak.json``."""
        return {"leak_percent": self.percent, **asdict(self)}


@dataclass(frozen=True)
class Audit:
    """Who is who over some prepared datasets."""

    datasets: tuple[str, ...]
    stages: Mapping[Evidence, Mapping[Patient, int]]
    """After each kind of evidence: (dataset, patient) -> number of the person."""
    crosswalks: tuple[Crosswalk, ...] = ()
    without_images: tuple[str, ...] = ()
    """Datasets whose images were not compared."""

    @cached_property
    def person(self) -> Mapping[Patient, int]:
        """(dataset, patient) -> number of the person, after all evidence."""
        return self.stages[EVIDENCE[-1]]

    def patients(self, dataset: str) -> list[str]:
        """All patients of a dataset."""
        return self._by_dataset[dataset]

    def patients_in(self, dataset: str, *, of: str) -> frozenset[str]:
        """The patients of dataset ``of`` (their ids there) who are in ``dataset`` too."""
        inside = {self.person[dataset, patient] for patient in self.patients(dataset)}
        return frozenset(patient for patient in self.patients(of) if self.person[of, patient] in inside)

    def leak(self, task: str, fold: int, test: Iterable[str], seen: Mapping[str, Iterable[str]]) -> Leak:
        """How many of a task's test patients are among those seen (dataset -> patients) in pre-training."""
        people_seen = {self.person[dataset, patient] for dataset, names in seen.items() for patient in names}
        wanted = sorted(set(test))
        return Leak(task, fold, len(wanted), tuple(p for p in wanted if self.person[task, p] in people_seen))

    def shared(self, a: str, b: str) -> list[SharedPerson]:
        """The people who are in both datasets; with ``a == b`` those who have several ids in it."""
        members: dict[int, list[Patient]] = defaultdict(list)
        for dataset in dict.fromkeys((a, b)):
            for patient in self.patients(dataset):
                members[self.person[dataset, patient]].append((dataset, patient))
        groups = [tuple(group) for group in members.values() if len({d for d, _ in group}) > 1 or a == b]
        return [SharedPerson(group, self._evidence(group, a, b)) for group in groups if len(group) > 1]

    def table(self) -> dict[str, dict[str, int]]:
        """Row dataset -> column dataset -> patients of the row's who are in the column's; the diagonal counts all."""
        return {
            row: {column: len(self.patients_in(column, of=row)) for column in self.datasets} for row in self.datasets
        }

    @cached_property
    def _by_dataset(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {dataset: [] for dataset in self.datasets}
        for dataset, patient in self.person:
            found[dataset].append(patient)
        return found

    def _evidence(self, group: Sequence[Patient], a: str, b: str) -> Evidence:
        """The first kind of evidence that joins the two datasets (or two ids of one)."""
        for kind in EVIDENCE:
            for one, other in combinations(group, 2):
                if {one[0], other[0]} == {a, b} and self.stages[kind][one] == self.stages[kind][other]:
                    return kind
        raise AssertionError("people are joined by some evidence")


def audit(workspace: Workspace, cards: Sequence[Card], config: OverlapConfig, pool: Executor | None = None) -> Audit:
    """Find out who is who over prepared datasets, and write ``datasets/overlap.json``.

    Args:
        cards: of prepared datasets.
        config: whether and when images are taken for one scan.
        pool: on which images are compared; default: in this process.

    Raises:
        InputError: if a dataset is not prepared, a crosswalk is faulty, or an image cannot be read.
    """
    cards = list({card.id: card for card in cards}.values())
    blocks = {card.dataset_name: load_block(workspace, card) for card in cards}
    tokens = {
        (card.dataset_name, patient): names
        for card in cards
        for patient, names in sorted(patient_tokens(card, blocks[card.dataset_name]).items())
    }
    crosswalks = read_crosswalks(workspace, cards)
    links = [link for table in crosswalks for link in table.links]
    if any(block.source == "real" for block in blocks.values()):  # a phantom's numbers are nobody's
        links += release_links()
    by_id, by_crosswalk = people(tokens), people(tokens, links)
    by_image, without = by_crosswalk, tuple(blocks)
    if config.images:
        scans = {card.dataset_name: scans_of(workspace, card, blocks[card.dataset_name]) for card in cards}
        without = tuple(name for name, found in scans.items() if not any(s.facts.perceptual for s in found or ()))
        everything = [scan for found in scans.values() for scan in found or ()]
        twins = image_twins(workspace, everything, by_crosswalk, config, pool or Inline())
        by_image = people(tokens, links, twins)
    result = Audit(
        tuple(blocks), {"id": by_id, "crosswalk": by_crosswalk, "image": by_image}, tuple(crosswalks), without
    )
    hashes = {name: block.data_hash for name, block in blocks.items()}
    write_json_if_changed(workspace.datasets / OVERLAP, _as_json(result, hashes, config))
    return result


def print_audit(result: Audit) -> None:
    """Print who is shared: a table dataset x dataset and one by evidence, or one line if nobody is."""
    pairs = {pair: found for pair in combinations(result.datasets, 2) if (found := result.shared(*pair))}
    if not pairs:
        console.print(f"No patient is in two of {len(result.datasets)} datasets ({_looked_at(result)}).")
    else:
        console.print(_matrix(result, {name for pair in pairs for name in pair}))
        console.print(_by_evidence(pairs))
    for dataset in result.datasets:
        if repeated := result.shared(dataset, dataset):
            example = " and ".join(patient for _, patient in repeated[0].patients[:2])
            log.warning("%s: people with several patient ids: %d, such as %s", dataset, len(repeated), example)
    if result.without_images and len(result.without_images) < len(result.datasets):
        log.warning("not compared by image: %s; run mvp_prepare --check", ", ".join(result.without_images))


def _looked_at(result: Audit) -> str:
    count = len(result.crosswalks)
    crosswalks = f"{count} crosswalk{'s' * (count != 1)}" if count else "no crosswalk"
    images = "images" if len(result.without_images) < len(result.datasets) else "images not compared"
    return f"ids, {crosswalks}, {images}"


def _matrix(result: Audit, involved: Iterable[str]) -> Table:
    names = [name for name in result.datasets if name in set(involved)]
    counts = result.table()
    table = Table(
        title=f"Patients of the row who are in the column's dataset ({_looked_at(result)})", title_justify="left"
    )
    table.add_column("dataset")
    table.add_column("patients", justify="right")
    for name in names:
        table.add_column(_number(name), justify="right")
    for row in names:
        cells = ["" if row == column else str(counts[row][column] or "-") for column in names]
        table.add_row(escape(row), str(counts[row][row]), *cells)
    return table


def _by_evidence(pairs: Mapping[tuple[str, str], Sequence[SharedPerson]]) -> Table:
    table = Table(title="Shared people by the first evidence", title_justify="left")
    for heading in ("datasets", "people", *EVIDENCE):
        table.add_column(heading, justify="left" if heading == "datasets" else "right")
    for (a, b), shared in pairs.items():
        counts = [sum(person.evidence == kind for person in shared) for kind in EVIDENCE]
        table.add_row(f"{_number(a)}, {_number(b)}", str(len(shared)), *(str(count or "-") for count in counts))
    return table


def _number(dataset: str) -> str:
    """``Dataset501_BraTS2023-PED`` -> ``501``."""
    return dataset.removeprefix("Dataset").partition("_")[0]


def _as_json(result: Audit, data_hashes: Mapping[str, str], config: OverlapConfig) -> dict[str, Any]:
    pairs = [*((a, a) for a in result.datasets), *combinations(result.datasets, 2)]
    shared = {pair: found for pair in pairs if (found := result.shared(*pair))}
    return {
        "datasets": {
            name: {"patients": len(result.patients(name)), "data_hash": data_hashes[name]} for name in result.datasets
        },
        "crosswalks": {table.path.name: table.sha256 for table in result.crosswalks},
        "config": asdict(config),
        "without_images": list(result.without_images),
        "patients_of_row_in_column": result.table(),
        "shared": [
            {
                "datasets": list(dict.fromkeys(pair)),
                "people": [{"patients": [list(p) for p in s.patients], "evidence": s.evidence} for s in found],
            }
            for pair, found in shared.items()
        ],
    }
