"""What the cases to be trained on are like: modalities, sizes, patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mvp_bench.datasets.schema import MODALITIES
from mvp_bench.errors import InputError
from mvp_bench.models.record import TrainingData
from mvp_bench.pretraining.case_table import CaseTable
from mvp_bench.pretraining.source import PretrainSource

AGREEMENT = 1e-2
"""Relative difference below which the datasets' spacings agree."""

Edges = tuple[float, float, float]


@dataclass(frozen=True)
class Census:
    """What the cases to be trained on are like. Lengths are in mm, per axis (z, y, x)."""

    data: tuple[TrainingData, ...]
    modalities: tuple[str, ...]
    most_modalities: int
    spacing: Edges
    largest: Edges
    """Largest extents, axis by axis."""
    largest_cases: tuple[str, str, str]
    """The cases (dataset/case) that have them."""
    smallest: Edges
    """Smallest extents, axis by axis."""
    smallest_cases: tuple[str, str, str]
    world_box: tuple[Edges, Edges]
    volume_reach: Edges
    """Twice the largest distance of an outermost voxel from the middle of its uncropped image; NaN: not known."""


def take_census(stores: Sequence[PretrainSource], table: CaseTable | None = None) -> Census:
    """Sum up every case's facts (no voxels are read).

    Args:
        table: the cases' table, where it has been made already.

    Raises:
        InputError: if no case is left, or the datasets' spacings differ.
    """
    table = CaseTable.of(stores) if table is None else table
    if not len(table):
        raise InputError(
            "pre-training data",
            found="no case" + (" (all patients are excluded)" if stores else ""),
            expected="at least one prepared and planned dataset",
            fix="Run mvp_prepare and mvp_plan for a pre-training dataset, or use --phantom.",
        )
    data, seen = _training_data(stores, table)
    spacings = np.asarray([s.store.spacing for s in stores], dtype=np.float64)
    spacing = _common_spacing(stores, spacings)
    extents = table.rows["shape"] * spacings[table.rows["source"]]
    largest, smallest = extents.argmax(axis=0), extents.argmin(axis=0)
    low = table.rows["origin"]
    high = low + (table.rows["shape"] - 1) * table.rows["steps"]
    known = [m for m in MODALITIES if m in seen]
    return Census(
        data=tuple(data),
        modalities=(*known, *sorted(seen.difference(known))),
        most_modalities=int((table.rows["channels"] >= 0).sum(axis=1).max()),
        spacing=_triple(spacing),
        largest=_triple(extents.max(axis=0)),
        largest_cases=_named(stores, table, largest),
        smallest=_triple(extents.min(axis=0)),
        smallest_cases=_named(stores, table, smallest),
        volume_reach=_triple(2 * np.maximum(table.rows["middle"] - low, high - table.rows["middle"]).max(axis=0)),
        world_box=(_triple(low.min(axis=0)), _triple(high.max(axis=0))),
    )


def _training_data(stores: Sequence[PretrainSource], table: CaseTable) -> tuple[list[TrainingData], set[str]]:
    """What each dataset with an included case contributes, and the modalities of all included cases."""
    data: list[TrainingData] = []
    seen: set[str] = set()
    for number, source in enumerate(stores):
        chosen = np.flatnonzero(table.rows["source"] == number)
        if not len(chosen):
            continue
        used = np.unique(table.rows["channels"][chosen])
        seen.update(source.store.modalities[channel] for channel in used if channel >= 0)
        data.append(
            TrainingData(
                dataset=source.dataset,
                source=source.source,
                licence=source.licence,
                data_hash=source.data_hash,
                patients=sorted(set(table.patients[number])),
                cases=sorted(table.name(int(index)) for index in chosen),
                excluded_patients=table.left_out[number],
                duplicates=dict(source.duplicates),
            )
        )
    return data, seen


def _common_spacing(stores: Sequence[PretrainSource], spacings: np.ndarray) -> np.ndarray:
    """The median of the datasets' spacings (N, 3), mm.

    Raises:
        InputError: if one of them differs from it.
    """
    spacing = np.median(spacings, axis=0)
    if (np.abs(spacings / spacing - 1) > AGREEMENT).any():
        listed = ", ".join(f"{s.dataset} {tuple(s.store.spacing)}" for s in stores)
        raise InputError(
            "spacing of the pre-training data",
            found=listed,
            expected="one spacing for all",
            fix="Preprocess them together with one --spacing.",
        )
    return spacing


def _named(stores: Sequence[PretrainSource], table: CaseTable, indices: np.ndarray) -> tuple[str, str, str]:
    """The three cases at ``indices``, as dataset/case."""
    first, second, third = (f"{stores[case.source].dataset}/{case.name}" for case in map(table.row, map(int, indices)))
    return first, second, third


def _triple(values: Any) -> Edges:
    return float(values[0]), float(values[1]), float(values[2])
