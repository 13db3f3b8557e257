"""Splits: patients whole, fractions kept, deterministic, every class on both sides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.datasets.prepared import splits_hash
from mvp_bench.datasets.schema import Card, Case, Fold, Splits
from mvp_bench.datasets.splits import PARTS, apportion, make_splits, training_part
from mvp_bench.errors import InputError


def card(kind: str = "classification", classes: int = 2, **split: object) -> Card:
    return Card.model_validate(
        {
            "id": 700,
            "name": "Mine",
            "title": "mine",
            "kind": kind,
            "modalities": ["t1"],
            "classes": [f"k{i}" for i in range(classes)] if kind == "classification" else [],
            "labels": {"background": 0, "lesion": 1},
            "regions": {"lesion": [1]},
            **{name: "none" for name in ("patient_rule", "licence", "access", "url", "citation", "converter")},
            "split": split,
        }
    )


def cohort(classes: list[int], visits: list[int] | None = None) -> dict[str, Case]:
    result = {}
    for number, index in enumerate(classes):
        for visit in range((visits or [1] * len(classes))[number]):
            result[f"c{number:04d}_{visit}"] = Case.model_validate(
                {"patient": f"p{number:04d}", "images": {"t1": "x"}, "class": f"k{index}"}
            )
    return result


def parts(fold: Fold, splits: Splits) -> dict[str, set[str]]:
    return {part: {splits.patients[case] for case in getattr(fold, part)} for part in PARTS}


@settings(max_examples=60, deadline=None)
@given(
    classes=st.lists(st.integers(0, 2), min_size=7, max_size=150).filter(
        lambda c: min(Counter(c).get(i, 0) for i in range(3)) >= 2
    ),
    seed=st.integers(0, 2**31),
    data=st.data(),
)
def test_ratio_by_class(classes: list[int], seed: int, data: st.DataObject) -> None:
    visits = data.draw(st.lists(st.integers(1, 3), min_size=len(classes), max_size=len(classes)))
    cases = cohort(classes, visits)
    splits = make_splits(cases, card(classes=3, stratify="class"), seed, {})
    fold = splits.folds[0]
    found = parts(fold, splits)
    assert sorted(fold.train + fold.val + fold.test) == sorted(cases)
    assert not (found["train"] & found["test"] or found["train"] & found["val"] or found["val"] & found["test"])
    for part, share in zip(PARTS, (0.6, 0.1, 0.3), strict=True):
        assert abs(len(found[part]) - share * len(classes)) <= 3
        assert found[part]
    for part in ("train", "test"):
        assert {cases[case].class_name for case in getattr(fold, part)} == {"k0", "k1", "k2"}
    for index, count in Counter(classes).items():
        in_test = sum(
            cases[case].class_name == f"k{index}"
            for case in {p: c for c, p in splits.patients.items() if c in fold.test}.values()
        )
        assert abs(in_test - 0.3 * count) <= 2
    assert splits == make_splits(cases, card(classes=3, stratify="class"), seed, {})


@settings(max_examples=60, deadline=None)
@given(count=st.integers(3, 300), seed=st.integers(0, 2**31))
def test_ratio_by_lesion_volume(count: int, seed: int) -> None:
    volumes = np.random.default_rng(seed).lognormal(2, 1.5, count)
    cases = cohort([0] * count)
    lesion_ml = dict(zip(sorted(cases), volumes, strict=True))
    splits = make_splits(cases, card("segmentation", stratify="lesion_volume"), seed, lesion_ml)
    found = parts(splits.folds[0], splits)
    for part, share in zip(PARTS, (0.6, 0.1, 0.3), strict=True):
        assert found[part] and abs(len(found[part]) - share * count) <= 1.5
    if count >= 40:  # every quarter of the volumes is in train and in test in proportion
        ranks = {f"p{int(c[1:5]):04d}": r for r, c in enumerate(sorted(lesion_ml, key=lambda c: lesion_ml[c]))}
        for quarter in range(4):
            size = sum(rank * 4 // count == quarter for rank in ranks.values())
            in_test = sum(ranks[p] * 4 // count == quarter for p in found["test"])
            assert abs(in_test - 0.3 * size) <= 1.5


@pytest.mark.parametrize(
    ("count", "expected"), [(3, (1, 1, 1)), (5, (3, 1, 1)), (10, (6, 1, 3)), (20, (12, 2, 6)), (100, (60, 10, 30))]
)
def test_exact_counts(count: int, expected: tuple[int, ...]) -> None:
    splits = make_splits(cohort([0] * count), card("segmentation"), 0, {})
    fold = splits.folds[0]
    assert (len(fold.train), len(fold.val), len(fold.test)) == expected


@settings(max_examples=200, deadline=None)
@given(
    count=st.integers(0, 100),
    weights=st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9)),
    minimum=st.tuples(*[st.integers(0, 2)] * 3),
)
def test_apportion_adds_up(count: int, weights: tuple, minimum: tuple) -> None:
    ratio = np.array(weights) / sum(weights)
    result = apportion(count, ratio, np.zeros(3), np.array(minimum))
    assert result.sum() == count and (result >= 0).all()
    if count >= sum(minimum):
        assert (result >= minimum).all()
    if not any(minimum):
        assert (np.abs(result - count * ratio) < 1).all()


def test_seed_changes_the_split() -> None:
    cases = cohort([0, 1] * 20)
    hashes = {splits_hash(make_splits(cases, card(stratify="class"), seed, {})) for seed in range(5)}
    assert len(hashes) == 5


def test_all_in_train() -> None:
    splits = make_splits(cohort([0] * 4), card("pretraining", ratio=(1, 0, 0)), 0, {})
    assert len(splits.folds[0].train) == 4 and not splits.folds[0].val and not splits.folds[0].test
    assert len(make_splits(cohort([0]), card("pretraining", ratio=(1, 0, 0)), 0, {}).folds[0].train) == 1


@pytest.mark.parametrize("count", [2, 4, 7])
def test_leave_one_out(count: int) -> None:
    cases = cohort([0] * count, [2] * count)
    splits = make_splits(cases, card("segmentation", scheme="leave_one_out"), 0, {})
    assert len(splits.folds) == count
    assert [len(fold.test) for fold in splits.folds] == [2] * count
    assert all(len(fold.train) == 2 * (count - 1) and not fold.val for fold in splits.folds)
    assert sorted(case for fold in splits.folds for case in fold.test) == sorted(cases)


def test_k_fold_is_stratified() -> None:
    cases = cohort([0] * 15 + [1] * 5)
    splits = make_splits(cases, card(scheme="k_fold", k=5, stratify="class"), 3, {})
    assert sorted(case for fold in splits.folds for case in fold.test) == sorted(cases)
    for fold in splits.folds:
        assert Counter(cases[case].class_name for case in fold.test) == {"k0": 3, "k1": 1}
    assert splits == make_splits(cases, card(scheme="k_fold", k=5, stratify="class"), 3, {})


def test_k_fold_with_a_rare_class() -> None:
    splits = make_splits(cohort([0] * 9 + [1]), card(scheme="k_fold", k=5, stratify="class"), 3, {})
    assert [len(fold.test) for fold in splits.folds] == [2] * 5


def test_official() -> None:
    lists = {"train": ["p0002", "p0000"], "val": [], "test": ["p0001", "p0009"]}
    splits = make_splits(cohort([0] * 3), card("segmentation", scheme="official", official=lists), 0, {})
    fold = splits.folds[0]
    assert (fold.train, fold.val, fold.test) == (["c0000_0", "c0002_0"], [], ["c0001_0"])


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["p0000", "p0001"], "test": ["p0001", "p0002"]}, "p0001 in train and in test"),
        ({"train": ["p0000"], "test": ["p0001"]}, "p0002"),
        ({"train": ["p0000", "p0001", "p0002"], "test": ["p0003"]}, "no patient of test"),
    ],
)
def test_wrong_official_lists(lists: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_splits(cohort([0] * 3), card("segmentation", scheme="official", official=lists), 0, {})


@settings(max_examples=40, deadline=None)
@given(
    classes=st.lists(st.integers(0, 2), min_size=12, max_size=200).filter(
        lambda c: min(Counter(c).get(i, 0) for i in range(3)) >= 2
    ),
    seed=st.integers(0, 2**31),
)
def test_label_fractions_are_nested_and_stratified(classes: list[int], seed: int) -> None:
    cases = cohort(classes, [1 + i % 3 for i in range(len(classes))])
    splits = make_splits(cases, card(classes=3, stratify="class"), seed, {})
    fold = splits.folds[0]
    previous: set[str] = set()
    for fraction in (0.05, 0.1, 0.2, 0.5, 1.0):
        part = training_part(fold, splits.patients, fraction, minimum=3)
        chosen = {splits.patients[case] for case in part}
        assert previous <= chosen, "a smaller fraction lies in a larger one"
        assert set(part) == {case for case in fold.train if splits.patients[case] in chosen}, "patients are whole"
        assert len(chosen) == max(3, round(fraction * len(fold.order)))
        found = Counter(classes[int(patient[1:])] for patient in chosen)
        whole = Counter(classes[int(patient[1:])] for patient in fold.order)
        assert set(found) == {0, 1, 2}
        assert all(abs(found[i] - whole[i] * len(chosen) / len(fold.order)) <= 2 for i in whole)
        previous = chosen
    assert previous == set(fold.order)


def test_a_fraction_needs_the_stored_order() -> None:
    with pytest.raises(InputError, match="no order"):
        training_part(Fold(train=["a"], val=[], test=[]), {"a": "p"}, 0.5)


def test_the_stored_hash_is_the_contents() -> None:
    splits = make_splits(cohort([0, 1] * 10), card(stratify="class"), 0, {})
    assert splits.hash == splits_hash(splits) == splits_hash(splits.model_copy(update={"hash": ""}))
    assert splits_hash(splits.model_copy(update={"seed": 1})) != splits.hash


@pytest.mark.parametrize(
    ("classes", "split", "message"),
    [
        ([0, 1], {}, "2 patients.*at least 3"),
        ([0], {"scheme": "leave_one_out"}, "1 patient;.*at least 2"),
        ([0, 1, 0], {"scheme": "k_fold", "k": 5}, "at least 5"),
        ([0] * 20 + [1], {"stratify": "class"}, "class k1.*1 patient;.*at least 2"),
        ([0, 0, 1, 1], {"stratify": "class"}, "4 patients.*at least 5"),
        ([0] * 20, {"stratify": "class"}, "class k1.*0 patients"),
        ([0] * 20, {"ratio": (0, 1, 1)}, "ratio"),
    ],
)
def test_too_few_patients(classes: list[int], split: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_splits(cohort(classes, [4] * len(classes)), card(**split), 0, {})


def test_a_patient_in_two_parts_is_refused_by_the_file() -> None:
    with pytest.raises(ValueError, match="patient p is in train and in test"):
        Splits(
            scheme="ratio",
            seed=0,
            stratify="none",
            patients={"a": "p", "b": "p"},
            folds=[Fold(train=["a"], val=[], test=["b"])],
        )
