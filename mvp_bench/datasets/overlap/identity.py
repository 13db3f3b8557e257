"""Who is who across datasets: a patient becomes a set of *tokens* ``space:id``; a shared token means the same person.

A *space* is a list of people. Ids of the known releases carry theirs in their form (``UCSF-PDGM-0004``), whatever
dataset they turn up in; any other id belongs to the card's ``patient_space``, by default a list of the dataset's own,
so that ``01`` or ``sub-01`` never join two datasets.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from mvp_bench.datasets.schema import Card, DatasetBlock

Node = TypeVar("Node", bound=Hashable)

_END = r"(?=$|[-_. ])"
_FORMS: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(rf"(?:sub-)?{form}{_END}", re.IGNORECASE), space)
    for form, space in (
        # A number of BraTS 2021 is that of the patient's first scan, BraTS-GLI-NNNNN-000. The second scans of 138
        # patients have numbers of their own there, which only a crosswalk joins to BraTS-GLI-NNNNN-001.
        (r"BraTS2021_(\d{5})", "brats-gli"),
        (r"BraTS-([A-Z]+)-(\d{5})", "brats"),
        (r"BraTS20_((?:Training|Validation|Testing)_\d{3})", "brats20"),
        # The years 2017 to 2019 name the same person alike at times and not at others: each is a list of its own.
        (r"BraTS(1[789])_([A-Z0-9]+_[A-Z0-9]+_\d+)", "brats"),
        (r"UCSF-PDGM-(\d{3,4})", "ucsf-pdgm"),
        (r"UPENN-GBM-(\d{5})", "upenn-gbm"),
        (r"(TCGA-[A-Z0-9]{2}-[A-Z0-9]{4})", "tcga"),
        (r"(\d{3}_S_\d{4,5})", "adni"),
        (r"IXI(\d{3})", "ixi"),
        (r"vs_gk_(\d{1,3})", "vs-seg"),
        (r"VS-SEG-(\d{1,3})", "vs-seg"),
        (r"strokecase(\d{4})", "isles22"),
    )
)

UCSF_FOLLOW_UPS: Mapping[int, int] = {138: 429, 175: 396, 181: 409, 278: 431, 289: 391, 315: 433}
"""UCSF-PDGM before version 3: number of a follow-up exam, then an ordinary id -> its patient's number ever since."""


def known_token(name: str) -> str | None:
    """The token of a patient's, case's or scan's id that has the form of a known release; else None.

    What follows the patient's part (visit, date, contrast) is passed over: ``UPENN-GBM-00001_11`` and
    ``UPENN-GBM-00001_21`` are one person.
    """
    for pattern, space in _FORMS:
        if match := pattern.match(name.strip()):
            *qualifiers, number = match.groups()
            return token("-".join([space, *qualifiers]), number)
    return None


def token(space: str, name: str) -> str:
    """``space:id`` in lower case; numbers without leading zeros, which tables and folder names do not agree on."""
    name = name.strip().lower()
    return f"{space.lower()}:{int(name) if name.isdecimal() else name}"


def own_token(card: Card, patient: str) -> str:
    """The token of a patient id in its card's list of people.

    In a list shared by several cards numbers may be padded or not; in a dataset's own, ids stay as they are.
    """
    return token(card.patient_space, patient) if card.patient_space else f"{card.dataset_name.lower()}:{patient}"


def patient_tokens(card: Card, block: DatasetBlock) -> dict[str, frozenset[str]]:
    """Patient -> all tokens, from the patient's own id and from the ids of the cases."""
    names: dict[str, set[str]] = {}
    for case_id, case in block.cases.items():
        names.setdefault(case.patient, {case.patient}).add(case_id)
    return {
        patient: frozenset({own_token(card, patient), *filter(None, map(known_token, ids))})
        for patient, ids in names.items()
    }


def release_links() -> list[tuple[str, ...]]:
    """Tokens of one person that are known from the releases themselves."""
    return [(token("ucsf-pdgm", str(old)), token("ucsf-pdgm", str(new))) for old, new in UCSF_FOLLOW_UPS.items()]


def people(
    tokens: Mapping[Node, Iterable[str]],
    links: Iterable[Iterable[str]] = (),
    same: Iterable[tuple[Node, Node]] = (),
) -> dict[Node, int]:
    """Patients -> people: whoever shares a token, directly or through others, is one.

    Args:
        tokens: patient -> tokens.
        links: groups of tokens that are one person each.
        same: pairs of patients who are one person.

    Returns:
        Patient -> number of the person, counted from 0 in the order of ``tokens``.
    """
    from scipy.cluster.hierarchy import DisjointSet  # slow to import

    groups: list[list[tuple[str, Hashable]]] = [
        [("patient", patient), *(("token", item) for item in items)] for patient, items in tokens.items()
    ]
    groups += [[("token", item) for item in link] for link in links]
    groups += [[("patient", patient) for patient in pair] for pair in same]
    sets = DisjointSet()
    for group in groups:
        for item in group:
            sets.add(item)
            sets.merge(group[0], item)
    numbers: dict[Hashable, int] = {}
    return {patient: numbers.setdefault(sets["patient", patient], len(numbers)) for patient in tokens}
