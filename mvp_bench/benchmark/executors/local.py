"""Workers on this machine: processes that die with this one, and are replaced where they die alone."""

from __future__ import annotations

import contextlib
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from mvp_bench.benchmark.jobs import Job, Ledger, work
from mvp_bench.parallel import lone_worker, worker_died
from mvp_bench.progress import log, progress

LOOK_S = 0.5
"""Seconds between two updates of the progress bar."""
DIED = "a worker process died without a message: it was killed, or ran out of memory (then use fewer workers)"


@dataclass(frozen=True)
class JobsOutcome:
    """What became of some jobs."""

    new: frozenset[str]
    """Keys of those that were done now."""
    kept: frozenset[str]
    """Keys of those that had been done before, or were done meanwhile by another command."""
    failed: Mapping[str, str]
    """Key -> reason."""


def run_jobs(jobs: Sequence[Job], workers: int, folder: Path) -> JobsOutcome:
    """Do all jobs. A worker that is killed fails the job that it was doing, and is replaced; the others go on.

    Args:
        workers: processes; with one, jobs are done in this process.
        folder: where this command may keep a ledger meanwhile.
    """
    ledger = Ledger(folder / uuid.uuid4().hex)
    ledger.folder.mkdir(parents=True)
    try:
        with _bar(len(jobs), ledger):
            if workers < 2:
                work(jobs, ledger, "0")
            else:
                _run_processes(jobs, workers, ledger)
        new, failed = ledger.known("new"), ledger.known("failed")
        return JobsOutcome(
            frozenset(new), frozenset(ledger.known("done") - new), {key: ledger.reason(key) for key in failed}
        )
    finally:
        shutil.rmtree(ledger.folder, ignore_errors=True)


def _run_processes(jobs: Sequence[Job], workers: int, ledger: Ledger) -> None:
    by_key = {job.key: job for job in jobs}
    running: dict[Future, tuple[str, Executor]] = {}
    started = 0
    with contextlib.ExitStack() as stack:
        for _ in range(min(workers, len(jobs))):
            started += 1
            _start(jobs, ledger, str(started), stack, running)
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name, _ = running.pop(future)
                try:
                    future.result()
                except BrokenProcessPool as error:
                    _bury(by_key, ledger, name)
                    started += 1
                    if started > len(jobs) + workers:  # they die before they begin anything
                        raise worker_died("benchmark") from error
                    _start(jobs, ledger, str(started), stack, running)


def _start(
    jobs: Sequence[Job],
    ledger: Ledger,
    name: str,
    stack: contextlib.ExitStack,
    running: dict[Future, tuple[str, Executor]],
) -> None:
    pool = stack.enter_context(lone_worker())
    running[pool.submit(work, jobs, ledger, name)] = (name, pool)


def _bury(jobs: Mapping[str, Job], ledger: Ledger, worker: str) -> None:
    """Fail the job that a dead worker was doing, so that its successor does not die of it too."""
    key = ledger.doing(worker)
    log.error("a worker process died%s", f" at {jobs[key].folder}" if key in jobs else "")
    if key in jobs and not jobs[key].is_done():
        jobs[key].fail(DIED)
        ledger.note("failed", key, DIED)


@contextlib.contextmanager
def _bar(total: int, ledger: Ledger) -> Iterator[None]:
    """A progress bar that counts settled jobs, whoever settles them."""
    ended = threading.Event()
    with progress("benchmark", total) as advance:

        def follow() -> None:
            shown = 0
            while True:
                last = ended.wait(LOOK_S)
                count = len(ledger.known("done") | ledger.known("failed"))
                advance(count - shown)
                shown = count
                if last:
                    return

        watcher = threading.Thread(target=follow, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()
