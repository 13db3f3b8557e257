"""The listing, and datasets/README.md made from the cards."""

from __future__ import annotations

from pathlib import Path

from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.listing import cards_as_markdown, list_rows, print_datasets
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.progress import console
from mvp_bench.workspace import Workspace

from .releases import brats_release, shipped

README = Path(__file__).resolve().parents[2] / "datasets" / "README.md"


def test_rows(workspace: Workspace, tmp_path: Path) -> None:
    prepare_dataset(workspace, shipped(501), source=brats_release(tmp_path, cases=4))
    prepare_dataset(workspace, shipped(522), source=brats_release(tmp_path / "ssa", "SSA", cases=2))
    (workspace.dataset("Dataset503_ISLES22")).mkdir()
    (workspace.dataset("Dataset503_ISLES22") / "dataset.json").write_text("{}")
    rows = {row.id: row for row in list_rows(workspace, load_cards(workspace.root))}
    assert len(rows) == 16
    assert (rows[501].prepared, rows[501].source) == ("4 cases", "real")
    assert (rows[502].prepared, rows[502].source) == ("no", "")
    assert rows[503].prepared.startswith("damaged") and rows[520].prepared == "1 of 5"
    assert rows[501].modalities == "t1 t1c t2 flair" and "synapse" in rows[501].where and rows[501].licence


def test_table_shows_every_dataset(workspace: Workspace) -> None:
    with console.capture() as capture:
        print_datasets(workspace, load_cards(None))
    text = capture.get()
    for card in load_cards(None).values():
        assert str(card.id) in text and card.kind in text


def test_readme_is_up_to_date() -> None:
    made = cards_as_markdown(load_cards(None).values())
    assert README.read_text(encoding="utf-8") == made, (
        "python -c 'from mvp_bench.datasets.listing import write_readme; write_readme()' writes it anew"
    )
