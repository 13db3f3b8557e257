"""Reading what ``mvp_prepare`` wrote: the cases and the splits of a prepared dataset."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from mvp_bench.datasets.catalog import field_error
from mvp_bench.datasets.schema import Card, DatasetBlock, Splits
from mvp_bench.errors import InputError
from mvp_bench.identity import hash_of, key_of
from mvp_bench.io import read_json
from mvp_bench.workspace import Workspace

BLOCK = "mvp_bench"
"""Key of our block in dataset.json."""
RELEASE = "release"
"""Name of the folder (or link) in a dataset's folder where a release is looked for without ``--source``."""


def dataset_json_path(workspace: Workspace, card: Card) -> Path:
    """``<root>/datasets/DatasetNNN_Name/dataset.json``; its presence means prepared (it is written last)."""
    return workspace.dataset(card.dataset_name) / "dataset.json"


def is_prepared(workspace: Workspace, card: Card) -> bool:
    """Whether dataset.json is there."""
    return dataset_json_path(workspace, card).is_file()


def load_block(workspace: Workspace, card: Card) -> DatasetBlock:
    """The ``mvp_bench`` block of a prepared dataset.

    Raises:
        InputError: if the dataset is not prepared, or its dataset.json is not ours.
    """
    path = dataset_json_path(workspace, card)
    if not path.is_file():
        raise not_prepared(workspace, card)
    content = read_json(path)
    if not isinstance(content, dict) or BLOCK not in content:
        raise InputError(
            path,
            found=f"no block {BLOCK!r}",
            expected="a file written by mvp_prepare",
            fix="Prepare the dataset again.",
        )
    try:
        block = DatasetBlock.model_validate(content[BLOCK])
    except ValidationError as error:
        raise field_error(path, error) from error
    return block.model_copy(update={"key": dataset_key(block)})


def dataset_key(block: DatasetBlock) -> str:
    """Key of a prepared dataset: of its files' contents, and of all that is known of its cases.

    Where the files lie does not count, nor what was left out or mended: that shows in the contents.
    """
    cases = {
        name: {**case.model_dump(mode="json", exclude={"images", "label"}), "present": case.modalities}
        for name, case in block.cases.items()
    }
    facts = {"kind", "source", "modalities", "regions", "classes", "card_id"}
    return key_of(
        "prepare", {"cases": cases, **block.model_dump(mode="json", include=facts)}, {"data": block.data_hash}
    )


def load_splits(workspace: Workspace, card: Card) -> Splits:
    """splits.json of a prepared dataset, checked: every patient is in one part only, and the hash is that of the file.

    Raises:
        InputError: if the dataset is not prepared, or the file breaks a rule.
    """
    if not is_prepared(workspace, card):
        raise not_prepared(workspace, card)
    path = workspace.dataset(card.dataset_name) / "splits.json"
    content = read_json(path)
    try:
        splits = Splits.model_validate(content)
    except ValidationError as error:
        raise field_error(path, error) from error
    if splits.hash and splits.hash != splits_hash(splits):
        raise InputError(
            f"{path}: field hash",
            found=f"{splits.hash[:12]}..., but the content's is {splits_hash(splits)[:12]}...: it was changed by hand",
            expected="a file as mvp_prepare wrote it",
            fix="Name your own lists in split.official or split.file of a card, and prepare the dataset again.",
        )
    return splits


def splits_hash(splits: Splits) -> str:
    """SHA-256 (hex) of the splits' content, the stored hash left out."""
    return hash_of(splits.model_dump(mode="json", exclude={"hash"}))


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
