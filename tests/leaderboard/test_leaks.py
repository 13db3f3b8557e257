"""Leaks in the tables: unknown is empty and says why."""

from __future__ import annotations

import numpy as np

from mvp_bench.cells.leak import leak_of, unknown_leak, write_leak
from tests.leaderboard.boards import ADNI, PED, build, pick


def test_leak_is_the_mean_over_runs_and_empty_if_unknown(cells) -> None:
    for task in (PED, ADNI):
        cells.write(task, "scratch")
        for seed, percent in ((0, 25.0), (1, 50.0)):
            shared = [f"{n:04d}" for n in range(round(percent / 25))]
            write_leak(cells.write(task, "mae", seed), leak_of(4, shared))
            folder = cells.write(task, "brainmvp", seed)
            write_leak(folder, leak_of(4, shared) if seed else unknown_leak("nobody looked"))
    boards = build(cells)
    for table in (boards.segmentation, boards.classification):
        leaks = table.groupby("method")["leak_percent"].unique()
        assert leaks["scratch"].tolist() == [0.0] and leaks["mae"].tolist() == [37.5]
        assert np.isnan(leaks["brainmvp"]).all()
        notes = table.groupby("method")["leak_note"].unique()
        assert notes["brainmvp"].tolist() == ["nobody looked"] and notes["mae"].tolist() == [""]


def test_a_leak_that_may_be_more_says_so(cells) -> None:
    write_leak(cells.write(PED, "mae"), leak_of(4, ["0001"], "images of Dataset502"))
    write_leak(cells.write(PED, "brainmvp"), leak_of(4, [], "images of Dataset502"))
    board = build(cells).segmentation.query("target == 'mean'")
    assert pick(board, method="mae")["leak_percent"] == 25
    assert pick(board, method="mae")["leak_note"] == "at least: not compared: images of Dataset502"
    row = pick(board, method="brainmvp")
    assert np.isnan(row["leak_percent"]) and row["leak_note"] == "not compared: images of Dataset502"


def test_a_damaged_leak_is_unknown(cells) -> None:
    (cells.write(PED, "mae") / "leak.json").write_text('{"leak_percent": 0}')
    row = pick(build(cells).segmentation, target="mean")
    assert np.isnan(row["leak_percent"]) and "damaged" in row["leak_note"]
