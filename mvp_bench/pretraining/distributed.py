"""Several processes that train one model, started by torchrun: who is who, and what they tell each other.

The sums and gathers here pass gradients on. With every process's gradients averaged afterwards (as
DistributedDataParallel does), training on W processes with B cases each equals training on one with W B cases.
"""

from __future__ import annotations

import contextlib
import gc
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mvp_bench.config.groups import RuntimeConfig
from mvp_bench.errors import InputError

T = TypeVar("T")
PATIENCE = timedelta(days=2)
"""How long processes wait for one another: the first prepares the data while the others wait. A process that has died
is noticed at once (its connections close), not by this."""
LOST = ("connection", "peer", "broken pipe", "timed out", "timeout", "socket", "eof")
"""Words in what torch raises when another process cannot be reached (gloo raises plain RuntimeErrors)."""


@dataclass(frozen=True)
class Processes:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world}"

    def from_first(self, make: Callable[[], T]) -> T:
        """What ``make`` returns in the first process (it runs there only), in every process."""
        if self.world == 1:
            return make()
        parcel: list[Any] = [make() if self.first else None]
        dist.broadcast_object_list(parcel, src=0)
        return parcel[0]

    def wait(self) -> None:
        """Until every process has come here."""
        if self.world > 1:
            dist.barrier()

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """The mean over the processes (no gradient)."""
        if self.world == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.world

    def everyone(self, value: T) -> list[T]:
        """Every process's ``value``, in the order of the ranks."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        dist.all_gather_object(found, value)
        return found


def current() -> Processes:
    """This process: alone, unless a process group is there."""
    if not (dist.is_available() and dist.is_initialized()):
        return Processes()
    return Processes(dist.get_rank(), dist.get_world_size())


@contextlib.contextmanager
def joined(runtime: RuntimeConfig) -> Iterator[Processes]:
    """Join the other processes of a torchrun launch (nccl for CUDA tensors, gloo for the CPU's); alone otherwise.

    Inside another ``joined`` the same group goes on.

    Raises:
        InputError: if another process ends or cannot be reached.
    """
    if current().world > 1 or not (dist.is_available() and dist.is_torchelastic_launched()):
        yield current()
        return
    cuda = torch.cuda.is_available() and runtime.device != "cpu"
    if cuda:
        torch.cuda.set_device(dist.get_node_local_rank() % torch.cuda.device_count())
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=PATIENCE)
    before = signal.signal(signal.SIGTERM, _stopped)
    try:
        with lost_peers_reported():
            yield current()
    finally:
        signal.signal(signal.SIGTERM, before)
    # After an error the process ends anyway, and the others must not be waited for.
    gc.collect()  # finished engines lie in cycles and hold the group, whose threads must end before the process does
    dist.destroy_process_group()


def _stopped(number: int, frame: object) -> None:
    """torchrun sends SIGTERM to the others as soon as one process has ended."""
    raise _lost_peer("stopped by the launcher, as happens when another process of this run ended")


def _lost_peer(found: str, folder: Path | None = None) -> InputError:
    processes = current()
    kept = f" in {folder}" if folder else ""
    return InputError(
        str(processes),
        found=found,
        expected=f"all {processes.world} until the end",
        fix=f"Its own message or torchrun's report says why. The same command goes on from the last checkpoint{kept}.",
    )


def own_device(runtime: RuntimeConfig) -> RuntimeConfig:
    """The runtime with this process's own GPU, where there are several processes and GPUs."""
    if current().world == 1 or not torch.cuda.is_available() or runtime.device not in ("auto", "cuda"):
        return runtime
    return replace(runtime, device=f"cuda:{dist.get_node_local_rank()}")


@contextlib.contextmanager
def lost_peers_reported(folder: Path | None = None) -> Iterator[None]:
    """Turn torch's error on a lost connection into a message a user can act on.

    Args:
        folder: of the run, for the message.

    Raises:
        InputError: if another process ended or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        if current().world == 1 or not any(word in str(error).lower() for word in LOST):
            raise
        raise _lost_peer("another process of this run ended, or cannot be reached any more", folder) from error


class _SumOverAll(torch.autograd.Function):
    """Sum over the processes; the gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor) -> torch.Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient


class _RowsOfAll(torch.autograd.Function):
    """Rows of all processes, one below the other; each gets back the sum of all gradients on its own."""

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        ctx.size = len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        first = dist.get_rank() * ctx.size
        return gradient[first : first + ctx.size]


def rows_of_all(rows: torch.Tensor) -> torch.Tensor:
    """(B, ...) of every process as (W B, ...), in the order of the ranks, with gradient; itself where one is alone.

    A loss computed from it is the same in every process, and the average over the processes of the gradients it leaves
    in the parameters is the gradient of that loss.
    """
    return _RowsOfAll.apply(rows) if current().world > 1 else rows


class SyncBatchNorm(_BatchNorm):
    """Batch norm over the samples of all processes, on any device (torch's own SyncBatchNorm needs a GPU).

    Parameters, buffers and their names are those of ``nn.BatchNorm*d``. Equal sizes in every process are assumed.
    """

    def _check_input_dim(self, input: torch.Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"batch norm needs (B, C, ...), not {tuple(input.shape)}")

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        processes = current()
        if not self.training or processes.world == 1:
            return super().forward(input)
        axes = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        values = input.float()
        mean = _SumOverAll.apply(values.mean(axes)) / processes.world
        centred = values - mean.view(shape)
        variance = _SumOverAll.apply(centred.square().mean(axes)) / processes.world
        if self.track_running_stats and self.running_mean is not None and self.running_var is not None:
            self.num_batches_tracked.add_(1)
            count = values.numel() // values.shape[1] * processes.world
            rate = self.momentum if self.momentum is not None else 1.0 / float(self.num_batches_tracked)
            with torch.no_grad():
                self.running_mean.lerp_(mean.detach(), rate)
                self.running_var.lerp_(variance.detach() * count / max(count - 1, 1), rate)
        scaled = centred * (variance.view(shape) + self.eps).rsqrt()
        if self.affine:
            scaled = scaled * self.weight.view(shape) + self.bias.view(shape)
        return scaled.to(input.dtype) if input.dtype != torch.float32 else scaled


def share_batch_norms(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with every batch norm's statistics taken over all processes; unchanged where one is alone.

    State-dict keys stay the same.
    """
    if current().world == 1:
        return module
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for name, child in module.named_children():
        if not isinstance(child, _BatchNorm):
            share_batch_norms(child, device)
            continue
        shared = SyncBatchNorm(
            child.num_features, child.eps, child.momentum, child.affine, child.track_running_stats
        ).train(child.training)
        shared._parameters, shared._buffers = child._parameters, child._buffers
        setattr(module, name, shared)
    return module
