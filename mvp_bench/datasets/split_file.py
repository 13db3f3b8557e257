"""Split files of BrainMVP's form: ``{"training": [{"image": [paths], "label": path}], "validation": ..., ...}``.

Their paths hold another computer's folders, lack modalities or list them in any order, and some files were renamed. So
an entry is matched to a case by the names of its files: the name of one of the case's own images or of its mask, else
a name that begins with the case's id. Folders, endings and positions do not matter.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from mvp_bench.datasets.reading.sources import listed, without_ending
from mvp_bench.datasets.schema import Case
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.progress import log

PARTS = {"training": "train", "train": "train", "validation": "val", "val": "val", "testing": "test", "test": "test"}
"""Name in the file -> part."""


def read_split_file(path: Path, cases: Mapping[str, Case]) -> dict[str, list[str]]:
    """The patients of each part.

    Entries that match no case are passed over with a warning, since a release may lack cases or have some excluded; so
    are cases that no entry names (they are in no part, unless another case of their patient is). A part that is not in
    the file is empty.

    Args:
        cases: those of the prepared dataset.

    Returns:
        ``train``, ``val`` and ``test`` -> patients in the order of the file.

    Raises:
        InputError: if the file has not the form, no entry matches, an entry matches two cases, or a patient is in two
            parts.
    """
    by_name = _cases_by_name(cases)
    parts: dict[str, list[str]] = {part: [] for part in ("train", "val", "test")}
    first: dict[str, tuple[str, str]] = {}
    named: set[str] = set()
    unmatched: list[str] = []
    for part, where, names in _entries(path):
        hits = [hit for name in names if (hit := _matches(name, by_name, cases))]
        matches = set.intersection(*hits) if hits else set()
        if hits and len(matches) != 1:
            raise InputError(
                where,
                found=f"files of {' and '.join(sorted(set.union(*hits)))}: {listed(names)}",
                expected="file names that tell the cases apart",
            )
        if not matches:
            unmatched.append(names[0])
            continue
        case = matches.pop()
        named.add(case)
        patient = cases[case].patient
        known, other = first.setdefault(patient, (part, case))
        if known != part:
            raise InputError(
                where,
                found=f"patient {patient} in {part} ({case}) and in {known} ({other})",
                expected="each patient in one part",
                fix="Correct the file, or divide anew with --split ratio.",
            )
        if patient not in parts[part]:
            parts[part].append(patient)
    _tell(path, cases, named, unmatched)
    return parts


def _entries(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Part, place in the file and file names (without folders and endings) of each entry."""
    content = read_json(path)
    lists = {name: part for name, part in PARTS.items() if isinstance(content, dict) and name in content}
    if not lists:
        raise InputError(path, found="none of these", expected="lists called training, validation and test")
    for name, part in lists.items():
        if not isinstance(content[name], list):
            raise InputError(f"{path}: {name}", found=type(content[name]).__name__, expected="a list of cases")
        for index, entry in enumerate(content[name]):
            item = entry if isinstance(entry, dict) else {"image": entry}
            images = item.get("image")
            paths = [*(images if isinstance(images, list) else [images]), item.get("label")]
            names = [without_ending(PurePosixPath(text).name) for text in paths if text and isinstance(text, str)]
            if not names:
                raise InputError(f"{path}: {name}[{index}]", found=entry, expected='{"image": [paths]}')
            yield part, f"{path}: {name}[{index}]", names


def _cases_by_name(cases: Mapping[str, Case]) -> dict[str, set[str]]:
    """File name without ending -> the cases that have such a file."""
    by_name: dict[str, set[str]] = defaultdict(set)
    for case_id, case in cases.items():
        for file in (*case.images.values(), case.label):
            if file:
                by_name[without_ending(Path(file).name)].add(case_id)
    return by_name


def _matches(name: str, by_name: Mapping[str, set[str]], cases: Mapping[str, Case]) -> set[str]:
    if name in by_name:
        return by_name[name]
    ids = [name[: match.start()] for match in re.finditer(r"[-_.|]", name)]
    return set([case for case in ids if case in cases][-1:])  # the longest: sub-1_2 is not sub-1


def _tell(path: Path, cases: Mapping[str, Case], named: set[str], unmatched: list[str]) -> None:
    if not named:
        raise InputError(
            path,
            found=f"{len(unmatched)} entries such as {listed(unmatched, 1)}, none of which is a case of the dataset",
            expected=f"file names of the dataset's images, such as those of {listed(cases, 1)}",
        )
    if unmatched:
        log.warning("%s: %d entries match no case: %s", path.name, len(unmatched), listed(unmatched, 5))
    if unnamed := [case for case in cases if case not in named]:
        log.warning("%s: %d cases are in no list: %s", path.name, len(unnamed), listed(unnamed, 5))
