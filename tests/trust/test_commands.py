"""What once went wrong without a word: data, plans or results that are not what they seem, through the commands."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from tests.benchmarks.attacks.site import Ended, Site, benchmark, build, finish, run_commands, save, start

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Site:
    site = Site(tmp_path_factory.mktemp("trust") / "site")
    build(site)
    return site


@pytest.fixture
def site(built: Site) -> Site:
    """A finished small workspace."""
    built.restore()
    return built


def run(site: Site, command: list[str]) -> Ended:
    return finish(start(command, site.root / "output.txt"))


def again(site: Site) -> dict[str, bytes]:
    ended = run_commands(site)
    assert ended.code == 0, ended.output[-3000:]
    return site.tables()


def fresh(site: Site) -> dict[str, bytes]:
    site.strip()
    return again(site)


def edit_table(site: Site, number: int, change: Callable[[pd.DataFrame], None]) -> None:
    path = site.source / str(number) / "table.csv"
    table = pd.read_csv(path, dtype=str)
    change(table)
    table.to_csv(path, index=False)


def edit_card(site: Site, number: int, **fields: object) -> None:
    path = site.work / "datasets" / f"card{number}.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def splits(site: Site, name: str) -> dict:
    return json.loads((site.work / "datasets" / name / "splits.json").read_text())


def encoders(site: Site) -> list[dict]:
    return [json.loads(path.read_text()) for path in (site.work / "results/pretraining").glob("*/encoder.json")]


def lose_cells(site: Site) -> None:
    shutil.rmtree(site.work / "results/cells")


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def test_corrected_patients_stay_out_of_pretraining(site: Site) -> None:
    """T1: the ids in the arrays' index were those of the first preparation."""

    def renamed(table: pd.DataFrame) -> None:
        table["patient"] = [f"q{i:02d}" for i in range(len(table))][::-1]

    edit_table(site, 701, renamed)
    tables = again(site)
    fold = splits(site, "Dataset701_Lumps")["folds"][0]
    tested = {splits(site, "Dataset701_Lumps")["patients"][case] for case in fold["test"]}
    assert tested and all(patient.startswith("q") for patient in tested)
    newest = [e for e in encoders(site) if any(p.startswith("q") for p in e["data"][0]["patients"])]
    assert newest and any(not tested & set(e["data"][0]["patients"]) for e in newest)
    assert tables == fresh(site)


def test_corrected_classes_reach_the_results(site: Site) -> None:
    """T2."""

    def corrected(table: pd.DataFrame) -> None:
        table.loc[0, "class"] = "small" if table.loc[0, "class"] == "large" else "large"

    before = site.tables()
    edit_table(site, 702, corrected)
    tables = again(site)
    assert tables["per_case.csv"] != before["per_case.csv"] and tables == fresh(site)


def test_reversed_classes_are_another_result(site: Site) -> None:
    """T2: a finished cell was kept when its card's classes changed."""
    edit_card(site, 702, classes=["large", "small"])
    assert again(site) == fresh(site)


@pytest.mark.parametrize("fields", [{"regions": {"all": [1, 2], "core": [1]}}, {"metrics": []}], ids=str)
def test_changed_cards_are_another_result(site: Site, fields: dict) -> None:
    """T3: regions, and what ranks."""
    edit_card(site, 701, **fields)
    assert again(site) == fresh(site)


def test_a_card_edited_without_preparation_is_told(site: Site) -> None:
    """T3, R4: the benchmark alone must not go on with what was prepared from the old card."""
    edit_card(site, 701, regions={"all": [1, 2]})
    ended = run(site, benchmark(site))
    assert ended.code == 2 and "regions" in ended.output and "mvp_prepare -d 701" in ended.output


@pytest.mark.parametrize(
    "options",
    [("--max-patch-edge", "16"), ("--spacing", "6", "6", "6"), ("--encoder", "plain-smoke")],
    ids=lambda o: o[0],
)
def test_another_plan_beside_changes_nothing(site: Site, options: tuple[str, ...]) -> None:
    """T4: one plan and one folder of arrays served all."""
    before = site.tables()
    lose_cells(site)
    plan = ["mvp_plan", "-d", "701", "702", "--root", str(site.work), "--profile", "smoke", "--workers", "1"]
    encoder = () if "--encoder" in options else ("--encoder", "resenc-smoke")
    ended = run(site, [*plan, *encoder, *options])
    assert ended.code == 0, ended.output[-2000:]
    assert again(site) == before


def test_changed_sources_are_noticed(site: Site) -> None:
    """T5: old arrays were scored on new masks."""
    scan, mask = (site.source / "701" / "p70100" / name for name in ("t1.nii.gz", "seg.nii.gz"))
    save(scan, np.asarray(nib.load(scan).dataobj) * 1.5)
    save(mask, np.roll(np.asarray(nib.load(mask).dataobj), 1, axis=0))
    ended = run(site, benchmark(site))
    assert ended.code == 2 and "p70100" in ended.output, ended.output[-2000:]
    tables = again(site)
    assert tables == fresh(site)


class _Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_nothing_is_unpickled(site: Site) -> None:
    """T8."""
    lose_cells(site)
    trap = pickle.dumps(_Payload(site.root / "executed"))
    for path in sorted((site.work / "plans").rglob("*.msgpack")):
        path.write_bytes(trap)
        path.with_suffix(".pkl").write_bytes(trap)
    for array in sorted((site.work / "plans").rglob("*_seg.b2nd")):
        array.with_name(array.name.replace("_seg.b2nd", ".pkl")).write_bytes(trap)
    ended = run_commands(site)
    assert not (site.root / "executed").exists()
    assert ended.code in (0, 2, 3) and "Traceback" not in ended.output


def test_damaged_arrays_never_reach_a_result(site: Site) -> None:
    """T9."""
    before = site.tables()
    lose_cells(site)
    for array in (site.work / "plans/Dataset701_Lumps/arrays").rglob("*.b2nd"):
        damage(array)
    ended = run(site, benchmark(site))
    if ended.code == 0:
        assert site.tables() == before, "made anew"
    else:
        assert ended.code in (2, 3) and ".b2nd" in ended.output and "Traceback" not in ended.output


def test_a_killed_worker_takes_no_table_away(site: Site) -> None:
    """T16: exit code 2 without tables, although cells were finished."""
    lose_cells(site)
    command = benchmark(site)
    command[command.index("--workers") + 1] = "2"
    running = start(command, site.root / "output.txt")
    victim, deadline = "", time.monotonic() + 120
    while not victim and time.monotonic() < deadline:
        for note in (site.work / "results/.ledgers").glob("*/doing/*"):
            victim = victim or note.read_text()
        time.sleep(0.02)
    os.kill(int(victim.split()[1]), signal.SIGKILL)
    ended = finish(running)
    assert ended.code == 3 and "worker process died" in ended.output, ended.output[-2000:]
    assert {"leaderboard.csv", "per_case.csv"} <= site.tables().keys()
    assert again(site).keys() == site.tables().keys()


def test_old_results_leave_the_tables(site: Site) -> None:
    """T17: means over old and new data."""
    before = site.tables()
    edit_table(site, 702, lambda table: table.drop(index=0, inplace=True))
    tables = again(site)
    cost = pd.read_csv(site.work / "results/cost.csv")
    assert (cost["status"] == "superseded").any(), "the old ones are listed with their reason"
    assert tables["leaderboard_classification.csv"] != before["leaderboard_classification.csv"]
    assert tables == fresh(site)
