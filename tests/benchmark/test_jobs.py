"""The worker loop: each job once, in the order of needs; failures and deaths stay where they are."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from mvp_bench.benchmark.executors.local import DIED, run_jobs
from mvp_bench.io import lock
from tests.benchmark.plain_jobs import PlainJob


@pytest.mark.parametrize("workers", [1, 2])
def test_every_job_is_done_once_and_needs_come_first(tmp_path: Path, workers: int) -> None:
    jobs = [PlainJob(tmp_path, "late", wanted=("early",)), PlainJob(tmp_path, "early", seconds=0.2)]
    jobs += [PlainJob(tmp_path, f"other{i}") for i in range(4)]
    outcome = run_jobs(jobs, workers, tmp_path / "ledgers")
    assert outcome.new == {job.key for job in jobs} and not outcome.kept and not outcome.failed
    assert [job.runs for job in jobs] == [1] * len(jobs)
    again = run_jobs(jobs, 1, tmp_path / "ledgers")
    assert again.kept == outcome.new and not again.new
    assert not list((tmp_path / "ledgers").iterdir()), "nothing is left of a command's ledger"


def test_a_failed_job_fails_those_that_need_it_and_nothing_else(tmp_path: Path) -> None:
    jobs = [
        PlainJob(tmp_path, "bad", deed="fail"),
        PlainJob(tmp_path, "child", wanted=("bad",)),
        PlainJob(tmp_path, "good"),
    ]
    outcome = run_jobs(jobs, 1, tmp_path / "ledgers")
    assert outcome.new == {"good"}
    assert outcome.failed == {"bad": "planted", "child": "pre-training failed: planted"}
    assert (tmp_path / "child" / "failure").read_text() == "pre-training failed: planted"
    assert jobs[0].runs == 1 and jobs[1].runs == 0


def test_a_killed_worker_fails_its_job_and_is_replaced(tmp_path: Path) -> None:
    jobs = [PlainJob(tmp_path, "deadly", deed="die"), *(PlainJob(tmp_path, f"other{i}", seconds=0.1) for i in range(5))]
    outcome = run_jobs(jobs, 2, tmp_path / "ledgers")
    assert outcome.failed == {"deadly": DIED}
    assert outcome.new == {f"other{i}" for i in range(5)}
    assert jobs[0].runs == 1, "its successor does not try it again"
    assert run_jobs(jobs[1:], 1, tmp_path / "ledgers").kept == outcome.new


def test_what_another_command_is_doing_is_waited_for_not_done_twice(tmp_path: Path) -> None:
    job = PlainJob(tmp_path, "theirs")
    job.folder.mkdir()
    taken = threading.Event()

    def other() -> None:  # a lock belongs to the thread that took it
        with lock(job.folder / "job"):
            taken.set()
            time.sleep(0.5)
            (job.folder / "done").touch()

    thread = threading.Thread(target=other)
    thread.start()
    taken.wait()
    outcome = run_jobs([job, PlainJob(tmp_path, "mine")], 2, tmp_path / "ledgers")
    thread.join()
    assert outcome.kept == {"theirs"} and outcome.new == {"mine"} and job.runs == 0
