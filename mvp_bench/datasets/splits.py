"""Train, validation and test parts, and nested parts of train: seeded, stratified, and never through a patient.

Counts of a stratum follow the ratio up to rounding; what rounding takes from one stratum is given back in the next, so
that the whole follows the ratio too. In classification every class gets a patient in train and in test.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mvp_bench.datasets.prepared import splits_hash
from mvp_bench.datasets.schema import Card, Case, Fold, Splits
from mvp_bench.datasets.split_file import read_split_file
from mvp_bench.errors import InputError

SPLIT_FILES = "splits"
"""Folder in ``datasets/`` for split files."""
VOLUME_BINS = 4
"""Quantile bins for stratifying by lesion volume, where there are patients enough."""
PATIENTS_PER_BIN = 5
"""Fewest patients of a volume bin."""
PARTS = ("train", "val", "test")


def make_splits(
    cases: Mapping[str, Case], card: Card, seed: int, lesion_ml: Mapping[str, float], root: Path | None = None
) -> Splits:
    """Divide the cases as the card says.

    Args:
        root: workspace in whose ``datasets/splits/`` a split file is looked for (default: the current folder).
        lesion_ml: case -> labelled volume in millilitres (used for ``stratify: lesion_volume`` only).

    Raises:
        InputError: if there are fewer patients than the parts, or a class, need; if official lists name a patient
            twice or leave one out.
    """
    of_patient: dict[str, list[str]] = defaultdict(list)
    for case_id in sorted(cases):
        of_patient[cases[case_id].patient].append(case_id)
    patients = sorted(of_patient)
    rule = card.split
    strata = _strata(patients, of_patient, cases, card, lesion_ml)
    needed = ("train",) if card.kind == "pretraining" else ("train", "test")
    if rule.scheme == "official":
        folds = [_listed(patients, rule.official or {}, f"card {card.dataset_name}, split.official", needed)]
    elif rule.scheme == "file":
        path = (root or Path()) / "datasets" / SPLIT_FILES / str(rule.file)
        folds = [_listed(patients, read_split_file(path, cases), path, needed)]
    elif rule.scheme == "leave_one_out":
        _at_least(2, patients, card, "leave_one_out needs a patient to train on")
        folds = [_fold(patients, {patient: "test"}) for patient in patients]
    elif rule.scheme == "k_fold":
        folds = _k_fold(patients, strata, card, seed)
    else:
        folds = [_ratio(patients, strata, card, seed)]
    splits = Splits(
        scheme=rule.scheme,
        seed=seed,
        stratify=rule.stratify,
        patients={case_id: cases[case_id].patient for case_id in sorted(cases)},
        folds=[
            Fold(
                **{part: [case for patient in fold[part] for case in of_patient[patient]] for part in PARTS},
                order=nested_order(fold["train"], strata, np.random.default_rng([seed, card.id, index])),
            )
            for index, fold in enumerate(folds)
        ],
    )
    return splits.model_copy(update={"hash": splits_hash(splits)})


def nested_order(patients: Sequence[str], strata: Mapping[str, int], rng: np.random.Generator) -> list[str]:
    """Patients in an order every beginning of which is stratified: one of each stratum first (the smallest stratum
    before the others), then each stratum spread evenly over the rest."""
    groups: dict[int, list[str]] = defaultdict(list)
    for patient in sorted(patients):
        groups[strata[patient]].append(patient)
    shuffled = {s: [members[i] for i in rng.permutation(len(members))] for s, members in groups.items()}
    by_size = sorted(shuffled, key=lambda s: (len(shuffled[s]), s))
    rest = [
        ((i + 0.5) / (len(shuffled[s]) - 1), rank, patient)
        for rank, s in enumerate(by_size)
        for i, patient in enumerate(shuffled[s][1:])
    ]
    return [shuffled[s][0] for s in by_size] + [patient for *_, patient in sorted(rest)]


def training_part(fold: Fold, patients: Mapping[str, str], fraction: float, minimum: int = 1) -> list[str]:
    """The training cases of a label fraction: those of the first patients of ``fold.order``. A smaller fraction's
    cases are among a larger one's.

    Args:
        patients: case -> patient.
        fraction: of the training patients, above 0 and at most 1; rounded to whole patients.
        minimum: fewest patients (one per class, in classification).

    Raises:
        InputError: if splits.json holds no order.
    """
    if fraction == 1:
        return list(fold.train)
    if not fold.order:
        raise InputError("splits.json", found="no order of the training patients", expected="one", fix="Prepare again.")
    count = min(len(fold.order), max(minimum, round(fraction * len(fold.order))))
    chosen = set(fold.order[:count])
    return [case for case in fold.train if patients[case] in chosen]


def apportion(
    count: int, ratio: Sequence[float], carry: NDArray[np.float64], minimum: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Whole numbers that add up to ``count``, as near to ``count * ratio + carry`` as they can be.

    Largest remainders; parts that would fall below ``minimum`` are raised to it first, as far as ``count`` goes, in
    the order train, test, validation.

    Args:
        ratio: fractions that add up to 1.
        carry: what earlier strata owe each part.
    """
    quotas = count * np.asarray(ratio, dtype=float) + carry
    result = np.zeros(len(quotas), dtype=np.int64)
    for part in (0, 2, 1):
        result[part] = min(int(minimum[part]), count - int(result.sum()))
    while result.sum() < count:
        result[int(np.argmax(quotas - result))] += 1
    return result


Parts = dict[str, list[str]]


