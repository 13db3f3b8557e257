"""Reading what ``mvp_prepare`` wrote: the cases and the splits of a prepared dataset, verified by key and checksum."""

from __future__ import annotations

import typing
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mvp_bench.config.marks import DECIDED
from mvp_bench.datasets.catalog import field_error
from mvp_bench.datasets.schema import Card, DatasetBlock, Splits
from mvp_bench.errors import InputError
from mvp_bench.identity import counted, hash_of, key_of, outside
from mvp_bench.io import read_json
from mvp_bench.sealed import CHECKSUM, read_sealed
from mvp_bench.workspace import Workspace

BLOCK = "mvp_bench"
"""Key of our block in dataset.json."""
RELEASE = "release"
"""Name of the folder (or link) in a dataset's folder where a release is looked for without ``--source``."""
SPLITS = "splits.json"


def dataset_json_path(workspace: Workspace, card: Card) -> Path:
    """``<root>/datasets/DatasetNNN_Name/dataset.json``; its presence means prepared (it is written last)."""
    return workspace.dataset(card.dataset_name) / "dataset.json"


def is_prepared(workspace: Workspace, card: Card) -> bool:
    """Whether dataset.json is there."""
    return dataset_json_path(workspace, card).is_file()


def again(card: Card) -> str:
    """How a dataset is prepared anew, for messages."""
    return f"Prepare the dataset again: mvp_prepare -d {card.id}."


def load_block(workspace: Workspace, card: Card) -> DatasetBlock:
    """The ``mvp_bench`` block of a prepared dataset.

    Raises:
        InputError: if the dataset is not prepared, or its dataset.json is not ours, of an older format, or not as it
            was written.
    """
    path = dataset_json_path(workspace, card)
    if not path.is_file():
        raise not_prepared(workspace, card)
    return _read_block(path, _state(path), again(card))


@lru_cache(maxsize=64)
def _read_block(path: Path, state: tuple[int, ...], fix: str) -> DatasetBlock:
    """The block of a file in this state, verified once per process."""
    content = read_json(path)
    if not isinstance(content, dict) or BLOCK not in content:
        raise InputError(path, found=f"no block {BLOCK!r}", expected="a file written by mvp_prepare", fix=fix)
    if CHECKSUM not in content or "key" not in content[BLOCK]:
        raise older_format(path, fix)
    content = read_sealed(path, fix)
    try:
        block = DatasetBlock.model_validate(content[BLOCK])
    except ValidationError as error:
        raise field_error(path, error) from error
    if block.key != dataset_key(block):
        raise InputError(path, found="a key that is not that of its content", expected="a file as written", fix=fix)
    return block


def dataset_key(block: DatasetBlock) -> str:
    """Key of a prepared dataset: of the voxels, of all that is known of its cases, and of the card's facts.

    Where the files lie does not count, nor what was left out or mended: that shows in the voxels and in the cases.
    """
    cases = {
        name: {**case.model_dump(mode="json", exclude={"images", "label"}), "present": case.modalities}
        for name, case in block.cases.items()
    }
    facts = block.model_dump(mode="json", include={"kind", "source", "modalities", "labels", "classes"})
    regions = [[name, list(values)] for name, values in block.regions.items()]  # their order counts
    decided = _card_fields(DECIDED)
    card = {name: value for name, value in block.card.items() if name not in decided}
    settings = {"cases": cases, "regions": regions, "card": card, **facts}
    return key_of("prepare", settings, {"data": block.data_hash, "phantom": block.phantom})


def card_facts(card: Card) -> dict[str, Any]:
    """The fields of a card that a preparation looks at: those in the dataset's key, and those whose outcome is."""
    return {**counted(card), **card.model_dump(mode="json", include=set(_card_fields(DECIDED)))}


def _card_fields(mark: object) -> list[str]:
    hints = typing.get_type_hints(Card, include_extras=True)
    return [name for name in Card.model_fields if outside(hints[name]) == mark]


def load_splits(workspace: Workspace, card: Card) -> Splits:
    """splits.json of a prepared dataset, checked: every patient is in one part only, and it is as it was written.

    Raises:
        InputError: if the dataset is not prepared, or the file breaks a rule, is of an older format, was changed, or
            belongs to another preparation.
    """
    block = load_block(workspace, card)
    path = workspace.dataset(card.dataset_name) / SPLITS
    if not path.is_file():
        raise InputError(path, found="no such file", expected="the splits of the dataset beside it", fix=again(card))
    return _read_splits(path, _state(path), block.key, again(card))


@lru_cache(maxsize=64)
def _read_splits(path: Path, state: tuple[int, ...], dataset: str, fix: str) -> Splits:
    content = read_json(path)
    if isinstance(content, dict) and (CHECKSUM not in content or "key" not in content):
        raise older_format(path, fix)
    content = read_sealed(path, f"Name your own lists in split.official or split.file of a card. {fix}")
    del content[CHECKSUM]
    try:
        splits = Splits.model_validate(content)
    except ValidationError as error:
        raise field_error(path, error) from error
    if splits.key != splits_key(splits, dataset):
        raise InputError(path, found="splits of another preparation", expected="those of dataset.json", fix=fix)
    return splits


def splits_hash(splits: Splits) -> str:
    """SHA-256 (hex) of the splits' content alone."""
    return hash_of(splits.model_dump(mode="json", exclude={"hash", "key"}))


def splits_key(splits: Splits, dataset: str) -> str:
    """Key of splits: of their content and of the dataset's key."""
    return key_of("prepare", splits.model_dump(mode="json", exclude={"hash", "key"}), {"dataset": dataset})


def older_format(path: Path, fix: str) -> InputError:
    """The error for a file that an older version wrote: it does not say what it was made from."""
    return InputError(path, found="a file of an older format, without a key", expected="one with a key", fix=fix)


def not_prepared(workspace: Workspace, card: Card) -> InputError:
    """The error for a dataset that has not been prepared, with the ways to go on."""
    if card.members:
        members = ", ".join(str(member) for member in card.members)
        return InputError(
            f"dataset {card.id} {card.name}", found="a collection", expected=f"one of its members ({members})"
        )
    folder = workspace.dataset(card.dataset_name) / RELEASE
    return InputError(
        f"dataset {card.id} {card.name}",
        found="not prepared",
        expected=f"{dataset_json_path(workspace, card)}, which mvp_prepare writes",
        fix=f"Get the release ({card.url}; {card.access}), then mvp_prepare -d {card.id} --source FOLDER"
        f"{f' (FOLDER: {card.folder})' if card.folder else ''}, or link it as {folder}; "
        f"or make a synthetic cohort with mvp_prepare -d {card.id} --phantom.",
    )


def _state(path: Path) -> tuple[int, ...]:
    """What changes when a file is written anew."""
    status = path.stat()
    return (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
