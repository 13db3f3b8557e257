"""Logging to a file and the terminal, and progress bars with an estimate of the time left."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# Of the processes that torchrun starts, one speaks.
_SILENT = "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK", "0") != "0"
console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else 160, quiet=_SILENT)
log = logging.getLogger("mvp_bench")


class _LogFile(logging.FileHandler):
    """A log file that a full disk ends without a word: whatever is written next says so better."""

    def handleError(self, record: logging.LogRecord) -> None:
        if isinstance(sys.exc_info()[1], OSError):
            log.removeHandler(self)
        else:
            super().handleError(record)


def start_logging(logs: Path, verb: str, verbose: bool) -> None:
    """Send records to the terminal (info and above, or all with ``verbose``) and all of them to ``logs/<verb>.log``."""
    log.setLevel(logging.DEBUG)
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    terminal = RichHandler(console=console, show_path=False, show_time=False)
    terminal.setLevel(logging.DEBUG if verbose else logging.INFO)
    logs.mkdir(parents=True, exist_ok=True)
    file = _LogFile(logs / f"{verb}.log", encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(terminal)
    log.addHandler(file)
    log.propagate = False


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with count, elapsed and remaining time; yields ``advance(n)``. Start and end go to the log file."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(description, total=total)
        log.debug("%s: start, %d steps", description, total)

        def advance(n: int = 1) -> None:
            bar.update(task, advance=n)

        yield advance
    log.debug("%s: end", description)
