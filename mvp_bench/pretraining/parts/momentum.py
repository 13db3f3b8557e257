"""A slowly following copy of a network (teacher, momentum encoder)."""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import nn


class Teacher(nn.Module):
    """A frozen deep copy of a module that follows it as an exponential moving average.

    Its weights are part of the owner's ``state_dict`` and need no gradient. In training its batch norms normalise by
    the batch, as MoCo's; their running statistics are its own.

    Args:
        module: the network to follow; unchanged.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """The copy's output, without gradient."""
        return self.module(*inputs)

    @torch.no_grad()
    def update(self, source: nn.Module, momentum: float) -> None:
        """teacher = momentum * teacher + (1 - momentum) * source, for every parameter (not buffers).

        Args:
            source: the module that was copied, or one of the same parameters.
            momentum: in [0, 1]; 1 keeps the teacher, 0 copies the source.
        """
        for mine, theirs in zip(self.module.parameters(), source.parameters(), strict=True):
            mine.lerp_(theirs.to(mine.dtype), 1.0 - momentum)


def cosine_momentum(step: int, steps: int, first: float, last: float = 1.0) -> float:
    """Momentum that rises from ``first`` at step 0 to ``last`` at ``steps`` (and beyond) along half a cosine."""
    done = min(step / steps, 1.0)
    return last - (last - first) * (1 + math.cos(math.pi * done)) / 2
