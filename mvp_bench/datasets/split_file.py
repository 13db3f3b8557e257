"""BrainMVP's split JSON as a split source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mvp_bench.datasets.schema import Case


def read_split_file(path: Path, cases: Mapping[str, Case]) -> dict[str, list[str]]:
    """Part -> patients."""
    raise NotImplementedError(path, cases)
