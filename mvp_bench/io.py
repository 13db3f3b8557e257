"""Files that are written whole or not at all, so that a killed run leaves nothing half-done."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from mvp_bench.edges import NO_LOCKS, WRITING, in_words, reading, require_regular, writing
from mvp_bench.errors import InputError, MachineError

_WITHOUT_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that have no locks, beside ENOLCK."""


class WorkspaceLock(FileLock):
    """An inter-process lock, freed by the system when its holder dies.

    A file system without locks is said at once: filelock waits for ever there, or works on with a file that a killed
    process leaves behind, as its version has it.
    """

    def acquire(self, timeout: float | None = None, *args: Any, **options: Any) -> Any:
        """Wait for the lock and hold it; as :meth:`filelock.FileLock.acquire`.

        Raises:
            MachineError: if the lock's file cannot be made or locked.
            Timeout: if it is held by another for ``timeout`` seconds.
        """
        try:
            _has_locks(Path(self.lock_file).parent)
            return super().acquire(timeout, *args, **options)
        except Timeout:
            raise
        except OSError as error:
            if error.errno not in WRITING and error.errno not in _WITHOUT_LOCKS:
                raise
            expected, fix = WRITING.get(error.errno, NO_LOCKS)
            raise MachineError(
                self.lock_file, found=f"a lock that cannot be had ({in_words(error)})", expected=expected, fix=fix
            ) from error


@lru_cache(maxsize=1024)
def _has_locks(folder: Path) -> None:
    """Try a lock in a folder, once per process.

    Raises:
        OSError: if there are none.
    """
    try:
        import fcntl
    except ImportError:  # Windows, whose files always can be locked
        return
    with tempfile.TemporaryFile(dir=folder) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


def lock(path: Path) -> WorkspaceLock:
    """An inter-process lock beside ``path``; freed by the system when its holder dies."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    return WorkspaceLock(path.with_name(f".{path.name}.lock"))


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success fsync it and rename it to ``path``, on failure remove it.

    Raises:
        MachineError: if the disk is full, or the folder cannot be written to.
    """
    suffix = "".join(path.suffixes[-2:])  # writers pick the format by the ending
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp{suffix}"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it replaces ``path``, on failure it is removed.

    Raises:
        MachineError: if the disk is full, or the folder cannot be written to.
    """
    temporary = path.parent / f".{path.name}.tmp"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)  # left over from a killed run
        temporary.mkdir()
        try:
            yield temporary
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` atomically (UTF-8, line feeds on every platform)."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` atomically; key order is kept (nnU-Net's region labels depend on it)."""
    write_text(path, _as_text(content))


def write_json_if_changed(path: Path, content: Any) -> None:
    """Write ``content`` atomically unless the file holds just that."""
    text = _as_text(content)
    if not path.is_file() or path.read_text(encoding="utf-8", errors="replace") != text:
        write_text(path, text)


def _as_text(content: Any) -> str:
    return json.dumps(content, indent=1, default=plain, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: if it is missing, no ordinary file or not JSON.
    """
    if not os.path.lexists(path):
        raise InputError(path, found="no such file", expected="a JSON file")
    require_regular(path)
    with reading(path, "a JSON file"):
        content = path.read_bytes()
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, a number or a nesting beyond all measure
        raise InputError(path, found=f"not JSON ({error})", expected="a JSON file") from error


def plain(value: Any) -> Any:
    """A value that JSON does not know as one that it does.

    Raises:
        TypeError: if there is none.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    if isinstance(value, (set, frozenset, tuple)):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
