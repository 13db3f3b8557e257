"""Which sample of a step is whose partner, whichever processes hold the two."""

from __future__ import annotations

from typing import NamedTuple

import torch

from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.sampling import Batch, Shard


class Pair(NamedTuple):
    """Two images of one modality per sample."""

    image: torch.Tensor
    """(B, 1, z, y, x): of the sample itself."""
    other: torch.Tensor
    """(B, 1, z, y, x): of the next sample of the step."""
    valid: torch.Tensor
    """bool (B,): the two may be compared."""


def next_of_step(rows: torch.Tensor, shard: Shard) -> torch.Tensor:
    """Row i + 1 of the whole step for each of a process's rows i; after the last comes the first.

    The processes exchange their first rows only.

    Args:
        rows: one per sample of this process.
        shard: the process's part of the step.
    """
    first = rows_of_all(rows[:1].contiguous())
    following = (shard.rank + 1) % shard.world
    return torch.cat([rows[1:], first[following : following + 1]])


def draw_pair(batch: Batch, modalities: int, generator: torch.Generator) -> Pair:
    """Each sample and the next one in the step (the first after the last), in a modality drawn uniformly among those
    that both have; valid where there is one. Where there is none, the sample's image is of one of its own modalities.

    Args:
        modalities: how many the run has.
    """
    size, device = len(batch.images), batch.images.device
    chance = batch.shard.own(torch.rand(size * batch.shard.world, modalities, generator=generator)).to(device)
    own, other = batch.modality, next_of_step(batch.modality, batch.shard)
    known = torch.arange(modalities, device=device)
    has, shared = ((slots[:, :, None] == known).any(dim=1) for slots in (own, other))
    common = has & shared
    modality = (chance + has + common).argmax(dim=1, keepdim=True)
    slot, counterpart = ((slots == modality).int().argmax(dim=1) for slots in (own, other))
    rows = torch.arange(size, device=device)
    following = next_of_step(batch.images, batch.shard)
    return Pair(batch.images[rows, slot].unsqueeze(1), following[rows, counterpart].unsqueeze(1), common.any(dim=1))
