"""What ``mvp_prepare --list`` shows, and the same as Markdown for datasets/README.md."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.prepared import is_prepared, load_block
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.io import write_text
from mvp_bench.progress import console
from mvp_bench.workspace import Workspace


@dataclass(frozen=True)
class ListRow:
    """One dataset of the listing."""

    id: int
    name: str
    kind: str
    modalities: str
    licence: str
    where: str
    prepared: str
    """``no``, ``N cases``, or for a collection how many members are prepared."""
    source: str
    """``real``, ``phantom`` or empty."""


def list_rows(workspace: Workspace, cards: dict[int, Card]) -> list[ListRow]:
    """One row per card, in the order of the ids; reads the dataset.json of prepared ones."""
    return [_row(workspace, card, cards) for card in cards.values()]


def print_datasets(workspace: Workspace, cards: dict[int, Card]) -> None:
    """Print the listing as a table."""
    table = Table(show_lines=True)
    for heading, width in (("id", 3), ("dataset", 20), ("licence, where to get it", 34), ("prepared", 8)):
        table.add_column(heading, min_width=width, overflow="fold")
    for row in list_rows(workspace, cards):
        state = f"{row.prepared}\n{row.source}".strip()
        dataset = f"{row.name}\n{row.kind}\n{row.modalities}"
        table.add_row(*(escape(text) for text in (str(row.id), dataset, f"{row.licence}\n{row.where}", state)))
    console.print(table, soft_wrap=False)


def cards_as_markdown(cards: Iterable[Card]) -> str:
    """datasets/README.md: what each dataset is, where it comes from, and what to beware of."""
    lines = [
        "# Datasets",
        "",
        "`mvp_prepare` makes a folder `DatasetNNN_Name/` here for each dataset (git-ignored). With a release as",
        "downloaded: `mvp_prepare -d 501 --source FOLDER`, or link it as `DatasetNNN_Name/release` and run",
        "`mvp_prepare --all`. Without data: `mvp_prepare -d 501 --phantom` (synthetic). A JSON card of your own in",
        "this folder adds or overrides a dataset.",
        "",
        "This page is made from the cards in `mvp_bench/cards`.",
        "",
        "| id | name | kind | modalities | cases | licence | access | where |",
        "|---|---|---|---|---|---|---|---|",
    ]
    cards = list(cards)
    for card in cards:
        cases = card.expected_cases or "?"
        cells = (card.id, card.name, card.kind, " ".join(card.modalities), cases, card.licence, card.access, card.url)
        lines.append("| " + " | ".join(_cell(str(value)) for value in cells) + " |")
    for card in cards:
        lines += ["", f"## {card.id} {card.name}", "", f"{card.title}. {_target(card)}".strip(), ""]
        facts = [
            ("Point `--source` at", card.folder),
            ("Patient", card.patient_rule),
            ("The paper used", f"{card.paper.cases or '?'} cases. {card.paper.note}" if card.paper.note else ""),
            ("Cite", card.citation),
        ]
        lines += [f"- {heading}: {text}" for heading, text in facts if text]
        lines += [f"- Beware: {trap}" for trap in card.traps]
    return "\n".join(lines) + "\n"


def write_readme() -> None:
    """Write datasets/README.md of a checkout anew."""
    path = Path(__file__).resolve().parents[2] / "datasets" / "README.md"
    write_text(path, cards_as_markdown(load_cards(None).values()))


def _row(workspace: Workspace, card: Card, cards: dict[int, Card]) -> ListRow:
    prepared, source = "no", ""
    if card.members:
        blocks = [cards[member] for member in card.members if member in cards and is_prepared(workspace, cards[member])]
        prepared = f"{len(blocks)} of {len(card.members)}"
    elif is_prepared(workspace, card):
        try:
            block = load_block(workspace, card)
            prepared, source = f"{len(block.cases)} cases", block.source
        except InputError as error:  # a listing must not fail because one of its entries is damaged
            prepared = f"damaged: {error.found}"
    modalities = " ".join(card.modalities)
    return ListRow(
        card.id, card.name, card.kind, modalities, card.licence, f"{card.url}; access: {card.access}", prepared, source
    )


def _target(card: Card) -> str:
    if card.kind == "segmentation":
        labels = {value: name for name, value in card.labels.items()}
        regions = (f"{name} ({' + '.join(labels[v] for v in values)})" for name, values in card.regions.items())
        return f"Regions: {', '.join(regions)}."
    return f"Classes: {', '.join(card.classes)}." if card.classes else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
