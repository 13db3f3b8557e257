"""Jobs that write a file, for tests of the worker loop."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from mvp_bench.benchmark.jobs import Job


@dataclass(frozen=True)
class PlainJob(Job):
    """Append a line to ``runs``, then write ``done``; or fail, die, or take its time first."""

    root: Path
    name: str
    wanted: tuple[str, ...] = ()
    deed: str = ""
    seconds: float = 0.0

    @property
    def key(self) -> str:
        return self.name

    @property
    def folder(self) -> Path:
        return self.root / self.name

    @property
    def needs(self) -> tuple[str, ...]:
        return self.wanted

    def is_done(self) -> bool:
        return (self.folder / "done").is_file()

    def run(self) -> None:
        assert all((self.root / need / "done").is_file() for need in self.wanted if (self.root / need).exists())
        with (self.folder / "runs").open("a") as runs:
            runs.write(f"{os.getpid()}\n")
        time.sleep(self.seconds)
        if self.deed == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.deed == "fail":
            raise RuntimeError("planted")
        (self.folder / "done").touch()

    def fail(self, error: BaseException | str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "failure").write_text(str(error))

    @property
    def runs(self) -> int:
        path = self.folder / "runs"
        return len(path.read_text().splitlines()) if path.is_file() else 0
