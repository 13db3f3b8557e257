"""Which sample of a step is whose partner, whichever processes hold the two."""

from __future__ import annotations

import torch

from mvp_bench.pretraining.distributed import rows_of_all
from mvp_bench.pretraining.sampling import Shard


def next_of_step(rows: torch.Tensor, shard: Shard) -> torch.Tensor:
    """For each of a process's rows i, row i + 1 of the whole step; after the last comes the first.

    The processes exchange their first rows only.

    Args:
        rows: one per sample of this process.
        shard: the process's part of the step.
    """
    first = rows_of_all(rows[:1].contiguous())
    following = (shard.rank + 1) % shard.world
    return torch.cat([rows[1:], first[following : following + 1]])
