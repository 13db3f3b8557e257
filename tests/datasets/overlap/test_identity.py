"""Ids that name one person, and ids that only look alike."""

from __future__ import annotations

import pytest

from mvp_bench.datasets.overlap.identity import known_token, own_token, patient_tokens, people, release_links
from mvp_bench.datasets.schema import Case, DatasetBlock
from tests.toy import toy_card

SAME = [
    ("BraTS2021_00005", "BraTS-GLI-00005-000"),
    ("BraTS-GLI-00005-000", "BraTS-GLI-00005-001"),
    ("BraTS-GLI-00005", "brats-gli-00005-000-t1c"),
    ("UCSF-PDGM-004", "UCSF-PDGM-0004"),
    ("UCSF-PDGM-0429", "UCSF-PDGM-0429_FU003d"),
    ("UCSF-PDGM-0429_nifti", "UCSF-PDGM-0429_FU003d_nifti"),
    ("UPENN-GBM-00001_11", "UPENN-GBM-00001_21"),
    ("TCGA-02-0006", "TCGA-02-0006_1997.01.05"),
    ("900_S_9001", "900_S_9001_20060418"),
    ("IXI012-HH-1211", "IXI012"),
    ("sub-IXI012", "IXI012-HH-1211-T1"),
    ("vs_gk_7", "VS-SEG-007"),
    ("vs_gk_7_t1", "VS-SEG-007"),
    ("sub-strokecase0001_ses-0001", "sub-strokecase0001"),
    ("Brats18_CBICA_AAB_1", "BRATS18_CBICA_AAB_1"),
]
DIFFERENT = [
    ("BraTS2021_00005", "BraTS2021_00006"),
    ("BraTS2021_00005", "BraTS20_Training_005"),
    ("BraTS-GLI-00005-000", "BraTS-PED-00005-000"),
    ("Brats17_CBICA_AAB_1", "Brats18_CBICA_AAB_1"),
    ("BraTS20_Training_001", "BraTS20_Validation_001"),
    ("UCSF-PDGM-0004", "UPENN-GBM-00004"),
    ("900_S_9001", "901_S_9001"),
    ("vs_gk_7", "VS-SEG-070"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_one_person(one: str, other: str) -> None:
    assert known_token(one) == known_token(other) is not None


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_two_people(one: str, other: str) -> None:
    assert known_token(one) != known_token(other)
    assert known_token(one) and known_token(other)


@pytest.mark.parametrize(
    "name", ["01", "sub-01", "0050952", "p01", "BraTS2021_5", "UCSF-PDGM-00045", "xIXI012", "IXI0123", "case00", ""]
)
def test_bare_ids_are_of_no_known_form(name: str) -> None:
    assert known_token(name) is None


def test_bare_ids_stay_in_their_dataset_unless_cards_share_a_list() -> None:
    first, second = toy_card(number=901), toy_card(number=902)
    assert own_token(first, "01") != own_token(second, "01")
    assert own_token(first, "01") != own_token(first, "1")
    a, b = (card.model_copy(update={"patient_space": "INDI"}) for card in (first, second))
    assert own_token(a, "0050952") == own_token(b, "50952")


def test_the_case_id_tells_too() -> None:
    card = toy_card()
    case = Case(patient="p01", images={"t1": "a.nii"})
    block = DatasetBlock(
        card_id=901,
        card_name="Toy901",
        kind="segmentation",
        source="phantom",
        release="",
        modalities=["t1"],
        cases={
            "UPENN-GBM-00007_11": case,
            "UPENN-GBM-00007_21": case,
            "other": Case(patient="p02", images=case.images),
        },
        data_hash="",
        code_version="",
    )
    assert patient_tokens(card, block) == {
        "p01": {"dataset901_toy901:p01", "upenn-gbm:7"},
        "p02": {"dataset901_toy901:p02"},
    }


def test_people_are_joined_through_others() -> None:
    tokens = {("a", "1"): ["x:1"], ("b", "2"): ["y:2"], ("c", "3"): ["z:3"], ("d", "4"): ["z:3"], ("e", "5"): ["q:5"]}
    assert list(people(tokens).values()) == [0, 1, 2, 2, 3]
    assert list(people(tokens, [("x:1", "w:9"), ("w:9", "y:2")]).values()) == [0, 0, 1, 1, 2]
    found = people(tokens, [("x:1", "w:9"), ("w:9", "y:2")], [(("b", "2"), ("d", "4"))])
    assert list(found.values()) == [0, 0, 0, 0, 1]


def test_renamed_follow_ups_of_ucsf_are_known() -> None:
    names = {name: [known_token(name) or ""] for name in ("UCSF-PDGM-0138", "UCSF-PDGM-0429", "UCSF-PDGM-0139")}
    assert len(set(people(names).values())) == 3
    found = people(names, release_links())
    assert found["UCSF-PDGM-0138"] == found["UCSF-PDGM-0429"] != found["UCSF-PDGM-0139"]
    assert len(release_links()) == 6
