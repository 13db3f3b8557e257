"""The journal of an unfinished preparation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mvp_bench.datasets.journal import JOURNAL, STAGING, Journal, run_kept, staging_folder, step_key
from mvp_bench.errors import InputError
from mvp_bench.parallel import Inline


def test_what_was_kept_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.add("a", {"x": [1, 2]})
    journal.add("b", None)
    again = Journal(path)
    assert "a" in again and again["a"] == {"x": [1, 2]} and again["b"] is None and len(again) == 2


@pytest.mark.parametrize("rest", ['{"key": "c", "resu', '{"key": "c", "result": 1}', "\x00\x00\x00", "rubbish\n"])
def test_a_line_that_was_cut_is_dropped(tmp_path: Path, rest: str) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path).add("a", 1)
    with path.open("a") as handle:
        handle.write(rest)
    journal = Journal(path)
    assert len(journal) == 1
    journal.add("c", 2)
    assert Journal(path)["c"] == 2 and len(Journal(path)) == 2


def test_without_a_file_nothing_is_kept(tmp_path: Path) -> None:
    journal = Journal()
    journal.add("a", 1)
    assert "a" not in journal


def test_only_new_jobs_run_and_the_order_stays(tmp_path: Path) -> None:
    ran: list[int] = []

    def square(number: int) -> int:
        ran.append(number)
        return number**2

    path = tmp_path / "journal.jsonl"
    for jobs, new in (([3, 1], [3, 1]), ([1, 2, 3], [2]), ([], [])):
        ran.clear()
        keys = [str(job) for job in jobs]
        results = run_kept(Inline(), square, jobs, keys, int, "square", Journal(path))
        assert results == [job**2 for job in jobs] and ran == new


def test_a_step_is_known_by_its_files(tmp_path: Path) -> None:
    file, folder = tmp_path / "file", tmp_path / "series"
    folder.mkdir()
    (folder / "1.dcm").write_text("a")
    file.write_text("a")
    key = step_key("mend", [file, folder])
    assert step_key("mend", [file, folder]) == key != step_key("else", [file, folder])
    os.utime(file, ns=(0, 0))
    touched = step_key("mend", [file, folder])
    (folder / "2.dcm").write_text("b")
    assert len({key, touched, step_key("mend", [file, folder]), step_key("mend", [tmp_path / "missing"])}) == 4


def test_the_staging_folder(tmp_path: Path) -> None:
    folder = tmp_path / "dataset"
    with pytest.raises(KeyboardInterrupt), staging_folder(folder, {"seed": 1}) as (staging, journal):
        journal.add("a", 1)
        (staging / "made").touch()
        raise KeyboardInterrupt
    with staging_folder(folder, {"seed": 1}) as (staging, journal):
        assert "a" in journal and (staging / "made").exists() and (staging / JOURNAL).exists()
    assert not folder.exists(), "nothing came of it"
    with pytest.raises(KeyboardInterrupt), staging_folder(folder, {"seed": 1}) as (staging, journal):
        journal.add("a", 1)
        raise KeyboardInterrupt
    with pytest.raises(InputError), staging_folder(folder, {"seed": 2}) as (staging, journal):
        assert "a" not in journal
        (folder / "dataset.json").touch()
        raise InputError("a", found="b", expected="c")
    assert folder.is_dir() and not (folder / STAGING).exists()
