"""Files are compared with the checksums written beside them when they are first opened, once per process and state."""

from __future__ import annotations

from pathlib import Path

from mvp_bench.errors import InputError
from mvp_bench.identity import checksum_file

_verified: set[int] = set()
"""Hashes of (path, size, time of change, checksum) that were found right in this process."""


def verify_file(path: Path, checksum: str, fix: str) -> None:
    """Compare a file's bytes with the checksum that it was written with.

    Args:
        checksum: from :func:`~mvp_bench.identity.checksum_file`.
        fix: what to do where they differ.

    Raises:
        InputError: if the file is missing or not what was written.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(path, found=error.strerror or "no such file", expected="a file", fix=fix) from error
    state = hash((str(path), status.st_size, status.st_mtime_ns, checksum))
    if state in _verified:
        return
    if checksum_file(path) != checksum:
        raise InputError(
            path, found="content that is not what was written (its checksum differs)", expected="a whole file", fix=fix
        )
    _verified.add(state)
