"""The table of methods: what each contestant of the leaderboards is, as it declares itself."""

from __future__ import annotations

from typing import Any

import pandas as pd

from mvp_bench.leaderboard.columns import METHOD_COLUMNS
from mvp_bench.leaderboard.reading import Cells
from mvp_bench.registry import METHODS, SCRATCH

BETWEEN = "; "
"""Between the entries of a list."""


def methods_table(cells: Cells) -> pd.DataFrame:
    """A row for each method that occurs in the cells, finished or not: scratch first, then by name.

    What is not registered (any more), and imported weights, which declare nothing, have empty fields.
    """
    names = {cell.spec.method for cell in cells.finished} | {cell.method for cell in cells.open}
    rows = [_facts(name) for name in sorted(names, key=lambda name: (name != SCRATCH, name))]
    return pd.DataFrame(rows, columns=list(METHOD_COLUMNS))


def _facts(name: str) -> dict[str, Any]:
    if name == SCRATCH:
        return {
            "method": name,
            "title": "From scratch",
            "what": "no pre-training: the encoder's fresh weights",
            "transferred": "nothing",
        }
    if name not in METHODS:
        return {"method": name}
    declaration = METHODS[name].declaration
    facts = {column: getattr(declaration, column, "") for column in METHOD_COLUMNS}
    return facts | {
        "method": name,
        "what": METHODS.summary(name),
        "intensity": BETWEEN.join(declaration.intensity),
        "deviations": BETWEEN.join(text.replace(BETWEEN, ", ") for text in declaration.deviations),
    }
