"""The cards: those shipped with the package, and those a workspace adds or overrides.

A card of your own is a JSON file in ``<root>/datasets/``; any file name will do. The fields are those of
:class:`mvp_bench.datasets.schema.Card`; ``tests/resources/cards`` holds examples.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from mvp_bench.datasets.schema import DATASET_NAME, Card
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.registry import unknown_name

NOT_CARDS = ("overlap.json",)
"""Other JSON files in a workspace's ``datasets/``: the last leak audit. Hidden files are no cards either."""
SHIPPED = Path(__file__).resolve().parent.parent / "cards"


def load_cards(root: Path | None) -> dict[int, Card]:
    """All cards by id, in the order of the ids.

    Args:
        root: workspace whose ``datasets/*.json`` add cards, or replace shipped ones of the same id; None: none.

    Raises:
        InputError: if a card is not JSON, has a wrong field, or takes the id or the name of another.
    """
    cards = {card.id: card for card in (read_card(path) for path in sorted(SHIPPED.glob("*.json")))}
    own: dict[int, Path] = {}
    for path in sorted((root / "datasets").glob("[!.]*.json")) if root else ():
        if path.name in NOT_CARDS:
            continue
        card = read_card(path)
        if card.id in own:
            raise InputError(
                f"{path}: field id", found=f"{card.id}, as in {own[card.id].name}", expected="an id of its own"
            )
        own[card.id] = path
        cards[card.id] = card
    _check_names(cards, own)
    return dict(sorted(cards.items()))


def read_card(path: Path) -> Card:
    """One card.

    Raises:
        InputError: naming the file and every field at fault.
    """
    content = read_json(path)
    try:
        return Card.model_validate(content)
    except ValidationError as error:
        raise field_error(path, error, Card.model_fields) from error


def field_error(where: object, error: ValidationError, known_fields: Iterable[str] = ()) -> InputError:
    """The first fault that pydantic found, as an error naming the field; the number of others is said too."""
    faults = error.errors(include_url=False)
    first = min(faults, key=lambda fault: fault["type"] != "extra_forbidden")  # a misspelt name also shows as missing
    field = ".".join(str(part) for part in first["loc"])
    message = str(first["msg"]).removeprefix("Value error, ")
    fix = ""
    if first["type"] == "extra_forbidden":
        message = "no field of this name"
        near = difflib.get_close_matches(str(first["loc"][-1]), list(known_fields), n=1)
        fix = f"Did you mean {near[0]}?" if near else "Remove it."
    if first["type"] == "missing":
        found = "nothing"
    elif field:
        found = _short(first["input"])
    else:  # a rule over several fields: pydantic would show the whole card
        found = "fields that do not fit together"
    if len(faults) > 1:
        fix = f"{fix} ({len(faults) - 1} more wrong fields.)".strip()
    return InputError(f"{where}: field {field}" if field else where, found=found, expected=message, fix=fix)


def find_card(cards: dict[int, Card], id_or_name: str | int) -> Card:
    """The card with this id, name or DatasetNNN_Name; upper and lower case do not matter.

    Raises:
        InputError: naming the nearest ones.
    """
    text = str(id_or_name).strip()
    if text.isdigit():
        if (number := int(text)) in cards:
            return cards[number]
        nearest = sorted(sorted(cards, key=lambda i: (abs(i - number), i))[:3])
        shown = ", ".join(f"{i} {cards[i].name}" for i in nearest)
        raise InputError("dataset", found=repr(text), expected="a known id", fix=f"Did you mean {shown}? See --list.")
    named = {card.name.lower(): card for card in cards.values()}
    match = DATASET_NAME.match(text)
    for name in (text, match.group(2) if match else text):
        if name.lower() in named:
            return named[name.lower()]
    raise unknown_name("dataset", text, [card.name for card in cards.values()])


def expand(cards: dict[int, Card], ids_or_names: Iterable[str | int]) -> list[Card]:
    """Cards in the order asked for: commas and blanks split, collections replaced by members, duplicates dropped."""
    chosen: dict[int, Card] = {}
    for item in ids_or_names:
        for name in str(item).replace(",", " ").split():
            card = find_card(cards, name)
            for member in [find_card(cards, i) for i in card.members] or [card]:
                chosen.setdefault(member.id, member)
    return list(chosen.values())


def _check_names(cards: dict[int, Card], own: dict[int, Path]) -> None:
    by_name: dict[str, int] = {}
    for card in cards.values():
        other = by_name.setdefault(card.name.lower(), card.id)
        if other != card.id:
            where = own.get(card.id) or own.get(other) or SHIPPED
            raise InputError(
                f"{where}: field name", found=f"{card.name}, as in dataset {other}", expected="its own name"
            )


def _short(value: object, limit: int = 80) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
