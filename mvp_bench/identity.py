"""What an artefact is known by: one function makes every key, from content, settings and the version of the arithmetic.

Artefacts form a chain: sources -> dataset -> plan -> arrays -> encoder -> cell -> table. Each one's key covers the keys
of all that it is made from, so that nothing made from other data or settings is ever taken for it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
import typing
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Literal

import xxhash
from pydantic import BaseModel

from mvp_bench import __version__
from mvp_bench.config.marks import Outside
from mvp_bench.io import plain

Stage = Literal["phantom", "prepare", "plan", "pretrain", "finetune", "score"]
RESULT_VERSIONS: dict[Stage, int] = {"phantom": 1, "prepare": 1, "plan": 1, "pretrain": 1, "finetune": 1, "score": 1}
"""Stage -> version of its arithmetic. Raise one where a change of the code moves numbers: all made by that stage
or from it is then made anew. A test per stage compares golden numbers and fails where they move without it."""
SHORT = 10
"""Digits of a key in the names of folders."""
_PIECE = 1 << 20
_LEAVES = frozenset({str, int, float, bool, type(None)})


def key_of(stage: Stage, settings: Any, needs: Mapping[str, str | None] | None = None) -> str:
    """Make an artefact's key: SHA-256 (hex, 64 digits).

    Args:
        stage: what makes the artefact; its result version enters the key.
        settings: every setting that can change a number, resolved (never "auto"): JSON-able content, dataclasses or
            pydantic models. Fields whose type bears the mark ``Outside`` are left out, here and nowhere else.
        needs: name -> key (or hash of the content) of everything that the artefact is made from.
    """
    content = {
        "stage": stage,
        "version": RESULT_VERSIONS[stage],
        "settings": counted(settings),
        "needs": dict(needs or {}),
    }
    return hash_of(content)


def counted(settings: Any) -> Any:
    """Settings without the fields that bear the mark ``Outside``, as nested dicts, lists and plain values."""
    if dataclasses.is_dataclass(settings) and not isinstance(settings, type):
        inside = _inside(type(settings))
        return {f.name: counted(getattr(settings, f.name)) for f in dataclasses.fields(settings) if f.name in inside}
    if isinstance(settings, BaseModel):
        inside = _inside(type(settings))
        return {name: counted(getattr(settings, name)) for name in type(settings).model_fields if name in inside}
    if isinstance(settings, Mapping):
        return {str(name): v if type(v) in _LEAVES else counted(v) for name, v in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [counted(value) for value in settings]
    if isinstance(settings, (set, frozenset)):
        return sorted(counted(value) for value in settings)
    return settings


@cache
def _inside(kind: Any) -> frozenset[str]:
    """Names of a class' annotations that bear no mark ``Outside``."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return frozenset(name for name, hint in hints.items() if outside(hint) is None)


def outside(hint: Any) -> Outside | None:
    """The mark on a type, if it bears one."""
    return next((mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Outside)), None)


def hash_of(content: Any) -> str:
    """SHA-256 (hex, 64 digits) of any JSON-able content or dataclass, independent of key order."""
    text = json.dumps(content, sort_keys=True, default=plain, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def checksum_file(path: Path) -> str:
    """Checksum (XXH3, 128 bits, hex) of a file's bytes, read in pieces: finds damage, at some gigabytes a second."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while piece := handle.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def checksum_of(content: Any) -> str:
    """Checksum (XXH3, 128 bits, hex) of JSON-able content, independent of key order."""
    text = json.dumps(content, sort_keys=True, default=plain, separators=(",", ":"))
    return xxhash.xxh3_128(text.encode()).hexdigest()


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
