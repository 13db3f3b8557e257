"""The one training loop: AdamW, warm-up and cosine, mixed precision, accumulation, several processes, checkpoints that
resume to the bit.

The random state of a step follows from (seed, step, rank) alone, so that nothing but the step number, the parameters
and the optimiser's moments has to survive an interruption.
"""

from __future__ import annotations

import contextlib
import math
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mvp_bench.config.groups import PretrainConfig
from mvp_bench.errors import InputError
from mvp_bench.pretraining import distributed
from mvp_bench.pretraining.method import LossTerm, Method
from mvp_bench.pretraining.pictures import PICTURES, PictureBook
from mvp_bench.pretraining.sampling import Batch, PatchSampler, batches
from mvp_bench.pretraining.tensorboard import BOARD, Board
from mvp_bench.pretraining.training_log import LOG_FILE, TrainingLog
from mvp_bench.progress import log, progress
from mvp_bench.training.checkpoint import CHECKPOINT_FILE, Identity, load_checkpoint, restore, save_checkpoint
from mvp_bench.training.runtime import Runtime


@dataclass(frozen=True)
class EngineOptions:
    """Numbers of the loop that no experiment varies."""

    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's moments (PyTorch's defaults, as in BrainMVP)."""
    watch_after: float = 0.5
    """Part of the training after which a loss at its trivial value is reported."""
    watch_steps: int = 100
    """Not before this step, however short the training."""
    plateau: float = 0.98
    """A loss above this part of its trivial value is at it."""


@dataclass(frozen=True)
class TrainingOutcome:
    """What the loop leaves behind, beside the trained method."""

    wall_time_s: float
    """Over all resumptions."""
    last_row: dict[str, float]


def rate_factor(step: int, steps: int, warmup: int) -> float:
    """Learning rate at ``step`` (from 0) as a part of its peak: cosine from 1 to 0 over all steps, half at the middle;
    in the first ``warmup`` steps multiplied by (step + 1) / warmup."""
    ramp = min(1.0, (step + 1) / warmup) if warmup else 1.0
    return ramp * 0.5 * (1.0 + math.cos(math.pi * step / steps))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of the random draws of one forward pass (counted over the whole run) in one process."""
    return int(np.random.SeedSequence([seed, 2, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Engine:
    """Trains a method, alone or as one of torchrun's processes.

    Args:
        method: on the CPU, freshly initialised, alike in every process.
        sampler: one batch per forward pass; its ``rank`` and ``world`` are this process's.
        config: the loop's numbers.
        runtime: where to compute.
        seed: of the run.
        identity: what makes this run this run; a checkpoint of another one is refused.
        folder: for checkpoint_last.pt, log.csv, pictures/ and tensorboard/ (the first process writes them).
        options: the loop's constants.
    """

    def __init__(
        self,
        method: Method[Any],
        sampler: PatchSampler,
        config: PretrainConfig,
        runtime: Runtime,
        seed: int,
        identity: Identity,
        folder: Path,
        options: EngineOptions | None = None,
    ) -> None:
        self.sampler, self.config, self.runtime, self.seed = sampler, config, runtime, seed
        self.identity, self.folder, self.processes = identity, folder, distributed.current()
        options = options or EngineOptions()
        placed = runtime.place(distributed.share_batch_norms(method, runtime.device))
        self.method: Method[Any] = placed
        self.average: AveragedModel | None = None
        if config.ema_decay:
            decay = get_ema_multi_avg_fn(config.ema_decay)
            self.average = AveragedModel(self.method, multi_avg_fn=decay, use_buffers=True)
        self.optimiser = torch.optim.AdamW(
            method.parameter_groups(config.learning_rate, config.weight_decay), betas=options.betas, fused=True
        )
        self.peaks = [float(group["lr"]) for group in self.optimiser.param_groups]
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == torch.float16)
        self.log = TrainingLog(
            folder / LOG_FILE, max(options.watch_after * config.steps, options.watch_steps), options.plateau
        )
        self.model = self._wrapped()
        self.warmup = round(config.warmup_fraction * config.steps)
        self.step = 0
        self.elapsed = 0.0

    @property
    def trained(self) -> Method[Any]:
        """What is to be kept: the method with its last, or its averaged, weights."""
        return self.average.module if self.average is not None else self.method

    def train(self) -> TrainingOutcome:
        """Run to the end, from the last checkpoint where there is one.

        Raises:
            InputError: if a loss or gradient is not finite, the checkpoint is of another run, or another process ended.
        """
        self._resume()
        began = time.perf_counter() - self.elapsed
        config, first = self.config, self.processes.first
        with self._running() as stream, contextlib.ExitStack() as stack:
            advance = stack.enter_context(progress(f"pre-training {config.method}", config.steps))
            board = stack.enter_context(Board(self.folder / BOARD, self.step)) if first and config.tensorboard else None
            book = stack.enter_context(PictureBook(self.folder / PICTURES)) if first and config.pictures_every else None
            advance(self.step)
            while self.step < config.steps:
                batch = self._train_step(stream)
                advance(1)
                self.elapsed = time.perf_counter() - began
                last = self.step == config.steps
                if first and (last or self.step % config.log_every == 0):
                    row = self.log.write(self.step, config.steps, self.optimiser.param_groups[0]["lr"])
                    if board:
                        board.add(row)
                if book and self.step % config.pictures_every == 0:
                    book.add(self.step, self._pictures(batch))
                if first and (last or self.step % config.checkpoint_every == 0):
                    self.save()
        return TrainingOutcome(self.elapsed, self.log.rows[-1] if self.log.rows else {})

    def durations(self, steps: int) -> list[float]:
        """Seconds of each of the last ``steps`` steps of the schedule (where every loss is on), which are made for the
        purpose: the weights are worth nothing afterwards."""
        self.step = max(0, self.config.steps - steps)
        taken = []
        with self._running() as stream:
            while self.step < self.config.steps:
                began = time.perf_counter()
                self._train_step(stream)
                taken.append(time.perf_counter() - began)
        return taken

    @contextlib.contextmanager
    def _running(self) -> Iterator[Iterator[Batch]]:
        """Training mode and a random state of one's own; gives the batches from the present step on."""
        device, parts = self.runtime.device, self.config.accumulation
        self.method.train()
        with (
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
            distributed.lost_peers_reported(self.folder),
            contextlib.closing(
                batches(self.sampler, self.step * parts, self.config.loaders, pin=device.type == "cuda")
            ) as stream,
        ):
            yield stream

    def _train_step(self, stream: Iterator[Batch]) -> Batch:
        factor = rate_factor(self.step, self.config.steps, self.warmup)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        self.optimiser.zero_grad(set_to_none=True)
        parts = self.config.accumulation
        for part in range(parts):
            batch = next(stream).to(self.runtime.device)
            last = part == parts - 1
            with contextlib.nullcontext() if last else self._gradients_stay_here():
                self._forward_and_backward(batch, self.step * parts + part)
        self.scaler.unscale_(self.optimiser)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip or math.inf, foreach=True)
        if not self.scaler.is_enabled() and not bool(norm.isfinite()):
            raise self._not_finite("the gradient", batch)
        self.scaler.step(self.optimiser)  # skips the step where fp16 gradients overflowed
        self.scaler.update()
        self.method.after_step(self.step)
        if self.average is not None:
            self.average.update_parameters(self.method)
        self.step += 1
        return batch

    def _forward_and_backward(self, batch: Batch, number: int) -> None:
        """One forward pass, the ``number``-th of the run; its part of the gradient is added."""
        # Layers such as dropout draw from the global state, in every process their own; a method's own draws are made
        # in every process for all, which then keep their rows: how a step is shared out does not change it.
        torch.manual_seed(step_seed(self.seed, number, self.processes.rank))
        generator = torch.Generator().manual_seed(step_seed(self.seed, number, 0))
        with self.runtime.autocast():
            terms: dict[str, LossTerm] = self.model(batch, self.step, generator)
        total = torch.stack([term.weight * term.value.float() for term in terms.values()]).sum()
        values = self._values(total, terms)
        if not math.isfinite(values["total"]):
            raise self._loss_not_finite(values, terms, batch)
        self.scaler.scale(total / self.config.accumulation).backward()
        self.log.add(values)

    def _values(self, total: torch.Tensor, terms: Mapping[str, LossTerm]) -> dict[str, float]:
        """The losses beside their trivial values, averaged over the processes; one wait for the device."""
        found: dict[str, float | torch.Tensor] = {"total": total}
        for name, term in terms.items():
            found[name], found[f"{name}_trivial"] = term.value, term.trivial
        names = [name for name, value in found.items() if isinstance(value, torch.Tensor)]
        stacked = torch.stack([torch.as_tensor(found[name]).detach().float() for name in names])
        known = dict(zip(names, self.processes.mean(stacked).tolist(), strict=True))
        return {name: known[name] if name in known else float(value) for name, value in found.items()}

    def _loss_not_finite(self, values: Mapping[str, float], terms: Mapping[str, LossTerm], batch: Batch) -> InputError:
        bad = [f"loss {name} = {values[name]}" for name in terms if not math.isfinite(values[name])]
        return self._not_finite(", ".join(bad) or "the weighted sum of the losses", batch)

    def _not_finite(self, what: str, batch: Batch) -> InputError:
        """Called in all processes at once; names the cases of all."""
        broken = [c for c, image in zip(batch.cases, batch.images, strict=True) if not bool(image.isfinite().all())]
        facts = self.processes.everyone((list(batch.cases), broken))
        cases = [case for own, _ in facts for case in own]
        broken = [case for _, own in facts for case in own]
        blame = f" (images with values that are not finite: {', '.join(broken)})" if broken else ""
        path = self.folder / CHECKPOINT_FILE
        kept = f"The last good state is kept in {path}." if path.is_file() else ""
        return InputError(
            f"step {self.step}",
            found=f"{what} not finite on cases {', '.join(cases)}{blame}",
            expected="finite losses",
            fix=f"Check these cases' intensities, or lower --learning-rate or use --precision fp32. {kept}".strip(),
        )

    def _wrapped(self) -> torch.nn.Module:
        """The method as it is called: compiled and with its gradients averaged over the processes, as asked for."""
        if self.config.compile:
            for child in self.method.children():
                child.compile()  # in place: names in the state stay
        if self.processes.world == 1:
            return self.method
        device = self.runtime.device
        warnings.filterwarnings("ignore", message="Grad strides do not match")  # 1^3 kernels have two right layouts
        return DistributedDataParallel(
            self.method,
            device_ids=[device] if device.type == "cuda" else None,
            find_unused_parameters=self.method.leaves_parameters_unused,
        )

    def _gradients_stay_here(self) -> AbstractContextManager[Any]:
        """Add up gradients in this process; they are exchanged with the last part's."""
        if isinstance(self.model, DistributedDataParallel):
            return self.model.no_sync()
        return contextlib.nullcontext()

    def _pictures(self, batch: Batch) -> dict[str, dict[str, torch.Tensor]]:
        """What the method shows of a batch; training goes on as if nobody had looked."""
        generator = torch.Generator().manual_seed(step_seed(self.seed, self.step - 1, 0))
        self.method.eval()
        with torch.no_grad(), self.runtime.autocast():
            shown = self.method.pictures(batch, self.step - 1, generator)
        self.method.train()
        return shown

    def save(self) -> None:
        """Write the checkpoint."""
        content = {
            "step": self.step,
            "elapsed": self.elapsed,
            "method": self.method.state_dict(),
            "average": self.average.state_dict() if self.average is not None else {},
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "log": self.log.state(),
        }
        save_checkpoint(self.folder / CHECKPOINT_FILE, self.identity, content)

    def _resume(self) -> None:
        path = self.folder / CHECKPOINT_FILE
        content = load_checkpoint(path, self.identity)
        self.processes.wait()  # the first may write the next one only when all have read this one
        if content is None:
            return
        with restore(path):
            self.method.load_state_dict(content["method"])
            if self.average is not None:
                self.average.load_state_dict(content["average"])
            self.optimiser.load_state_dict(content["optimiser"])
            if self.scaler.is_enabled():
                self.scaler.load_state_dict(content["scaler"])
            self.log.load_state(content["log"], rewrite=self.processes.first)
            self.step, self.elapsed = int(content["step"]), float(content["elapsed"])
        if self.processes.first:
            log.info("resumed at step %d of %d", self.step, self.config.steps)
