"""The key of a prepared dataset and of its splits: what changes them, what does not, and files that were touched."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pytest

from mvp_bench.config.marks import DECIDED
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import BLOCK, card_facts, dataset_key, load_block, load_splits
from mvp_bench.datasets.schema import Card, Case, DatasetBlock
from mvp_bench.errors import InputError
from mvp_bench.identity import outside
from mvp_bench.io import read_json
from mvp_bench.workspace import Workspace
from tests.datasets.releases import brats_release, shipped
from tests.toy import toy_card, toy_dataset, write_prepared

CARD_CHANGES: dict[str, Any] = {
    "id": 902,
    "name": "Other",
    "kind": "pretraining",
    "modalities": ["flair", "t1"],
    "labels": {"background": 0, "core": 1, "edge": 2},
    "regions": {"whole": [1, 2], "core": [2]},
    "classes": ["a", "b"],
    "patient_space": "elsewhere",
}
"""Field of a card -> another value, for all fields that are in the key."""
CASE_CHANGES: dict[str, Any] = {"patient": "other", "session": "2", "site": "B", "class_name": "large"}
BLOCK_CHANGES: dict[str, Any] = {
    "source": "real",
    "kind": "pretraining",
    "modalities": ["flair", "t1"],
    "labels": {"background": 0, "core": 1, "edge": 2},
    "regions": {"core": [1], "whole": [1, 2]},
    "classes": ["a", "b"],
    "data_hash": "other voxels",
    "phantom": "key of a phantom",
}
NOT_IN_THE_KEY = {"card_id", "card_name", "release", "excluded", "repairs", "code_version", "provenance", "key"}
"""Fields of the block: names (the card has them), places, texts, and the key."""


@pytest.fixture
def block(workspace: Workspace) -> DatasetBlock:
    toy_dataset(workspace, toy_card())
    return load_block(workspace, toy_card())


def test_every_field_of_a_card_is_in_the_key_or_bears_a_mark(block: DatasetBlock) -> None:
    hints = typing.get_type_hints(Card, include_extras=True)
    unmarked = {name for name in Card.model_fields if outside(hints[name]) is None}
    assert unmarked == set(CARD_CHANGES)
    card = toy_card()
    for name, value in CARD_CHANGES.items():
        changed = block.model_copy(update={"card": card_facts(card.model_copy(update={name: value}))})
        assert dataset_key(changed) != block.key, name
    decided = {name for name in Card.model_fields if outside(hints[name]) == DECIDED}
    assert decided == {"split", "converter", "converter_options"} <= card_facts(card).keys()
    other = card.model_copy(update={"converter": "table", "title": "other", "metrics": ["iou"]})
    assert dataset_key(block.model_copy(update={"card": card_facts(other)})) == block.key


def test_every_fact_of_a_case_is_in_the_key(block: DatasetBlock) -> None:
    assert {*Case.model_fields} == {*CASE_CHANGES, "images", "label"}
    first = block.cases["case00"]
    changes = [{name: value} for name, value in CASE_CHANGES.items()] + [{"images": {**first.images, "flair": None}}]
    for change in changes:
        cases = {**block.cases, "case00": first.model_copy(update=change)}
        assert dataset_key(block.model_copy(update={"cases": cases})) != block.key, change
    moved = first.model_copy(update={"images": {m: f"/elsewhere/{m}.nii" for m in first.images}, "label": "/x.nii"})
    assert dataset_key(block.model_copy(update={"cases": {**block.cases, "case00": moved}})) == block.key
    fewer = {name: case for name, case in block.cases.items() if name != "case00"}
    assert dataset_key(block.model_copy(update={"cases": fewer})) != block.key


def test_every_field_of_the_block_is_in_the_key_or_on_the_list(block: DatasetBlock) -> None:
    assert {*DatasetBlock.model_fields} == {*BLOCK_CHANGES, *NOT_IN_THE_KEY, "cases", "card"}
    for name, value in BLOCK_CHANGES.items():
        assert dataset_key(block.model_copy(update={name: value})) != block.key, name
    assert dataset_key(block.model_copy(update={"release": "elsewhere", "code_version": "later"})) == block.key


def test_the_splits_key_follows_content_and_dataset(workspace: Workspace, block: DatasetBlock) -> None:
    card, folder = toy_card(), workspace.dataset(toy_card().dataset_name)
    splits = load_splits(workspace, card)
    write_prepared(folder, card, block, splits.model_copy(update={"seed": 1}))
    reseeded = load_splits(workspace, card)
    write_prepared(folder, card, block.model_copy(update={"data_hash": "other"}), splits)
    assert len({splits.key, reseeded.key, load_splits(workspace, card).key}) == 3


def test_splits_of_another_preparation(workspace: Workspace, block: DatasetBlock) -> None:
    path = workspace.dataset(toy_card().dataset_name) / "splits.json"
    before = path.read_text()
    toy_dataset(workspace, toy_card(), seed=1)
    path.write_text(before)
    with pytest.raises(InputError, match=r"splits\.json: found splits of another preparation.*again"):
        load_splits(workspace, toy_card())
    path.unlink()
    with pytest.raises(InputError, match=r"splits\.json: found no such file.*again"):
        load_splits(workspace, toy_card())


def test_files_of_an_older_format(workspace: Workspace, tmp_path: Path) -> None:
    card, source = shipped(501), brats_release(tmp_path)
    block = prepare_dataset(workspace, card, source=source)
    folder = workspace.dataset(card.dataset_name)
    content = read_json(folder / "dataset.json")
    del content["checksum"], content[BLOCK]["key"]
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"dataset\.json: found a file of an older format.*mvp_prepare -d 501"):
        load_block(workspace, card)
    assert prepare_dataset(workspace, card) == block, "from the release that the old file names"
    assert load_block(workspace, card) == block


@pytest.mark.parametrize("file", ["dataset.json", "splits.json", "integrity.json"])
def test_an_edited_field_is_seen(workspace: Workspace, tmp_path: Path, file: str) -> None:
    card = shipped(501)
    prepare_dataset(workspace, card, source=brats_release(tmp_path))
    path = workspace.dataset(card.dataset_name) / file
    path.write_text(path.read_text().replace("BraTS-PED-00001", "BraTS-PED-00009", 1))
    load = {"dataset.json": load_block, "splits.json": load_splits, "integrity.json": load_integrity}[file]
    with pytest.raises(InputError, match=rf"{file}: found content that is not what was written.*again"):
        load(workspace, card)


def test_the_key_is_that_of_content_not_of_names_and_packing(tmp_path: Path) -> None:
    import gzip

    keys = []
    source = brats_release(tmp_path)
    for number in range(2):
        workspace = Workspace(tmp_path / str(number)).open()
        keys.append(prepare_dataset(workspace, shipped(501), source=source).key)
        image = source / "BraTS-PED-00001-000" / "BraTS-PED-00001-000-t1n.nii.gz"
        image.write_bytes(gzip.compress(gzip.decompress(image.read_bytes()), compresslevel=1, mtime=1))
    assert keys[0] == keys[1]
