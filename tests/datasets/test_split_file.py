"""BrainMVP's split JSON as a split source."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mvp_bench.datasets.schema import Card, Case
from mvp_bench.datasets.split_file import read_split_file
from mvp_bench.datasets.splits import make_splits
from mvp_bench.errors import InputError

from .releases import own_card

CASES = {
    "BraTS2021_00000": Case(
        patient="A", images={"t1": "/x/BraTS2021_00000_t1.nii", "flair": "images/BraTS2021_00000_flair.nii.gz"}
    ),
    "BraTS2021_00001": Case(patient="B", images={"t1": "/x/BraTS2021_00001_t1.nii", "flair": None}),
    "BraTS-GLI-00002-000": Case(patient="C", images={"t1": "/y/BraTS-GLI-00002-000-t1n.nii.gz"}),
    "BraTS-GLI-00002-001": Case(patient="C", images={"t1": "/y/BraTS-GLI-00002-001-t1n.nii.gz"}),
    "vs_1": Case(patient="D", images={"t1": "images/vs_1_t1.nii.gz"}, label="/z/m7_seg.nii.gz"),
}


def split(path: Path, **lists: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(lists))
    return path


def entry(*names: str, **more: str) -> dict[str, object]:
    return {"image": [f"some/folder/{name}" for name in names], **more}


def test_entries_are_matched_by_file_names(tmp_path: Path) -> None:
    """Other folders, endings, orders, missing modalities, renamed contrasts, and a mask alone."""
    path = split(
        tmp_path / "s.json",
        training=[
            entry("BraTS2021_00001_flair.nii.gz", "BraTS2021_00001_t1.nii.gz"),
            entry("BraTS-GLI-00002-001-t1ce.nii.gz"),
            entry("BraTS-GLI-00002-000-t1.nii.gz", "BraTS-GLI-00002-000-t1n.nii.gz"),
        ],
        test=[{"image": ["q/m7.nii.gz"], "label": "q/m7_seg.nii.gz"}, "r/BraTS2021_00000_flair.nii.gz"],
        name="not a list",
    )
    assert read_split_file(path, CASES) == {"train": ["B", "C"], "val": [], "test": ["D", "A"]}


def test_other_names_of_the_parts(tmp_path: Path) -> None:
    path = split(
        tmp_path / "s.json",
        train=[entry("vs_1_t1.nii.gz")],
        val=[entry("BraTS2021_00000_t1.nii.gz")],
        testing=[entry("BraTS2021_00001_t1.nii.gz")],
    )
    assert read_split_file(path, CASES) == {"train": ["D"], "val": ["A"], "test": ["B"]}


def test_an_id_within_another(tmp_path: Path) -> None:
    """The longest id counts: sub-1_2 is not sub-1."""
    cases = {name: Case(patient=name, images={"t1": f"images/{name}_t1.nii.gz"}) for name in ("sub-1", "sub-1_2")}
    path = split(tmp_path / "s.json", training=[entry("sub-1_2_T1w.nii.gz")], test=[entry("sub-1_T1w.nii.gz")])
    assert read_split_file(path, cases) == {"train": ["sub-1_2"], "val": [], "test": ["sub-1"]}


def test_entries_and_cases_without_partner_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = split(
        tmp_path / "s.json", training=[entry("vs_1_t1.nii.gz"), entry("unknown_t1.nii.gz"), entry("vs_12_t1.nii.gz")]
    )
    with caplog.at_level(logging.WARNING):
        assert read_split_file(path, CASES)["train"] == ["D"]
    assert "2 entries match no case: unknown_t1, vs_12_t1" in caplog.text
    assert "4 cases are in no list: BraTS2021_00000" in caplog.text


def test_a_patient_in_two_parts(tmp_path: Path) -> None:
    path = split(
        tmp_path / "s.json",
        training=[entry("BraTS-GLI-00002-000-t1n.nii.gz")],
        validation=[entry("BraTS-GLI-00002-001-t1n.nii.gz")],
    )
    with pytest.raises(InputError, match=r"validation\[0\]: found patient C in val \(.*-001\) and in train \(.*-000\)"):
        read_split_file(path, CASES)


def test_names_that_do_not_tell_cases_apart(tmp_path: Path) -> None:
    cases = {name: Case(patient=name, images={"t1": f"/x/{name}/T1.nii.gz"}) for name in ("p1", "p2")}
    path = split(tmp_path / "s.json", training=[entry("p1/T1.nii.gz")])
    with pytest.raises(InputError, match=r"training\[0\]: found files of p1 and p2: T1"):
        read_split_file(path, cases)
    path = split(tmp_path / "s.json", training=[entry("vs_1_t1.nii.gz", "BraTS2021_00000_t1.nii.gz")])
    with pytest.raises(InputError, match="found files of BraTS2021_00000 and vs_1"):
        read_split_file(path, CASES)


def test_a_shared_name_beside_one_that_decides(tmp_path: Path) -> None:
    cases = {name: Case(patient=name, images={"t1": f"/x/{name}/T1.nii.gz"}, label=f"{name}_seg.nii") for name in "ab"}
    path = split(tmp_path / "s.json", training=[{"image": ["T1.nii.gz"], "label": "b_seg.nii.gz"}])
    assert read_split_file(path, cases)["train"] == ["b"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected lists called training"),
        ({"a": []}, "expected lists called training"),
        ({"training": {}}, r"training: found dict"),
        ({"training": [{"label": None}]}, r"training\[0\]"),
        ({"training": [entry("q.nii.gz")]}, "found 1 entries such as q, none of which is a case"),
        ({"training": []}, "none of which is a case"),
    ],
)
def test_other_forms(tmp_path: Path, content: object, message: str) -> None:
    path = tmp_path / "s.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_split_file(path, CASES)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_split_file(tmp_path / "s.json", CASES)


def test_as_the_split_of_a_card(tmp_path: Path) -> None:
    content = {**own_card("table", "pretraining").model_dump(), "split": {"scheme": "file", "file": "s.json"}}
    card = Card.model_validate(content)
    lists = {
        "training": [entry("BraTS-GLI-00002-000-t1.nii.gz"), entry("vs_1_t1.nii.gz")],
        "test": [entry("BraTS2021_00001_t1.nii.gz"), entry("BraTS2021_00000_t1.nii.gz")],
    }
    split(tmp_path / "datasets" / "splits" / "s.json", **lists)
    (fold,) = make_splits(CASES, card, 0, {}, root=tmp_path).folds
    assert fold.train == ["BraTS-GLI-00002-000", "BraTS-GLI-00002-001", "vs_1"] and fold.val == []
    assert fold.test == ["BraTS2021_00000", "BraTS2021_00001"]
    split(tmp_path / "datasets" / "splits" / "s.json", training=lists["training"], validation=lists["test"])
    (fold,) = make_splits(CASES, card, 0, {}, root=tmp_path).folds  # as published: pre-training data have no test part
    assert fold.val == ["BraTS2021_00000", "BraTS2021_00001"] and fold.test == []
    split(tmp_path / "datasets" / "splits" / "s.json", training=lists["training"], test=lists["test"][:1])
    with pytest.raises(InputError, match="1 patients of the release in no list, such as A"):
        make_splits(CASES, card, 0, {}, root=tmp_path)
