"""``leak.json`` beside a cell's results: how many of its test patients the encoder has seen in pre-training.

It is no part of cell.json, which is never written again: a crosswalk added later changes what is known of the leak, not
the result. What was not looked at is unknown (None) and says why; 0 means that everything was compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from mvp_bench.cells.spec import CellSpec, Strict
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.sealed import CHECKSUM, read_sealed, sealed, write_sealed

LEAK_FILE = "leak.json"
AT_LEAST = "at least: "
"""Begins the note of a leak that may be larger."""


class CellLeak(Strict):
    """What is known of a cell's leak."""

    leak_percent: float | None = Field(default=None, ge=0, le=100)
    """Share of the test patients whom the encoder has seen; None if unknown."""
    note: str = ""
    """Why it is unknown, or may be more; empty where everything was compared."""
    test_patients: int | None = None
    shared: list[str] = Field(default_factory=list)
    """Test patients who were seen, as ids of the task."""


def leak_of(test_patients: int, shared: Sequence[str], not_compared: str = "") -> CellLeak:
    """What a comparison found.

    Args:
        test_patients: people in the test part.
        shared: those who were seen in pre-training.
        not_compared: what was not looked at ("images of Dataset503_ISLES22"); empty if nothing. Nobody found is then
            unknown, and anybody found is a lower bound.
    """
    percent = round(100 * len(shared) / test_patients, 4) if test_patients else None
    note = "" if test_patients else "no test patients"
    if not_compared:
        note = f"not compared: {not_compared}"
        percent, note = (percent, AT_LEAST + note) if shared else (None, note)
    return CellLeak(leak_percent=percent, note=note, test_patients=test_patients, shared=list(shared))


def unknown_leak(reason: str) -> CellLeak:
    """A leak of which nothing is known, and why."""
    return CellLeak(note=reason)


def write_leak(folder: Path, leak: CellLeak) -> None:
    """Bring leak.json up to date where the cell has been run; it is not touched without need."""
    path, content = folder / LEAK_FILE, sealed(leak.model_dump(mode="json"))
    if not folder.is_dir():
        return
    try:
        if read_json(path) == content:
            return
    except InputError:
        pass  # missing or damaged: written anew
    write_sealed(path, content)


def read_leak(folder: Path, spec: CellSpec) -> CellLeak:
    """What is known of a cell's leak: nothing is pre-trained for scratch; a missing or damaged file is unknown."""
    if spec.needs.encoder is None:
        return CellLeak(leak_percent=0)
    path = folder / LEAK_FILE
    if not path.is_file():
        return unknown_leak("not looked for")
    try:
        content = read_sealed(path, "The next mvp_benchmark writes it anew.")
        return CellLeak.model_validate({k: v for k, v in content.items() if k != CHECKSUM})
    except (InputError, ValidationError) as error:
        found = error.fault if isinstance(error, InputError) else "no such record"
        return unknown_leak(f"{LEAK_FILE} is damaged ({found.removeprefix(f'{path}: ')})")
