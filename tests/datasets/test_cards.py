"""The shipped cards, one by one, and the rules for cards of one's own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mvp_bench.datasets.catalog import SHIPPED, expand, find_card, load_cards, read_card
from mvp_bench.datasets.converters import generic
from mvp_bench.datasets.converters.adni import AdniOptions
from mvp_bench.datasets.converters.brats import BratsOptions
from mvp_bench.datasets.converters.generic import GenericOptions
from mvp_bench.datasets.converters.mrbrains13 import MrbrainsOptions
from mvp_bench.datasets.converters.vsseg import VssegOptions
from mvp_bench.datasets.dataset_json import nnunet_labels
from mvp_bench.datasets.reading.conversion import parse_options
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.registry import CONVERTERS

CARDS = sorted(SHIPPED.glob("*.json"))
RESOURCES = Path(__file__).resolve().parents[1] / "resources" / "cards"
OPTIONS = {
    "adni": AdniOptions,
    "brats": BratsOptions,
    "generic": GenericOptions,
    "mrbrains13": MrbrainsOptions,
    "vsseg": VssegOptions,
}
EXPECTED = {
    501: ("BraTS2023-PED", "segmentation", "t1 t1c t2 flair"),
    502: ("BraTS2023-MET", "segmentation", "t1 t1c t2 flair"),
    503: ("ISLES22", "segmentation", "flair dwi adc"),
    504: ("MRBrainS13", "segmentation", "t1 t1ir flair"),
    505: ("UPENN-GBM", "segmentation", "t1 t1c t2 flair"),
    506: ("VSseg", "segmentation", "t1c"),
    511: ("BraTS2018", "classification", "t1 t1c t2 flair"),
    512: ("ADNI", "classification", "t1"),
    513: ("ADHD-200", "classification", "t1"),
    514: ("ABIDE-I", "classification", "t1"),
    520: ("BrainMVP-pretraining", "pretraining", "t1 t1c t2 flair dwi adc pd mra"),
    521: ("BraTS2021", "pretraining", "t1 t1c t2 flair"),
    522: ("BraTS2023-SSA", "pretraining", "t1 t1c t2 flair"),
    523: ("BraTS2023-MEN", "pretraining", "t1 t1c t2 flair"),
    524: ("UCSF-PDGM", "pretraining", "t1 t1c t2 flair dwi adc"),
    525: ("IXI", "pretraining", "t1 t2 pd mra"),
}


def test_all_sixteen_are_shipped() -> None:
    cards = load_cards(None)
    assert {i: (c.name, c.kind, " ".join(c.modalities)) for i, c in cards.items()} == EXPECTED


@pytest.mark.parametrize("path", CARDS, ids=lambda p: p.stem)
def test_shipped_card_is_complete(path: Path) -> None:
    card = read_card(path)
    assert path.stem == card.dataset_name
    assert card.licence and card.access and card.url and card.citation and card.patient_rule and card.traps
    assert card.paper.cases and card.paper.note
    if card.members:
        assert set(card.members) == {521, 522, 523, 524, 525}
        return
    assert card.converter in CONVERTERS and card.folder
    parse_options(OPTIONS[card.converter], card)
    nnunet_labels(card)
    first = {"segmentation": ["dice"], "classification": ["accuracy"], "pretraining": []}[card.kind]
    assert card.metrics[:1] == first
    if card.kind == "pretraining":
        assert card.split.ratio == (1, 0, 0)
    else:
        assert card.split.scheme == ("official" if card.id == 506 else "ratio") and card.split.ratio == (6, 1, 3)


@pytest.mark.parametrize("number", [501, 502, 505])
def test_glioma_regions(number: int) -> None:
    assert load_cards(None)[number].regions == {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}


def test_isles_note_holds_the_papers_test_cases() -> None:
    note = load_cards(None)[503].paper.note
    numbers = note.split("Test: ")[1].split(";")[0].split()
    assert len(numbers) == 36 and numbers[0] == "5" and numbers[-1] == "242"


def test_the_example_in_the_docstring_is_a_card() -> None:
    """The example of the generic converter is the card that the real scans are read with."""
    text = str(generic.__doc__)
    example = json.loads(text[text.index("{") : text.index('lesion"}}') + len('lesion"}}')])
    own = read_card(RESOURCES / "Dataset602_OpenMS.json")
    assert Card.model_validate(example).converter_options == own.converter_options
    options = json.loads("{" + text[text.rindex('"converter_options"') : text.index('OTMultiClass"}') + 14] + "}")
    assert options["converter_options"] == read_card(RESOURCES / "Dataset601_BraTS2013.json").converter_options


def test_find_card_takes_id_name_and_full_name() -> None:
    cards = load_cards(None)
    for name in ("501", 501, "BraTS2023-PED", "brats2023-ped", "Dataset501_BraTS2023-PED"):
        assert find_card(cards, name).id == 501


@pytest.mark.parametrize(
    ("wrong", "near"), [("BraTS2023-PEDS", "BraTS2023-PED"), ("507", "506 VSseg"), ("adhd200", "ADHD-200")]
)
def test_unknown_dataset_lists_near_ones(wrong: str, near: str) -> None:
    with pytest.raises(InputError, match=f"Did you mean.*{near}"):
        find_card(load_cards(None), wrong)


def test_expand_splits_and_drops_duplicates() -> None:
    cards = load_cards(None)
    assert [c.id for c in expand(cards, ["501,503 506", "521", "520", 501])] == [501, 503, 506, 521, 522, 523, 524, 525]


def own_card(root: Path, file: str = "own", **changes: object) -> Path:
    path = root / "datasets" / f"{file}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.loads((SHIPPED / "Dataset501_BraTS2023-PED.json").read_text())
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}))
    return path


def test_own_card_adds_and_overrides(tmp_path: Path) -> None:
    own_card(tmp_path, title="mine")
    own_card(tmp_path, "other", id=700, name="New")
    cards = load_cards(tmp_path)
    assert cards[501].title == "mine" and cards[700].name == "New" and len(cards) == 17


@pytest.mark.parametrize(
    ("changes", "field", "message"),
    [
        ({"modalities": ["t1", "ct"]}, "modalities.1", "'ct'"),
        ({"modality": ["t1"]}, "modality", "Did you mean modalities?"),
        ({"regions": {"WT": [1, 7]}}, "", "7"),
        ({"licence": None}, "licence", "found nothing"),
        ({"split": {"scheme": "ratio", "ratio": [6, 1]}}, "split.ratio", "ratio"),
        ({"id": "x"}, "id", "'x'"),
    ],
)
def test_wrong_field_names_file_and_field(tmp_path: Path, changes: dict, field: str, message: str) -> None:
    path = own_card(tmp_path, **changes)
    with pytest.raises(InputError) as caught:
        load_cards(tmp_path)
    assert str(path) in str(caught.value) and message in str(caught.value)
    assert f"field {field}" in caught.value.where if field else True


def test_a_card_that_is_not_json(tmp_path: Path) -> None:
    path = own_card(tmp_path)
    path.write_text("{")
    with pytest.raises(InputError, match="not JSON"):
        load_cards(tmp_path)


def test_two_own_cards_of_one_id_or_name(tmp_path: Path) -> None:
    own_card(tmp_path, "a", id=700, name="New")
    shutil.copy(tmp_path / "datasets/a.json", tmp_path / "datasets/b.json")
    with pytest.raises(InputError, match=r"b\.json: field id"):
        load_cards(tmp_path)
    (tmp_path / "datasets/b.json").unlink()
    own_card(tmp_path, "a", id=700)
    with pytest.raises(InputError, match="field name"):
        load_cards(tmp_path)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"imagess": {}}, "imagess"),
        ({"images": {"t1": "("}}, "images"),
        ({"images": {"t1": "a/T1"}}, "patient"),
        ({"images": {"t1": "(?P<patient>a)"}, "ignore": {"(": ""}}, "ignore"),
    ],
)
def test_wrong_converter_option_names_the_field(options: dict, field: str) -> None:
    card = load_cards(None)[503]
    wrong = Card.model_validate({**card.model_dump(), "converter_options": options})
    with pytest.raises(InputError, match=field):
        parse_options(GenericOptions, wrong)
