"""What a preparation is made from; two equal requests give the same result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from mvp_bench.config.groups import PhantomConfig, PreparationConfig
from mvp_bench.datasets.prepared import (
    BLOCK,
    RELEASE,
    again,
    card_facts,
    dataset_json_path,
    is_prepared,
    load_block,
)
from mvp_bench.datasets.schema import Card, DatasetBlock
from mvp_bench.datasets.splits import SPLIT_FILES
from mvp_bench.errors import InputError
from mvp_bench.identity import hash_file, hash_of
from mvp_bench.io import read_json
from mvp_bench.workspace import Workspace

PHANTOM = "phantom"
"""Folder of the phantom release in the dataset's folder."""
_REAL_ONLY = ("official", "file")
"""Split schemes that name real patients."""


@dataclass(frozen=True)
class Request:
    """A preparation.

    Attributes:
        release: absolute path of a real release.
        card: hash of the card's fields on which the preparation depends, and of its split file.
    """

    source: Literal["real", "phantom"]
    release: str
    phantom: PhantomConfig | None
    seed: int
    card: str
    preparation: PreparationConfig

    def as_json(self) -> dict[str, Any]:
        """As it stands in dataset.json."""
        return json.loads(json.dumps(asdict(self)))

    def effective(self, card: Card) -> Card:
        """The card with the split rule that is asked for. A phantom's patients are in no official list, so it is
        divided by ratio instead."""
        scheme = card.split.scheme if self.preparation.split == "card" else self.preparation.split
        changes: dict[str, Any] = {"scheme": scheme}
        if self.source == "phantom" and scheme in _REAL_ONLY:
            changes["scheme"] = "ratio"
        if self.preparation.split == "k_fold":
            changes["k"] = self.preparation.k
        return card.model_copy(update={"split": card.split.model_copy(update=changes)})


def make_request(
    workspace: Workspace,
    card: Card,
    earlier: Request | None,
    *,
    source: Path | None,
    phantom: PhantomConfig | None,
    seed: int,
    preparation: PreparationConfig | None,
) -> Request | None:
    """What is asked for.

    Args:
        earlier: what the dataset was prepared as, if it was.
        source: None: ``release`` in the dataset's folder; where there is none, what it was prepared from.
        preparation: None: what it was prepared with, else the defaults.

    Returns:
        None if no release is named, none lies in the workspace, and it was not prepared before.
    """
    card_hash = hash_of_card(workspace, card)
    how = preparation or (earlier.preparation if earlier else PreparationConfig())
    if phantom:
        return Request("phantom", PHANTOM, phantom, seed, card_hash, how)
    if source is None and release_folder(workspace, card).is_dir():
        source = release_folder(workspace, card)
    if source is not None:
        return Request("real", str(source.resolve()), None, seed, card_hash, how)
    return replace(earlier, card=card_hash, preparation=how) if earlier else None


def hash_of_card(workspace: Workspace, card: Card) -> str:
    """Over all that matters in a card, the content of its split file included."""
    file = workspace.datasets / SPLIT_FILES / (card.split.file or "")
    content = hash_file(file) if file.is_file() else ""
    return hash_of([card_facts(card), content])


@dataclass(frozen=True)
class Before:
    """What a dataset was prepared as.

    Attributes:
        block: None if it was not prepared, or if its dataset.json cannot be used any more.
        request: None if it was not prepared, or by another version with other settings.
        source: ``real`` or ``phantom``; None if it was not prepared.
        fault: why its dataset.json cannot be used.
    """

    block: DatasetBlock | None = None
    request: Request | None = None
    source: str | None = None
    fault: InputError | None = None


def prepared_before(workspace: Workspace, card: Card) -> Before:
    """What the dataset was prepared as; of a dataset.json that cannot be used, what can still be read in it."""
    if not is_prepared(workspace, card):
        return Before()
    try:
        block = load_block(workspace, card)
    except InputError as error:
        source, request = _remains(dataset_json_path(workspace, card))
        return Before(None, request, source, error)
    return Before(block, _request(block.provenance.get("request")), block.source)


def card_changed(workspace: Workspace, card: Card, block: DatasetBlock) -> None:
    """Make sure that a dataset was prepared with the card as it is now.

    Raises:
        InputError: naming the fields of the card, or the split file, that were edited since.
    """
    if fields := changed_fields(workspace, card, block):
        raise InputError(
            f"card {card.dataset_name}",
            found=f"another {', '.join(fields)} than the dataset was prepared with",
            expected="the card that it was prepared with",
            fix=again(card),
        )


def changed_fields(workspace: Workspace, card: Card, block: DatasetBlock) -> list[str]:
    """Fields of the card that are not what the dataset was prepared with; texts for people do not count."""
    now, before = json.loads(json.dumps(card_facts(card))), block.card
    fields = [name for name in now if json.dumps(now[name]) != json.dumps(before.get(name))]  # order counts
    request = _request(block.provenance.get("request"))
    if not fields and request and request.card != hash_of_card(workspace, card):
        return ["content of split.file"]
    return fields


def _remains(path: Path) -> tuple[str | None, Request | None]:
    """Source and request of a damaged dataset.json, or of one of an older format."""
    try:
        block = read_json(path)[BLOCK]
        return str(block["source"]), _request(block["provenance"]["request"])
    except (InputError, LookupError, TypeError):
        return None, None


def _request(stored: Any) -> Request | None:
    try:
        return TypeAdapter(Request).validate_python(stored)
    except ValidationError:
        return None


def release_folder(workspace: Workspace, card: Card) -> Path:
    """Where a release (or a link to it) is looked for without ``--source``."""
    return workspace.dataset(card.dataset_name) / RELEASE
