"""A resample spelt out."""

from __future__ import annotations

import numpy as np
import pandas as pd


def repeated(rows: pd.DataFrame, weights: np.ndarray) -> pd.DataFrame:
    """Every patient's rows as often as drawn; cases drawn again are cases of their own."""
    patients = sorted(rows["patient"].unique())
    return pd.concat(
        [
            rows[rows["patient"] == patient].assign(case=lambda drawn, again=again: drawn["case"] + f" {again}")
            for patient, weight in zip(patients, weights, strict=True)
            for again in range(int(weight))
        ]
    )
