"""Near-duplicate cases: the hash, the walk, and a run without them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench import cli
from mvp_bench.errors import InputError
from mvp_bench.models.record import read_record
from mvp_bench.parallel import Inline
from mvp_bench.pretraining import duplicates
from mvp_bench.pretraining.case_table import CaseTable
from mvp_bench.pretraining.duplicates import (
    CELLS,
    HASH_BITS,
    HASHES_FILE,
    Hashes,
    difference_hash,
    hashes_of,
    near_duplicates,
    without_duplicates,
)
from mvp_bench.pretraining.run import pretrain
from mvp_bench.registry import METHODS
from mvp_bench.workspace import Workspace
from tests.pretraining.conftest import EXACT, MODALITIES, SMALL, source
from tests.pretraining.fake_store import FakeStore, brains
from tests.toy import toy_card, toy_dataset, write_cards


def distance(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()


def twins(cases: int = 4, **changes: object) -> FakeStore:
    """Different brains; case02 is case00 once more, brighter and with a little noise."""
    store = brains(cases, MODALITIES, variation=1.0)
    noise = np.random.default_rng(0).normal(0, 1e-3, store.volumes["case00"].shape)
    again = store.volumes["case00"] * 1.5 + noise
    store.volumes["case02"] = np.where(store.volumes["case00"] == 0, 0, again).astype(np.float32)
    return store


# ------------------------------------------------------------------------------------------------------------- the hash


def test_a_hash_has_64_bits() -> None:
    assert HASH_BITS == 64
    assert len(difference_hash(brains(1, ["t1"]).volumes["case00"][0])) == 16


def test_hash_against_a_slow_version() -> None:
    volume = brains(1, ["t1"], shape=(23, 26, 19)).volumes["case00"][0]
    where = np.argwhere(volume != 0)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    edges = [[lo + round(i * (hi - lo) / n) for i in range(n + 1)] for lo, hi, n in zip(low, high, CELLS, strict=True)]
    means = np.zeros(CELLS)
    for z, y, x in np.ndindex(*CELLS):
        box = volume[edges[0][z] : edges[0][z + 1], edges[1][y] : edges[1][y + 1], edges[2][x] : edges[2][x + 1]]
        means[z, y, x] = box[box != 0].mean() if (box != 0).any() else 0
    text = "".join("1" if means[z + 1, y, x] > means[z, y, x] else "0" for z, y, x in np.ndindex(4, 4, 4))
    assert difference_hash(volume) == f"{int(text, 2):016x}"


def test_gain_offset_and_place_do_not_matter() -> None:
    volume = brains(1, ["t1"]).volumes["case00"][0]
    brighter = np.where(volume != 0, 2 * volume + 3, 0)
    assert difference_hash(np.pad(brighter, ((3, 1), (0, 9), (2, 2)))) == difference_hash(volume)
    assert distance(difference_hash(np.where(volume != 0, -volume, 0)), difference_hash(volume)) > 50


def test_different_brains_are_apart() -> None:
    volumes = [v[0] for v in brains(6, ["t1"], variation=3.0).volumes.values()]
    hashes = [difference_hash(v) for v in volumes]
    assert min(distance(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 6


@pytest.mark.parametrize("volume", [np.zeros((8, 8, 8)), np.ones((4, 8, 8)), np.pad(np.ones((8, 3, 8)), 2)])
def test_what_is_too_small_has_no_hash(volume: np.ndarray) -> None:
    assert difference_hash(volume) == ""


# ------------------------------------------------------------------------------------------------------------- the walk

SAME_MODALITIES = st.lists(st.integers(0, 2**20 - 1).map(lambda bits: {"t1": f"{bits * 2**44:016x}"}), max_size=12)
ANY_MODALITIES = st.lists(
    st.dictionaries(st.sampled_from(MODALITIES), st.integers(0, 15).map(lambda bits: f"{bits:016x}"), min_size=1),
    max_size=10,
)


def test_identical_images_leave_one() -> None:
    assert near_duplicates([{"t1": "00ff" * 4}] * 5, 0) == {1: 0, 2: 0, 3: 0, 4: 0}


@given(SAME_MODALITIES)
def test_the_largest_distance_leaves_one(cases: list[Hashes]) -> None:
    assert near_duplicates(cases, 64) == dict.fromkeys(range(1, len(cases)), 0)


@given(SAME_MODALITIES)
def test_distance_zero_removes_exact_twins_only(cases: list[Hashes]) -> None:
    texts = [case["t1"] for case in cases]
    assert near_duplicates(cases, 0) == {i: texts.index(t) for i, t in enumerate(texts) if texts.index(t) < i}


@given(SAME_MODALITIES, st.integers(0, 20))
def test_survivors_are_apart_and_the_others_near_their_exemplar(cases: list[Hashes], threshold: int) -> None:
    found = near_duplicates(cases, threshold)
    left = [i for i in range(len(cases)) if i not in found]
    for i in left:
        assert all(distance(cases[i]["t1"], cases[j]["t1"]) > threshold for j in left if j != i)
    for twin, exemplar in found.items():
        assert exemplar in left and exemplar < twin
        assert distance(cases[twin]["t1"], cases[exemplar]["t1"]) <= threshold
    assert not near_duplicates([cases[i] for i in left], threshold)


def slow_walk(cases: list[Hashes], threshold: int) -> dict[int, int]:
    found: dict[int, int] = {}
    for j in range(len(cases)):
        for i in range(j):
            near = [m in cases[i] and distance(cases[i][m], cases[j][m]) <= threshold for m in cases[j]]
            if i not in found and all(near):
                found[j] = i
                break
    return found


@settings(max_examples=60)
@given(ANY_MODALITIES, st.integers(0, 4))
def test_no_modality_is_lost(cases: list[Hashes], threshold: int) -> None:
    assert near_duplicates(cases, threshold) == slow_walk(cases, threshold)


def test_images_without_a_hash_resemble_none() -> None:
    zero = "0" * 16
    assert near_duplicates([{"t1": ""}, {"t1": ""}, {"t1": zero}, {"t1": zero, "t2": ""}, {}], 64) == {}
    assert near_duplicates([], 6) == {}


@pytest.mark.parametrize("threshold", [-1, 65])
def test_thresholds_out_of_range(threshold: int) -> None:
    with pytest.raises(InputError, match=f"--deduplicate: found {threshold}"):
        near_duplicates([{"t1": "0" * 16}], threshold)


# ------------------------------------------------------------------------------------------------------------- the data


def test_near_duplicates_of_a_dataset_are_left_out() -> None:
    thinned = without_duplicates(source(twins()), 2, Inline())
    assert thinned.duplicates == {"case02": "case00"}
    assert thinned.included() == ["case00", "case01", "case03"]
    table = CaseTable.of([thinned])
    assert [table.name(i) for i in range(len(table))] == thinned.included()
    assert without_duplicates(source(twins()), 64, Inline()).included() == ["case00"]
    assert without_duplicates(thinned, 2, Inline()).duplicates == {}  # none is left


def test_excluded_patients_are_no_exemplars() -> None:
    thinned = without_duplicates(source(twins(), excluded=frozenset({"patient-case00"})), 2, Inline())
    assert thinned.duplicates == {} and thinned.included() == ["case01", "case02", "case03"]


def test_hashes_are_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = twins()
    store.folder = tmp_path  # type: ignore[attr-defined]
    data = source(store, data_hash="a")
    first = hashes_of(data, store.cases[:3], Inline())
    made = json.loads((tmp_path / "index" / HASHES_FILE).read_text())
    assert made["data"] == "a" and made["cases"] == first
    read = []
    monkeypatch.setattr(duplicates, "hash_case", lambda job: read.append(job.case) or dict.fromkeys(job.channels, ""))
    assert {case: first[case] for case in first} == {
        case: hashes for case, hashes in hashes_of(data, store.cases, Inline()).items() if case in first
    }
    assert read == ["case03"]
    hashes_of(replace(data, data_hash="b"), ["case00"], Inline())
    assert read == ["case03", "case00"]


def test_a_damaged_file_is_named() -> None:
    class Damaged(FakeStore):
        def read(self, *arguments: object) -> np.ndarray:
            raise RuntimeError("blosc")

    store = brains(2, ["t1"])
    store.__class__ = Damaged
    with pytest.raises(InputError, match="Dataset521_Fake/case00"):
        without_duplicates(source(store), 6, Inline())


def test_a_run_records_what_was_left_out(tmp_path: Path) -> None:
    def train(threshold: int) -> None:
        config = replace(SMALL, method="mae", steps=2, deduplicate=threshold)
        thinned = without_duplicates(source(twins()), threshold, Inline())
        pretrain([thinned], config, None, "resenc-smoke", EXACT, 0, "smoke", tmp_path)

    train(2)
    (data,) = read_record(tmp_path).data
    assert data.duplicates == {"case02": "case00"} and data.cases == ["case00", "case01", "case03"]
    card = (tmp_path / "model_card.md").read_text()
    assert "near-duplicate cases left out" in card and "| 3 | 3 | 0 | 1 | CC0 |" in card
    facts = METHODS["mae"].declaration
    assert f"Views: {facts.views}. Heads: {facts.heads}. Transferred: {facts.transferred}." in card
    with pytest.raises(InputError, match=r"pretrain.deduplicate 2, now 64"):
        train(64)


# ------------------------------------------------------------------------------------------------------------- the verb


def test_pretrain_deduplicate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = Workspace(tmp_path / "root").open()
    card = toy_card("pretraining", 903, ("t1", "flair"))
    write_cards(workspace.root, card)
    toy_dataset(workspace, card)
    always = ("--root", workspace.root, "-d", 903, "--profile", "smoke", "--workers", 1, "--device", "cpu")

    def verb(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["mvp_pretrain", *map(str, (*always, "--method", "mae", *arguments))])
        with pytest.raises(SystemExit) as stopped:
            cli.pretrain()
        return int(stopped.value.code or 0), "".join(capsys.readouterr())

    code, text = verb("--deduplicate", 65)
    assert code == 2 and "error: --deduplicate: found 65" in text and not workspace.pretraining.exists()
    code, text = verb("--deduplicate", 64)
    assert code == 0 and "Dataset903_Toy903: 5 near-duplicate cases left out, 1 left" in text
    (folder,) = workspace.pretraining.iterdir()
    (data,) = read_record(folder).data
    assert data.cases == ["case00"] and data.duplicates == {f"case{i:02d}": "case00" for i in range(1, 6)}
    logged = (workspace.logs / "mvp_pretrain.log").read_text()
    assert "Dataset903_Toy903: case03 is left out, near-duplicate of case00" in logged
    assert list(workspace.plans.rglob(HASHES_FILE))
    assert verb()[0] == 0
    assert len(list(workspace.pretraining.iterdir())) == 2  # another run
