"""Datasets to pre-train on: what a store of preprocessed cases has to offer, and which of its cases are left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

Size = tuple[int, int, int]


class CaseInfoLike(Protocol):
    """Facts on a preprocessed case that sampling needs (``mvp_bench.planning.store.CaseInfo`` has them)."""

    @property
    def patient(self) -> str: ...
    @property
    def present(self) -> tuple[str, ...]: ...
    @property
    def shape(self) -> Size: ...
    @property
    def affine(self) -> np.ndarray: ...
    @property
    def middle(self) -> np.ndarray | None: ...
    @property
    def ranges(self) -> np.ndarray | None: ...


class StoreLike(Protocol):
    """Preprocessed cases that can be read by patch (``mvp_bench.planning.store.CaseStore`` can)."""

    @property
    def spacing(self) -> tuple[float, float, float]: ...
    @property
    def modalities(self) -> list[str]: ...
    @property
    def cases(self) -> list[str]: ...
    def info(self, case: str) -> CaseInfoLike: ...
    def read(self, case: str, channels: Sequence[int], start: Size, size: Size) -> np.ndarray: ...
    def forget(self) -> None:
        """Free what is remembered of the cases; it is read again when asked for. ``read`` needs none of it."""


@dataclass(frozen=True)
class PretrainSource:
    """One dataset to pre-train on."""

    dataset: str
    """DatasetNNN_Name."""
    store: StoreLike
    source: Literal["real", "phantom"]
    excluded: frozenset[str] = frozenset()
    """Patients that must not be seen (test patients of the tasks)."""
    licence: str = ""
    data_hash: str = ""
    """Key of the preprocessed cases' content; part of the run's identity."""
    duplicates: Mapping[str, str] = field(default_factory=dict)
    """Cases to leave out -> the case that each resembles (see ``pretraining.duplicates``)."""

    def included(self) -> list[str]:
        """Cases whose patient is not excluded, that have an image and are no duplicates, in the store's order."""
        cases = []
        for case in self.store.cases:
            info = self.store.info(case)
            if info.patient not in self.excluded and info.present and case not in self.duplicates:
                cases.append(case)
        return cases
