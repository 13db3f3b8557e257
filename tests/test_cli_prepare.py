"""The jobs of mvp_prepare beside preparing: checking again, the leak audit, crosswalks, export, other splits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mvp_bench.io import read_json
from tests.test_cli import Verb, image, one_message, release, run  # noqa: F401 - fixtures

DATASET = "Dataset501_BraTS2023-PED"


@pytest.fixture
def prepared(run: Verb, release: Path, tmp_path: Path) -> Path:  # noqa: F811
    assert run("prepare", "-d", 501, "--source", release)[0] == 0
    return tmp_path / "root" / "datasets"


def test_checked_again(run: Verb, release: Path, prepared: Path, capsys) -> None:  # noqa: F811
    report = (prepared / DATASET / "integrity.json").read_bytes()
    assert run("prepare", "--check", "--all")[0] == 0
    assert (prepared / DATASET / "integrity.json").read_bytes() == report
    path = image(release, 2, "t1c")
    path.write_bytes(path.read_bytes()[:-20])
    code, _ = run("prepare", "--check", "-d", 501)
    assert code == 2
    facts = read_json(prepared / DATASET / "integrity.json")["cases"]
    assert {case for case, one in facts.items() if one["faults"]} == {"BraTS-PED-00002-000"}
    assert path.name in facts["BraTS-PED-00002-000"]["faults"][0]


def test_what_needs_prepared_datasets(run: Verb, release: Path, tmp_path: Path) -> None:  # noqa: F811
    for job in (("--check",), ("--overlap",), ("--export-nnssl", tmp_path / "out")):
        one_message(run("prepare", *job), "no prepared dataset", "--phantom")
        one_message(run("prepare", *job, "-d", 501, "--source", release), job[0], "prepared already")
        one_message(run("prepare", *job, "-d", 501), "501", "not prepared")
    assert not (tmp_path / "out").exists()


def test_overlap_with_a_crosswalk(run: Verb, release: Path, prepared: Path, tmp_path: Path) -> None:  # noqa: F811
    table = tmp_path / "ours.csv"
    table.write_text("Hospital,Project\n1,2\n")
    one_message(run("prepare", "--crosswalks", table), "ours.csv", "Hospital")
    one_message(run("prepare", "--crosswalks", tmp_path / "none.csv"), "none.csv")
    assert not list((prepared / "crosswalks").glob("*.csv"))
    table.write_text("BraTS2023-PED,BraTS2023-PED\nBraTS-PED-00001,BraTS-PED-00004\n")
    assert run("prepare", "--crosswalks", table, "--overlap")[0] == 0
    (shared,) = read_json(prepared / "overlap.json")["shared"]
    assert [patient for _, patient in shared["people"][0]["patients"]] == ["BraTS-PED-00001", "BraTS-PED-00004"]


def test_faulty_cases_are_left_out_on_demand(run: Verb, release: Path, tmp_path: Path) -> None:  # noqa: F811
    path = image(release, 3, "t2w")
    path.write_bytes(path.read_bytes()[:-20])
    one_message(run("prepare", "-d", 501, "--source", release), path.name, "--exclude-faulty")
    assert run("prepare", "-d", 501, "--source", release, "--exclude-faulty")[0] == 0
    report = read_json(tmp_path / "root" / "datasets" / DATASET / "integrity.json")
    (entry,) = report["excluded"]
    assert entry["what"] == "BraTS-PED-00003-000" and path.name in entry["reason"]
    assert len(report["cases"]) == 5


def test_folds_on_demand(run: Verb, release: Path, prepared: Path) -> None:  # noqa: F811
    assert run("prepare", "-d", 501, "--source", release, "--split", "k_fold", "--k", 3)[0] == 0
    splits = read_json(prepared / DATASET / "splits.json")
    assert splits["scheme"] == "k_fold" and [len(fold["test"]) for fold in splits["folds"]] == [2, 2, 2]
    one_message(run("prepare", "-d", 501, "--source", release, "--split", "k_fold", "--k", 9), "k = 9")
    splits["folds"][0]["train"].pop()
    (prepared / DATASET / "splits.json").write_text(json.dumps(splits))
    one_message(run("benchmark", "--tasks", 501, "--profile", "smoke"), "splits.json")


def test_label_fraction_out_of_range(run: Verb, prepared: Path) -> None:  # noqa: F811
    for fraction in ("0", "1.5"):
        one_message(run("benchmark", "--tasks", 501, "--label-budgets", fraction), "--label-budgets", "at most 1")


def test_export(run: Verb, prepared: Path, tmp_path: Path) -> None:  # noqa: F811
    assert run("prepare", "--export-nnssl", tmp_path / "out")[0] == 0
    (path,) = (tmp_path / "out").rglob("pretrain_data.json")
    (dataset,) = read_json(path)["datasets"].values()
    assert len(dataset["subjects"]) == 6
