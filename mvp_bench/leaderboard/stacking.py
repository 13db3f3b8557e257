"""Per-case tables of many cells in one, column by column: put together one by one, thousands of them take minutes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from mvp_bench.cells.per_case import PerCaseColumns


def stacked(
    tables: Sequence[PerCaseColumns], known: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> pd.DataFrame:
    """Tables below each other, with what is known of each in all of its rows.

    Args:
        tables: columns of at least one table, all of one length within a table.
        known: of each table: column -> the value in each of its rows.
        columns: of the result; what a table lacks is empty.
    """
    lengths = [len(table["case"]) for table in tables]
    whole: dict[str, Any] = {}
    for name in columns:
        if name in known[0]:
            whole[name] = np.repeat(_together([facts[name] for facts in known]), lengths)
        else:
            whole[name] = _below(name, tables, lengths)
    return pd.DataFrame(whole)


def _below(name: str, tables: Sequence[PerCaseColumns], lengths: Sequence[int]) -> Any:
    parts = [table.get(name) for table in tables]
    if any(isinstance(part, list) for part in parts):
        texts = (part if part is not None else [None] * n for part, n in zip(parts, lengths, strict=True))
        return np.array(list(chain.from_iterable(texts)), dtype=object)
    numbers = (part if part is not None else np.full(n, np.nan) for part, n in zip(parts, lengths, strict=True))
    return np.concatenate(list(numbers))


def _together(values: list[Any]) -> np.ndarray:
    """Values as an array of their own kind; unknown ones, and whole numbers beyond 64 bits, stay what they are."""
    if all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in values):
        return np.array(values, dtype=np.int64)
    if all(isinstance(value, float) for value in values):
        return np.array(values, dtype=np.float64)
    one = np.empty(len(values), dtype=object)
    one[:] = values
    return one
