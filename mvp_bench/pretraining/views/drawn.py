"""Drawn parameters of several tensors with one row per sample, handled like one tensor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TypeVar

import torch

from mvp_bench.pretraining.sampling import Shard

DrawnT = TypeVar("DrawnT", bound="Drawn")


@dataclass(frozen=True)
class Drawn:
    """Base of records whose fields are all tensors with one row per sample (dimension 0)."""

    def map(self: DrawnT, change: Callable[[torch.Tensor], torch.Tensor]) -> DrawnT:
        """The record with every field changed."""
        return type(self)(*(change(getattr(self, field.name)) for field in fields(self)))

    def own(self: DrawnT, shard: Shard) -> DrawnT:
        """The rows of one process, of those drawn for all."""
        return self.map(shard.own)

    def chunk(self: DrawnT, parts: int) -> tuple[DrawnT, ...]:
        """Equal parts, by rows."""
        size = len(self) // parts
        return tuple(self[i * size : (i + 1) * size] for i in range(parts))

    def to(self: DrawnT, device: torch.device) -> DrawnT:
        """The same draws on ``device``."""
        return self.map(lambda tensor: tensor.to(device))

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self: DrawnT, rows: slice | torch.Tensor) -> DrawnT:
        return self.map(lambda tensor: tensor[rows])
