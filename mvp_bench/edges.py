"""The edges of the program, where files are read and written: what goes wrong there becomes one message that names the
file.

Two kinds of trouble are told apart. A file that cannot be used is bad input like any other. A full disk, memory that is
used up or a file system without locks is no fault of the data: it stops the command, which goes on from where it
stopped when it is started again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from mvp_bench.errors import InputError, MachineError

AGAIN = "Then start the same command again: it goes on from where it stopped."
_ROOM = ("room on the disk", f"Free some space, or put the workspace on another disk with --root. {AGAIN}")
_PERMISSION = ("permission to write there", f"Change the permissions, or name another folder. {AGAIN}")
_SOUND = ("a disk and a network that work", f"Look at the disk and at the system's log. {AGAIN}")
_MEMORY = ("enough memory", f"Use fewer workers (--workers), or a machine with more memory. {AGAIN}")
_FILES = ("fewer open files", f"Raise the limit of open files (ulimit -n), or use fewer workers. {AGAIN}")
NO_LOCKS = (
    "a file system on which files can be locked",
    "Put the workspace on another disk with --root, or have this file system mounted with locks (NFS: a running lock "
    f"service, or the option local_lock=all where one machine alone works in the folder). {AGAIN}",
)
MACHINE: dict[int, tuple[str, str]] = {
    errno.ENOSPC: _ROOM,
    errno.EDQUOT: _ROOM,
    errno.EFBIG: ("room for a file of this size", f"Raise the limit of file sizes, or use another disk. {AGAIN}"),
    errno.EROFS: ("a file system that can be written to", f"Name another folder with --root. {AGAIN}"),
    errno.EIO: _SOUND,
    errno.ESTALE: _SOUND,
    errno.ETIMEDOUT: _SOUND,
    errno.ENODEV: _SOUND,
    errno.ENOMEM: _MEMORY,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
    errno.ENOLCK: NO_LOCKS,
}
"""Number of a system error that is the machine's -> what is expected, and what to do."""
WRITING: dict[int, tuple[str, str]] = {
    **MACHINE,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.ENAMETOOLONG: ("a shorter path", f"Name a folder with a shorter path. {AGAIN}"),
}
"""The same, where something is written: a folder that one may not write to stops the command too."""
UNREADABLE: tuple[type[Exception], ...] = (
    OSError,
    MemoryError,
    OverflowError,
    RecursionError,
    UnicodeDecodeError,
    EOFError,
    zlib.error,
)
"""What reading a file may raise, whatever is in it."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_LITTLE = 1 << 16
"""Bytes that are written to try a disk."""
_LONGEST = 300
"""Characters of a library's own message that are passed on."""


@contextlib.contextmanager
def reading(
    path: Path,
    expected: str = "a readable file",
    fix: str = "",
    also: tuple[type[Exception], ...] = (),
    found: str = "what cannot be read",
) -> Iterator[None]:
    """Stand around the reading of one file.

    Args:
        expected: what the file should be.
        fix: what to do where it is not.
        also: what a library raises besides for files that it cannot read.
        found: what the file then is, in words.

    Raises:
        InputError: naming the file, for anything that reading it raised; one that was raised inside goes through.
        MachineError: if disk or memory are to blame.
    """
    kinds: tuple[type[Exception], ...] = (*UNREADABLE, *also)
    try:
        yield
    except kinds as error:
        if isinstance(error, InputError):
            raise
        raise (_machine(error, path, MACHINE, "read") or _unreadable(error, path, expected, fix, found)) from error


@contextlib.contextmanager
def writing(where: Path, also: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Stand around the writing of files.

    Args:
        where: file or folder; named where the error does not name a file itself.
        also: what a library turns system errors into, be it without the system's words; where the disk is sound,
            such errors go through.

    Raises:
        MachineError: if the disk is full, the folder cannot be written to, or the like; what is written stays whole.
    """
    kinds: tuple[type[Exception], ...] = (OSError, MemoryError, *also)
    try:
        yield
    except kinds as error:
        trouble = _machine(error, where, WRITING, "written")
        if trouble is None and isinstance(error, also) and not isinstance(error, InputError):
            trouble = _tried(where)
        if trouble is None:
            raise
        raise trouble from error


@contextlib.contextmanager
def outermost(where: Path) -> Iterator[None]:
    """Stand around a whole command: trouble of the machine becomes one message, whatever raised it.

    Args:
        where: named where nothing more precise is known.
    """
    try:
        yield
    except Exception as error:
        trouble = None if isinstance(error, InputError) else _machine(error, where, WRITING, "read or written")
        if trouble is None:
            raise
        raise trouble from error


def require_regular(path: Path) -> int:
    """Return the size of a file in bytes; refuse what is no ordinary file: reading a pipe or a device may never end.

    Raises:
        InputError: if it is missing, a folder, a pipe, a socket or a device.
        MachineError: if the disk is to blame.
    """
    with reading(path):
        status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise InputError(path, found=kind, expected="an ordinary file")
    return status.st_size


def in_words(error: BaseException) -> str:
    """What an exception says, on one line; its kind where it says nothing."""
    text = (error.strerror if isinstance(error, OSError) else "") or str(error)
    text = " ".join(text.split())
    return f"{text[:_LONGEST]}..." if len(text) > _LONGEST else text or type(error).__name__


def _machine(error: Exception, where: Path, known: dict[int, tuple[str, str]], done: str) -> MachineError | None:
    """The error as trouble of the machine; None if it is of another kind.

    Args:
        done: what could not be done, in words.
    """
    number = _number_of(error, known)
    if number is None:
        return None
    expected, fix = known[number]
    named = getattr(error, "filename", None)
    where = Path(os.fsdecode(named)) if isinstance(named, (str, bytes)) else where
    said = os.strerror(number) if in_words(error) == type(error).__name__ else in_words(error)
    return MachineError(where, found=f"it cannot be {done} ({said})", expected=expected, fix=fix)


def _tried(where: Path) -> MachineError | None:
    """Whether a little can be written where a library could not, and failed to say why."""
    try:
        with tempfile.TemporaryFile(dir=where if where.is_dir() else where.parent) as handle:
            handle.write(bytes(_LITTLE))
            handle.flush()
    except OSError as error:
        return _machine(error, where, WRITING, "written")
    return None


def _number_of(error: BaseException, known: dict[int, tuple[str, str]]) -> int | None:
    """The system error behind an exception: libraries wrap it in exceptions of their own, with the system's words."""
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in known else None
    if isinstance(error, OSError | RuntimeError) or type(error).__name__ == "SafetensorError":
        return next((number for number in known if os.strerror(number) in str(error)), None)
    return None


def _unreadable(error: Exception, path: Path, expected: str, fix: str, found: str) -> InputError:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        found = f"a link to {path.readlink()}, where there is nothing"
        return InputError(path, found=found, expected=expected, fix=fix)
    reason = "nested too deeply" if isinstance(error, RecursionError) else in_words(error)
    return InputError(path, found=f"{found} ({reason})", expected=expected, fix=fix)
