"""Planted twins: by id, by crosswalk only, through others, by image; and nobody else."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Executor
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mvp_bench.config.groups import OverlapConfig
from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.geometry.perceptual import HASH_BITS
from mvp_bench.datasets.integrity.report import INTEGRITY, CaseFacts, FileFacts, Integrity
from mvp_bench.datasets.overlap import audit as audit_module
from mvp_bench.datasets.overlap import images
from mvp_bench.datasets.overlap.audit import OVERLAP, Audit, audit, print_audit
from mvp_bench.datasets.overlap.crosswalk import crosswalk_folder
from mvp_bench.datasets.overlap.images import CACHE, PreparedImage, image_twins
from mvp_bench.datasets.schema import Card, Case, DatasetBlock, Splits
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.parallel import Inline
from mvp_bench.sealed import write_sealed
from mvp_bench.workspace import Workspace
from tests.toy import toy_card, write_prepared

IDS = OverlapConfig(images=False)


def prepared(
    workspace: Workspace, card: Card, patients: Iterable[str] | Mapping[str, str], source: str = "real"
) -> Card:
    """A dataset.json without images; ``patients`` may map case -> patient."""
    of_case = patients if isinstance(patients, Mapping) else {name: name for name in patients}
    block = DatasetBlock(
        card_id=card.id,
        card_name=card.name,
        kind=card.kind,
        source=source,  # type: ignore[arg-type]
        release="",
        modalities=card.modalities,
        cases={case: Case(patient=who, images={"t1": f"{case}.nii.gz"}) for case, who in of_case.items()},
        data_hash=f"hash {card.id}",
        code_version="",
    )
    splits = Splits(scheme="none", seed=0, stratify="none", patients={}, folds=[])
    write_prepared(workspace.dataset(card.dataset_name), card, block, splits)
    return card


def card(number: int, space: str = "") -> Card:
    return toy_card(number=number).model_copy(update={"patient_space": space})


def name(number: int) -> str:
    return f"Dataset{number}_Toy{number}"


def crosswalk(workspace: Workspace, *lines: str) -> None:
    crosswalk_folder(workspace).mkdir(exist_ok=True)
    (crosswalk_folder(workspace) / "table.csv").write_text("\n".join(lines))


def shown(result: Audit, monkeypatch: pytest.MonkeyPatch) -> str:
    stream = io.StringIO()
    monkeypatch.setattr(audit_module, "console", Console(file=stream, width=160))
    print_audit(result)
    return stream.getvalue()


@pytest.fixture
def planted(workspace: Workspace) -> tuple[Workspace, list[Card]]:
    """901 pre-training scans of 2021, 902 a task of 2018, 903 UCSF exams, 904 bare ids."""
    cards = [
        prepared(workspace, card(901), [f"BraTS2021_{n}" for n in (90001, 90002, 90003, 91538)]),
        prepared(workspace, card(902), [f"Brats18_TCIA99_{n}_1" for n in (901, 902, 903)]),
        prepared(
            workspace,
            card(903),
            {"UCSF-PDGM-0904": "UCSF-PDGM-0904", "BraTS-GLI-90002-000": "x", "UCSF-PDGM-0905": "UCSF-PDGM-0905"},
        ),
        prepared(workspace, card(904), ["01", "02", "BraTS-PED-90001"]),
        prepared(workspace, card(905), ["01", "02"]),
    ]
    crosswalk(
        workspace,
        "BraTS2023,BraTS2021,BraTS2018,Cohort Name,Local ID",
        "BraTS-GLI-90001-000,BraTS2021_90001,Brats18_TCIA99_901_1,,",
        "BraTS-GLI-90001-001,BraTS2021_91538,,UCSF-PDGM_Additional,7",
        "BraTS-GLI-90003-000,BraTS2021_90003,,UCSF-PDGM,904",
    )
    return workspace, cards


def test_table_of_shared_patients(planted: tuple[Workspace, list[Card]]) -> None:
    workspace, cards = planted
    result = audit(workspace, cards, IDS)
    zero = dict.fromkeys(map(name, (901, 902, 903, 904, 905)), 0)
    assert result.table() == {
        name(901): zero | {name(901): 4, name(902): 2, name(903): 2},  # 90001 and its second scan 91538
        name(902): zero | {name(901): 1, name(902): 3},
        name(903): zero | {name(901): 2, name(903): 3},
        name(904): zero | {name(904): 3},
        name(905): zero | {name(905): 2},
    }
    assert result.patients_in(name(902), of=name(901)) == {"BraTS2021_90001", "BraTS2021_91538"}
    assert result.patients_in(name(901), of=name(902)) == {"Brats18_TCIA99_901_1"}
    assert result.patients_in(name(905), of=name(904)) == frozenset()


def test_evidence_is_the_first_that_shows_it(planted: tuple[Workspace, list[Card]]) -> None:
    workspace, cards = planted
    result = audit(workspace, cards, IDS)
    by_903 = {person.patients[-1][1]: person.evidence for person in result.shared(name(901), name(903))}
    assert by_903 == {"x": "id", "UCSF-PDGM-0904": "crosswalk"}
    (repeated,) = result.shared(name(901), name(901))
    assert [patient for _, patient in repeated.patients] == ["BraTS2021_90001", "BraTS2021_91538"]
    (crosswalk_folder(workspace) / "table.csv").unlink()
    alone = audit(workspace, cards, IDS)
    assert [p.patients[-1][1] for p in alone.shared(name(901), name(903))] == ["x"]
    assert alone.shared(name(901), name(902)) == alone.shared(name(901), name(901)) == []


def test_leak_counts_people_not_ids(planted: tuple[Workspace, list[Card]]) -> None:
    workspace, cards = planted
    result = audit(workspace, cards, IDS)
    test = ["Brats18_TCIA99_901_1", "Brats18_TCIA99_902_1", "Brats18_TCIA99_903_1"]
    leak = result.leak(name(902), 0, test, {name(901): ["BraTS2021_91538", "BraTS2021_90003"], name(904): ["01"]})
    assert leak.shared == ("Brats18_TCIA99_901_1",)
    assert leak.percent == pytest.approx(100 / 3, abs=1e-4)
    assert result.leak(name(902), 0, test[1:], {name(901): ["BraTS2021_91538"]}).percent == 0
    assert result.leak(name(902), 0, test, {}).percent == 0
    assert result.leak(name(902), 0, [], {}).percent == 0


def test_one_list_of_people_for_two_datasets(workspace: Workspace) -> None:
    cards = [
        prepared(workspace, card(901, "INDI"), ["0050952", "0050953"]),
        prepared(workspace, card(902, "INDI"), ["50952", "7"]),
        prepared(workspace, card(903), ["0050952"]),
    ]
    result = audit(workspace, cards, IDS)
    assert result.patients_in(name(902), of=name(901)) == {"0050952"}
    assert not result.shared(name(901), name(903))


def test_renamed_ucsf_exams_are_people_and_phantoms_numbers_are_not(workspace: Workspace) -> None:
    ids = ["UCSF-PDGM-0138", "UCSF-PDGM-0429"]
    for source, count in (("real", 1), ("phantom", 0)):
        cards = [prepared(workspace, card(901 + i), [ids[i]], source) for i in range(2)]
        shared = audit(workspace, cards, IDS).shared(name(901), name(902))
        assert [person.evidence for person in shared] == ["crosswalk"] * count


def test_the_report_is_written_and_printed(
    planted: tuple[Workspace, list[Card]], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, cards = planted
    result = audit(workspace, cards, IDS)
    path = workspace.datasets / OVERLAP
    report = read_json(path)
    assert report["patients_of_row_in_column"] == result.table()
    pairs = {tuple(entry["datasets"]): entry["people"] for entry in report["shared"]}
    assert list(pairs) == [(name(901),), (name(901), name(902)), (name(901), name(903))]
    assert {"patients": [[name(901), "BraTS2021_90002"], [name(903), "x"]], "evidence": "id"} in pairs[
        name(901), name(903)
    ]
    assert list(report["crosswalks"]) == ["table.csv"]
    before = path.stat().st_mtime_ns
    audit(workspace, cards, IDS)
    assert path.stat().st_mtime_ns == before
    assert load_cards(workspace.root) == load_cards(None), "the report is no card"
    text = shown(result, monkeypatch)
    assert "Patients of the row who are in the column's dataset (ids, 1 crosswalk, images not compared)" in " ".join(
        text.split()
    )
    rows = [line.replace("│", " ").replace("┃", " ").split() for line in text.splitlines()]
    assert [name(901), "4", "2", "2"] in rows and [name(902), "3", "1", "-"] in rows
    assert ["901,", "903", "2", "1", "1", "-"] in rows
    assert name(904) not in text
    nobody = shown(audit(workspace, cards[3:], IDS), monkeypatch)
    assert nobody.splitlines() == ["No patient is in two of 2 datasets (ids, 1 crosswalk, images not compared)."]


def test_repeated_people_are_warned_of(
    planted: tuple[Workspace, list[Card]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace, cards = planted
    monkeypatch.setattr(logging.getLogger("mvp_bench"), "propagate", True)
    print_audit(audit(workspace, cards, IDS))
    assert f"{name(901)}: people with several patient ids: 1, such as BraTS2021_90001" in caplog.text


def test_faults_are_the_users_to_mend(workspace: Workspace) -> None:
    with pytest.raises(InputError, match="not prepared"):
        audit(workspace, [card(901)], IDS)
    crosswalk(workspace, "Age,Sex", "1,2")
    with pytest.raises(InputError, match="columns Age, Sex"):
        audit(workspace, [prepared(workspace, card(901), ["01"])], IDS)


# --------------------------------------------------------------------------------------------------------------- images


def facts(text: str, voxels: str, perceptual: str) -> FileFacts:
    return FileFacts(
        name=text,
        bytes=1,
        hash=text,
        voxels=voxels,
        shape=(1, 1, 1),
        spacing=(1, 1, 1),
        orientation="RAS",
        minimum=0,
        maximum=1,
        nonzero=1,
        perceptual=perceptual,
    )


def hash_text(seed: int, flipped: float = 0.0) -> str:
    """A hash that differs from another of its seed in about this share of the bits."""
    bits = np.random.default_rng(seed).integers(0, 2, HASH_BITS)
    change = np.random.default_rng([seed, 1]).random(HASH_BITS) < flipped
    return np.packbits(bits ^ change).tobytes().hex()


def checked(workspace: Workspace, of: Card, hashes: Mapping[str, tuple[str, str]], data_hash: str = "") -> None:
    """integrity.json with (voxels, perceptual hash) of each case's t1."""
    cases = {
        case: CaseFacts(patient=case, files={"t1": facts(f"{of.id}{case}", *pair)}, voxel_ml=1.0)
        for case, pair in hashes.items()
    }
    content = Integrity(
        dataset=of.dataset_name,
        source="real",
        data_hash=data_hash or f"hash {of.id}",
        code_version="",
        config={},
        cases=cases,
    )
    write_sealed(workspace.dataset(of.dataset_name) / INTEGRITY, content.model_dump(mode="json"))


