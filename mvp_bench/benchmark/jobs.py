"""A piece of the benchmark's work, and the loop in which a worker does such pieces.

A job's files and its lock are the only truth: whether it is done is read from disk, and who holds its lock is doing it.
Any number of workers, of one command or of several, may therefore work on the same jobs.
"""

from __future__ import annotations

import os
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import Timeout

from mvp_bench.errors import InputError
from mvp_bench.io import lock
from mvp_bench.progress import log

POLL_S = 0.2
"""Seconds between two looks at jobs that others are doing."""


class Job(ABC):
    """Something to be done once: picklable, known by its key."""

    @property
    @abstractmethod
    def key(self) -> str:
        """Key of the artefact that it makes."""

    @property
    @abstractmethod
    def folder(self) -> Path:
        """Folder of the artefact."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of the jobs whose artefacts it needs."""
        return ()

    @abstractmethod
    def is_done(self) -> bool:
        """Whether its artefact is there and whole."""

    @abstractmethod
    def run(self) -> None:
        """Do it, going on where an earlier attempt stopped. Any exception means that it failed."""

    @abstractmethod
    def fail(self, error: BaseException | str) -> None:
        """Write down that it failed, and why."""


@dataclass(frozen=True)
class Ledger:
    """What the workers of one command have found out about its jobs: one small file per fact, shared by all of them.

    Args:
        folder: of this command alone; removed at its end.
    """

    folder: Path

    def note(self, kind: str, key: str, text: str = "") -> None:
        """Note a fact: ``done``, ``new`` (done by this command) or ``failed``, with the reason."""
        path = self.folder / kind / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def known(self, kind: str) -> set[str]:
        """Keys of the jobs of which a fact is noted."""
        folder = self.folder / kind
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()

    def reason(self, key: str) -> str:
        """Why a job failed."""
        return (self.folder / "failed" / key).read_text(encoding="utf-8")

    def begin(self, worker: str, key: str) -> None:
        """Note which job a worker is doing, and in which process; empty: none."""
        path = self.folder / "doing" / worker
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{key} {os.getpid()} {socket.gethostname()}" if key else "", encoding="utf-8")

    def doing(self, worker: str) -> str:
        """Key of the job that a worker was doing when it last said so; empty: none."""
        path = self.folder / "doing" / worker
        return path.read_text(encoding="utf-8").partition(" ")[0] if path.is_file() else ""


def work(jobs: Sequence[Job], ledger: Ledger, worker: str) -> None:
    """Do jobs until each is done or has failed: always the first one that nobody else is doing and that has what it
    needs. A failed job fails those that need it, and nothing else.

    Args:
        jobs: in the order of preference.
        worker: name, for the ledger.
    """
    while left := _left(jobs, ledger):
        if not any(_attempt(job, ledger, worker) for job in _ready(left, jobs, ledger)):
            time.sleep(POLL_S)


def _left(jobs: Sequence[Job], ledger: Ledger) -> list[Job]:
    settled = ledger.known("done") | ledger.known("failed")
    return [job for job in jobs if job.key not in settled]


def _ready(left: Sequence[Job], jobs: Sequence[Job], ledger: Ledger) -> Iterator[Job]:
    """The jobs that have what they need; those that never will are failed."""
    ours = {job.key for job in jobs}
    for job in left:
        failed = ledger.known("failed")
        lost = [need for need in job.needs if need in failed]
        if lost:
            reason = f"pre-training failed: {ledger.reason(lost[0])}"
            job.fail(reason)
            ledger.note("failed", job.key, reason)
        elif all(need not in ours or need in ledger.known("done") for need in job.needs):
            yield job


def _attempt(job: Job, ledger: Ledger, worker: str) -> bool:
    """Do a job unless someone else is at it; returns whether it is settled now."""
    job.folder.mkdir(parents=True, exist_ok=True)
    held = lock(job.folder / "job")
    try:
        held.acquire(timeout=0)
    except Timeout:
        return False
    try:
        if job.is_done():
            ledger.note("done", job.key)
            return True
        ledger.begin(worker, job.key)
        try:
            job.run()
        except Exception as error:  # one failed job must not end the others; it is written down with its traceback
            reason = str(error) or type(error).__name__
            job.fail(error)
            ledger.note("failed", job.key, reason)
            log.log(_level(error), "%s failed: %s", job.folder, reason, exc_info=not isinstance(error, InputError))
            return True
        ledger.note("new", job.key)
        ledger.note("done", job.key)
        return True
    finally:
        ledger.begin(worker, "")
        held.release()


def _level(error: Exception) -> int:
    return 40 if isinstance(error, InputError) else 10  # the traceback of anything else stands in the job's own file
