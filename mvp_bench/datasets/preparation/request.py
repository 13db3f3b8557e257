"""What a preparation is made from; two equal requests give the same result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from mvp_bench.config.groups import PhantomConfig, PreparationConfig
from mvp_bench.datasets.prepared import RELEASE
from mvp_bench.datasets.schema import Card, DatasetBlock
from mvp_bench.datasets.splits import SPLIT_FILES
from mvp_bench.identity import hash_file, hash_of
from mvp_bench.workspace import Workspace

PHANTOM = "phantom"
"""Folder of the phantom release in the dataset's folder."""
DESCRIPTIVE = {"title", "patient_rule", "licence", "access", "url", "folder", "citation", "metrics", "traps", "paper"}
"""Fields of a card on which the preparation does not depend."""
_REAL_ONLY = ("official", "file")
"""Split schemes that name real patients."""


@dataclass(frozen=True)
class Request:
    """A preparation.

    Attributes:
        release: absolute path of a real release.
        card: hash of the card's fields on which the preparation depends.
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
    before: DatasetBlock | None,
    *,
    source: Path | None,
    phantom: PhantomConfig | None,
    seed: int,
    preparation: PreparationConfig | None,
) -> Request | None:
    """What is asked for.

    Args:
        before: what the dataset was prepared as, if it was.
        source: None: ``release`` in the dataset's folder; where there is none, what it was prepared from.
        preparation: None: what it was prepared with, else the defaults.

    Returns:
        None if no release is named, none lies in the workspace, and it was not prepared before.
    """
    earlier = stored_request(before) if before else None
    card_hash = _card_hash(workspace, card)
    how = preparation or (earlier.preparation if earlier else PreparationConfig())
    if phantom:
        return Request("phantom", PHANTOM, phantom, seed, card_hash, how)
    if source is None and release_folder(workspace, card).is_dir():
        source = release_folder(workspace, card)
    if source is not None:
        return Request("real", str(source.resolve()), None, seed, card_hash, how)
    return replace(earlier, preparation=how) if earlier else None


def _card_hash(workspace: Workspace, card: Card) -> str:
    """Over all that matters in a card, the content of its split file included."""
    file = workspace.datasets / SPLIT_FILES / (card.split.file or "")
    content = hash_file(file) if file.is_file() else ""
    return hash_of([card.model_dump(mode="json", exclude={*DESCRIPTIVE, "expected_cases"}), content])


def stored_request(block: DatasetBlock) -> Request | None:
    """The request a dataset was prepared with; None if it was by another version with other settings."""
    try:
        return TypeAdapter(Request).validate_python(block.provenance.get("request"))
    except ValidationError:
        return None


def release_folder(workspace: Workspace, card: Card) -> Path:
    """Where a release (or a link to it) is looked for without ``--source``."""
    return workspace.dataset(card.dataset_name) / RELEASE
