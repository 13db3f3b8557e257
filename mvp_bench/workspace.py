"""Where things live, and how they are written so that a killed run leaves nothing half-done.

This is the only module that touches environment variables: nnU-Net finds its folders through three of them, so they
are set inside the process from ``--root`` (and reach worker processes by inheritance). Users never set any.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock

from mvp_bench import __version__
from mvp_bench.errors import InputError


@dataclass(frozen=True)
class Workspace:
    """The folders under one root. Nothing is created until something is written."""

    root: Path

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def plans(self) -> Path:
        return self.root / "plans"

    @property
    def results(self) -> Path:
        return self.root / "results"

    @property
    def cells(self) -> Path:
        return self.results / "cells"

    @property
    def pretraining(self) -> Path:
        return self.results / "pretraining"

    @property
    def logs(self) -> Path:
        return self.results / "logs"

    def dataset(self, name: str) -> Path:
        """Folder of a dataset's ``dataset.json`` and ``splits.json``; ``name`` is ``DatasetNNN_Name``."""
        return self.datasets / name

    def plan(self, name: str) -> Path:
        """Folder of a dataset's ``fingerprint.json``, ``plan.json`` and preprocessed cases."""
        return self.plans / name

    def open(self) -> Workspace:
        """Make the folders, point nnU-Net at them, and return self.

        Raises:
            InputError: if the root cannot be written to.
        """
        for folder in (self.datasets, self.plans, self.results, self.logs):
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = folder / f".write-test-{os.getpid()}"
                probe.touch()
                probe.unlink()
            except OSError as error:
                raise InputError(
                    f"--root {self.root}",
                    found=f"{folder} cannot be written to ({error.strerror or error})",
                    expected="a folder with write permission",
                    fix="Name another folder with --root, or change its permissions.",
                ) from error
        os.environ["nnUNet_raw"] = str(self.datasets.resolve())
        os.environ["nnUNet_preprocessed"] = str(self.plans.resolve())
        os.environ["nnUNet_results"] = str((self.results / "nnunet").resolve())
        os.environ["nnUNet_compile"] = "f"  # torch.compile is our own option, never switched on behind the user's back
        return self


def point_nnunet_results(folder: Path) -> None:
    """Make nnU-Net write what this process trains into ``folder``."""
    os.environ["nnUNet_results"] = str(folder.resolve())


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
    return json.dumps(content, indent=1, default=_plain, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: if it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(path, found="no such file", expected="a JSON file") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, found=f"not JSON ({error})", expected="a JSON file") from error


def hash_of(content: Any) -> str:
    """SHA-256 (hex, 64 digits) of any JSON-able content or dataclass, independent of key order."""
    text = json.dumps(content, sort_keys=True, default=_plain, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _plain(value: Any) -> Any:
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


@lru_cache(maxsize=1)
def code_version() -> str:
    """Package version, with the git commit (and ``+changes``) where the package runs from a checkout."""
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return __version__
    try:
        commit = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain", "--", "."], capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return f"{__version__}+g{commit}{'.changes' if dirty else ''}"
