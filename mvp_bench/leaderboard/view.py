"""What is shown: all tables together, for files, pictures and terminals alike."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from mvp_bench.leaderboard.reading import OpenCell


@dataclass(frozen=True, eq=False)  # tables have no single truth value
class Leaderboards:
    """All tables, as written."""

    overall: pd.DataFrame
    segmentation: pd.DataFrame
    classification: pd.DataFrame
    per_case: pd.DataFrame
    cost: pd.DataFrame
    methods: pd.DataFrame
    open_cells: tuple[OpenCell, ...]
    """Those without a result."""
    superseded: tuple[OpenCell, ...]
    """Those whose result, or failure, is not of today."""
    confidence: float
    """Level of all intervals."""

    @property
    def tables(self) -> dict[str, pd.DataFrame]:
        """File in results/ -> its table."""
        return {
            "leaderboard.csv": self.overall,
            "leaderboard_segmentation.csv": self.segmentation,
            "leaderboard_classification.csv": self.classification,
            "per_case.csv": self.per_case,
            "cost.csv": self.cost,
            "methods.csv": self.methods,
        }
