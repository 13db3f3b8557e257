"""methods.csv: what each method of the leaderboards is."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest

from mvp_bench.config.groups import StatisticsConfig
from mvp_bench.leaderboard.columns import METHOD_COLUMNS
from mvp_bench.leaderboard.render.files import write_leaderboards
from mvp_bench.pretraining.methods.mae import MaskedAutoencoder
from mvp_bench.registry import METHODS

PED, ISLES = "Dataset501_BraTS2023-PED", "Dataset503_ISLES22"


def written(cells) -> pd.DataFrame:
    boards = write_leaderboards(cells.workspace, StatisticsConfig(bootstrap_samples=20), seed=0)
    table = pd.read_csv(cells.workspace.results / "methods.csv", keep_default_na=False)
    assert table.equals(boards.methods.fillna("").astype(str))
    return table


def test_methods_that_occur_have_a_row_with_their_facts(cells) -> None:
    for method in ("mae", "scratch", "brainmvp"):
        cells.write(PED, method)
    cells.write(ISLES, "mae")
    table = written(cells)
    assert list(table) == list(METHOD_COLUMNS)
    assert table["method"].tolist() == ["scratch", "brainmvp", "mae"]
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in table)
    for name in ("mae", "brainmvp"):
        row, facts = table.set_index("method").loc[name], METHODS[name].declaration
        for column in ("title", "modalities", "views", "heads", "transferred", "budget", "citation", "licence_note"):
            assert row[column] == getattr(facts, column) != ""
        assert row["what"] == METHODS.summary(name)
        assert row["intensity"] == "zscore; unit"
        assert len(row["deviations"].split("; ")) == len(facts.deviations) > 1
    scratch = table.iloc[0]
    assert scratch["title"] and "no pre-training" in scratch["what"] and scratch["transferred"] == "nothing"


def test_a_failed_method_is_one_that_occurs(cells) -> None:
    cells.write(PED, "scratch")
    cells.fail(PED, "mae", with_record=False)
    assert written(cells)["method"].tolist() == ["scratch", "mae"]


def test_what_is_not_registered_has_its_name_only(cells) -> None:
    cells.write(PED, "forgotten")
    cells.fail(PED, "imported-openmind", with_record=False)
    table = written(cells)
    assert table["method"].tolist() == ["forgotten", "imported-openmind"]
    assert (table.drop(columns="method") == "").all().all()


def test_a_deviation_stays_one_entry(cells, monkeypatch: pytest.MonkeyPatch) -> None:
    changed = replace(MaskedAutoencoder.declaration, deviations=('smaller; "quoted", faster', "other"))
    monkeypatch.setattr(MaskedAutoencoder, "declaration", changed)
    cells.write(PED, "mae")
    assert written(cells)["deviations"].tolist() == ['smaller, "quoted", faster; other']


def test_methods_are_not_loaded_before_they_are_needed() -> None:
    code = "import sys, mvp_bench.leaderboard.methods; print('mvp_bench.pretraining.methods' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
