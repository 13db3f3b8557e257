"""Whether a prepared dataset is still what its card and its sources say; asked before anything is made of it."""

from __future__ import annotations

from mvp_bench.datasets.preparation.request import card_changed
from mvp_bench.datasets.preparation.sources import changes_in_content
from mvp_bench.datasets.prepared import again, load_block
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace


def require_unchanged(workspace: Workspace, card: Card) -> None:
    """Make sure that a dataset need not be prepared again.

    Sizes and times of its source files are looked at; only those that differ are read, to see whether their content
    does.

    Raises:
        InputError: naming the fields of the card, or the source files, that have changed since it was prepared.
    """
    card_changed(workspace, card, load_block(workspace, card))
    if changes := changes_in_content(workspace, card):
        raise InputError(
            f"sources of {card.dataset_name}",
            found=changes.in_words(),
            expected="the files that it was prepared from",
            fix=again(card),
        )
