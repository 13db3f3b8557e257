"""Files that are written whole or not at all, so that a killed run leaves nothing half-done."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from mvp_bench.errors import InputError


def lock(path: Path) -> FileLock:
    """An inter-process lock beside ``path``; freed by the system when its holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.lock"))


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; on success fsync it and rename it to ``path``, on failure remove it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:])  # writers pick the format by the ending
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp{suffix}"
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """Give a temporary folder to fill; on success it replaces ``path``, on failure it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.tmp"
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
        InputError: if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(path, found="no such file", expected="a JSON file") from error
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
