"""Which files and folders a piece of code reads.

Converters read tables, side files and folders as they need; none of them has to say so, and none can forget to. The
interpreter tells of every file it opens and of every folder it lists (``sys.addaudithook``).
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path


@dataclass
class Reads:
    """What was read: absolute paths of files that were opened for reading, and of folders that were listed."""

    files: set[Path] = field(default_factory=set)
    folders: set[Path] = field(default_factory=set)


_noting: dict[int, Reads] = {}
"""Thread -> where its reading is noted."""


@contextlib.contextmanager
def noted_reads() -> Iterator[Reads]:
    """Note what this thread reads until the end of the block."""
    _install()
    thread = threading.get_ident()
    _noting[thread] = reads = Reads()
    try:
        yield reads
    finally:
        del _noting[thread]


@cache
def _install() -> None:
    """Once per process: a hook cannot be taken away again."""
    sys.addaudithook(_hook)


def _hook(event: str, arguments: tuple) -> None:
    if not _noting or event not in ("open", "os.scandir", "os.listdir"):
        return
    reads = _noting.get(threading.get_ident())
    path = arguments[0] if arguments else None
    if reads is None or isinstance(path, int):  # a file that is open already
        return
    name = Path(os.fsdecode(path or ".")).absolute()
    if event != "open":
        reads.folders.add(name)
    elif not _writes(*arguments[1:3]):
        reads.files.add(name)


def _writes(mode: str | None, flags: int) -> bool:
    if mode is not None:
        return bool(set("wax+") & set(mode))
    return bool(flags & (os.O_WRONLY | os.O_RDWR))
