"""What an artefact is known by: hashes of content and settings, and the version of the code."""

from __future__ import annotations

import hashlib
import json
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from mvp_bench import __version__
from mvp_bench.io import plain


def hash_of(content: Any) -> str:
    """SHA-256 (hex, 64 digits) of any JSON-able content or dataclass, independent of key order."""
    text = json.dumps(content, sort_keys=True, default=plain, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while piece := handle.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


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