def _ratio(patients: list[str], strata: Mapping[str, int], card: Card, seed: int) -> Parts:
    ratio = np.asarray(card.split.ratio, dtype=float)
    if ratio.min() < 0 or ratio[0] <= 0:
        raise InputError(
            f"card {card.dataset_name}, split.ratio",
            found=list(ratio),
            expected="positive numbers (0 for an unused part)",
        )
    used = (ratio > 0).astype(int)
    _at_least(int(used.sum()), patients, card, "the split needs one patient in each part")
    by_class = card.kind == "classification" and card.split.stratify == "class"
    if by_class:
        _at_least_per_class(int(used[0] + used[2]), strata, card)
        in_all = len(card.classes) * int(used[0] + used[2]) + int(used[1])
        _at_least(in_all, patients, card, "every class needs a patient to train on and one to test on")
    rng = np.random.default_rng([seed, card.id])
    groups: dict[int, list[str]] = defaultdict(list)
    for patient in patients:
        groups[strata[patient]].append(patient)
    carry = np.zeros(3)
    part_of: dict[str, str] = {}
    still_needed = used.copy()
    for stratum in sorted(groups, key=lambda s: (len(groups[s]), s)):
        members = [groups[stratum][i] for i in rng.permutation(len(groups[stratum]))]
        minimum = used * [1, 0, 1] if by_class else np.zeros(3, dtype=int)
        if stratum == max(groups, key=lambda s: (len(groups[s]), s)):  # the last one makes up for empty parts
            minimum = np.maximum(minimum, still_needed)
        counts = apportion(len(members), ratio / ratio.sum(), carry, minimum)
        carry = len(members) * ratio / ratio.sum() + carry - counts
        still_needed = still_needed * (counts == 0)
        ends = np.cumsum(counts)
        for index, patient in enumerate(members):
            part_of[patient] = PARTS[int(np.searchsorted(ends, index, side="right"))]
    return _fold(patients, part_of, default="train")


def _k_fold(patients: list[str], strata: Mapping[str, int], card: Card, seed: int) -> list[Parts]:
    from sklearn.model_selection import KFold, StratifiedKFold  # slow to import, and used here only

    k = card.split.k
    _at_least(k, patients, card, f"k_fold with k = {k} needs a patient in each fold")
    labels = [strata[patient] for patient in patients]
    state = int(np.random.default_rng([seed, card.id]).integers(2**31))
    stratified = min(Counter(labels).values()) >= k
    divider = (StratifiedKFold if stratified else KFold)(n_splits=k, shuffle=True, random_state=state)
    return [_fold(patients, {patients[i]: "test" for i in test}) for _, test in divider.split(patients, labels)]


def _listed(patients: list[str], lists: Mapping[Any, Sequence[str]], where: object, needed: Sequence[str]) -> Parts:
    """The parts of lists of patients; lists may name patients that this copy of the release does not have."""
    part_of: dict[str, str] = {}
    for part in PARTS:
        for patient in lists.get(part, []):
            if part_of.setdefault(patient, part) != part:
                raise InputError(
                    where, found=f"patient {patient} in {part_of[patient]} and in {part}", expected="each patient once"
                )
    if unlisted := [patient for patient in patients if patient not in part_of]:
        raise InputError(
            where,
            found=f"{len(unlisted)} patients of the release in no list, such as {unlisted[0]}",
            expected="every patient in train, val or test",
            fix="Add them, name their cases in converter_options.exclude, or divide anew with --split ratio.",
        )
    fold = _fold(patients, part_of)
    for part in needed:
        if not fold[part]:
            raise InputError(
                where,
                found=f"no patient of {part} in the release",
                expected="at least one",
                fix="Complete the release, or divide it anew with --split ratio.",
            )
    return fold


def _fold(patients: Sequence[str], part_of: Mapping[str, str], default: str = "train") -> Parts:
    parts: Parts = {part: [] for part in PARTS}
    for patient in patients:
        parts[part_of.get(patient, default)].append(patient)
    return parts


def _strata(
    patients: list[str],
    of_patient: Mapping[str, list[str]],
    cases: Mapping[str, Case],
    card: Card,
    lesion_ml: Mapping[str, float],
) -> dict[str, int]:
    """Patient -> stratum: the class of most of the patient's cases, or the quantile bin of the mean lesion volume."""
    if card.split.stratify == "class":
        majority = {p: Counter(cases[c].class_name or "" for c in of_patient[p]).most_common(1)[0][0] for p in patients}
        order = [*card.classes, *sorted(set(majority.values()) - set(card.classes))]
        return {patient: order.index(name) for patient, name in majority.items()}
    bins = min(VOLUME_BINS, len(patients) // PATIENTS_PER_BIN)
    if card.split.stratify == "none" or bins < 2:
        return dict.fromkeys(patients, 0)
    volumes = np.array([np.mean([lesion_ml[c] for c in of_patient[p]]) for p in patients])
    ranks = np.argsort(
        np.argsort(volumes, kind="stable"), kind="stable"
    )  # bins by rank: equal volumes cannot empty one
    return {patient: int(rank * bins // len(patients)) for patient, rank in zip(patients, ranks, strict=True)}


def _at_least(needed: int, patients: Sequence[str], card: Card, why: str) -> None:
    if len(patients) < needed:
        raise InputError(
            f"dataset {card.dataset_name}",
            found=_patients(len(patients)),
            expected=f"at least {needed}: {why}",
            fix="Add patients, or choose another split in a card of your own.",
        )


def _at_least_per_class(needed: int, strata: Mapping[str, int], card: Card) -> None:
    counts = Counter(strata.values())
    for index, name in enumerate(card.classes):
        if counts[index] < needed:
            raise InputError(
                f"dataset {card.dataset_name}, class {name}",
                found=_patients(counts[index]),
                expected=f"at least {needed}: every class is trained on and tested",
                fix="Check that the release is complete, or choose another split in a card of your own.",
            )


def _patients(count: int) -> str:
    return f"{count} patient{'s' if count != 1 else ''}"