class Comparison:
    """Stands in for the verification; remembers what was compared."""

    def __init__(self, correlations: Mapping[frozenset[str], float]) -> None:
        self.correlations, self.asked = correlations, [frozenset[str]()][:0]

    def __call__(self, job: tuple[Path, Path, OverlapConfig]) -> float:
        pair = frozenset(f"{path.parent.name[7:10]}{path.name.removesuffix('.nii.gz')}" for path in job[:2])
        self.asked.append(pair)
        return self.correlations.get(pair, 0.1)


def test_twins_by_image_are_verified_once(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [
        prepared(workspace, card(901), ["a", "b", "c", "BraTS2021_90001"]),
        prepared(workspace, card(902), ["d", "e", "f", "BraTS-GLI-90001"]),
    ]
    near = [("same", hash_text(4)), ("other", hash_text(4, 0.1))]  # those of one person by id: never looked at
    checked(
        workspace,
        cards[0],
        {"a": ("1", hash_text(1)), "b": ("2", hash_text(2)), "c": ("3", hash_text(3)), "BraTS2021_90001": near[0]},
    )
    checked(
        workspace,
        cards[1],
        {"d": ("4", hash_text(1, 0.1)), "e": ("5", hash_text(2, 0.1)), "f": ("3", ""), "BraTS-GLI-90001": near[1]},
    )
    compare = Comparison({frozenset({"901a", "902d"}): 0.9})
    monkeypatch.setattr(images, "_correlation", compare)
    result = audit(workspace, cards, OverlapConfig())
    assert {p.patients[0][1]: p.evidence for p in result.shared(name(901), name(902))} == {
        "a": "image",
        "c": "image",  # equal voxels
        "BraTS2021_90001": "id",
    }
    assert set(compare.asked) == {frozenset({"901a", "902d"}), frozenset({"901b", "902e"})}
    compare.asked.clear()
    assert audit(workspace, cards, OverlapConfig()).person == result.person
    assert compare.asked == [], "the cache knows"
    strict = audit(workspace, cards, OverlapConfig(scan_correlation=0.95))
    assert compare.asked == [] and len(strict.shared(name(901), name(902))) == 2
    (workspace.datasets / CACHE).write_text('{"format": 0}')
    audit(workspace, cards, OverlapConfig())
    assert len(compare.asked) == 2
    assert load_cards(workspace.root) == load_cards(None), "the cache is no card"


def test_a_second_modality_is_tried_where_the_first_fails(workspace: Workspace, monkeypatch) -> None:
    def scan(who: str, modality: str, seed: int) -> PreparedImage:
        path = Path(f"Dataset{who}") / f"{modality}.nii.gz"
        return PreparedImage((who, "p"), modality, path, facts(f"{who}{modality}", f"{who}{modality}", hash_text(seed)))

    scans = [scan(who, modality, seed) for who in ("901", "902") for seed, modality in enumerate(("t1", "t2", "flair"))]
    compare = Comparison({frozenset({"901t2", "902t2"}): 0.9})
    monkeypatch.setattr(images, "_correlation", compare)
    monkeypatch.setattr(images, "write_json", lambda *_: None)
    people = {("901", "p"): 0, ("902", "p"): 1}
    assert image_twins(workspace, scans, people, OverlapConfig(), Inline()) == [(("901", "p"), ("902", "p"))]
    assert compare.asked == [frozenset({"901t1", "902t1"}), frozenset({"901t2", "902t2"})]


def test_images_of_other_data_are_not_used(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(logging.getLogger("mvp_bench"), "propagate", True)
    cards = [prepared(workspace, card(n), ["a"]) for n in (901, 902, 903)]
    for one, data_hash in zip(cards[:2], ("", "before"), strict=True):
        checked(workspace, one, {"a": ("1", hash_text(1))}, data_hash)
    result = audit(workspace, cards, OverlapConfig())
    assert result.without_images == (name(902), name(903))
    print_audit(result)
    assert f"not compared by image: {name(902)}, {name(903)}" in caplog.text


def test_thousands_of_scans_take_seconds(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_correlation", Comparison({}))
    generator = np.random.default_rng(0)
    cards = []
    for number in (901, 902):
        cards.append(prepared(workspace, card(number), [f"{i:04d}" for i in range(1500)]))
        bits = generator.integers(0, 256, (1500, HASH_BITS // 8), dtype=np.uint8)
        checked(workspace, cards[-1], {f"{i:04d}": (f"{number} {i}", bits[i].tobytes().hex()) for i in range(1500)})
    started = time.monotonic()
    pool: Executor = Inline()
    result = audit(workspace, cards, OverlapConfig(), pool)
    assert time.monotonic() - started < 5
    assert not result.shared(name(901), name(902))
