"""Records that know their own content: a JSON file with a checksum of everything else in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mvp_bench.errors import InputError
from mvp_bench.identity import checksum_of
from mvp_bench.io import plain, read_json, write_json

CHECKSUM = "checksum"
"""Field of a sealed file that holds the checksum of the others."""


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content, as JSON knows it, with its checksum."""
    body = {k: v for k, v in json.loads(json.dumps(content, default=plain)).items() if k != CHECKSUM}
    return {**body, CHECKSUM: checksum_of(body)}


def write_sealed(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record atomically, with its checksum."""
    write_json(path, sealed(content))


def read_sealed(path: Path, fix: str) -> dict[str, Any]:
    """Read a record and verify it.

    Args:
        fix: what to do where it is damaged.

    Raises:
        InputError: if the file is missing, no JSON object, without a checksum (older versions wrote none), or if its
            content is not what was written.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(path, found=f"a {type(content).__name__}", expected="a JSON object", fix=fix)
    if CHECKSUM not in content:
        raise InputError(
            path, found="no checksum: it is of an older format, or was edited", expected="a sealed record", fix=fix
        )
    body = {k: v for k, v in content.items() if k != CHECKSUM}
    if checksum_of(body) != content[CHECKSUM]:
        raise InputError(
            path, found="content that is not what was written (its checksum differs)", expected="a whole file", fix=fix
        )
    return content
