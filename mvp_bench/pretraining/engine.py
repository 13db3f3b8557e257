"""The one training loop: AdamW, warm-up and cosine, mixed precision, checkpoints that resume to the bit.

The random state of a step follows from (seed, step, rank) alone, so that nothing but the step number, the parameters
and the optimiser's moments has to survive an interruption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mvp_bench.config import PretrainConfig
from mvp_bench.errors import InputError
from mvp_bench.models.runtime import Runtime
from mvp_bench.pretraining.checkpoint import CHECKPOINT_FILE, Identity, load_checkpoint, save_checkpoint
from mvp_bench.pretraining.method import LossTerm, Method
from mvp_bench.pretraining.sampling import Batch, PatchSampler, loader
from mvp_bench.pretraining.training_log import LOG_FILE, TrainingLog
from mvp_bench.progress import log, progress


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
class Outcome:
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
    """Seed of all random draws of one step in one process."""
    return int(np.random.SeedSequence([seed, 2, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Engine:
    """Trains a method.

    Args:
        method: on the CPU, freshly initialised.
        sampler: the steps' batches.
        config: the loop's numbers.
        runtime: where to compute.
        seed: of the run.
        identity: what makes this run this run; a checkpoint of another one is refused.
        folder: for checkpoint_last.pt and log.csv.
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
        self.identity, self.folder = identity, folder
        options = options or EngineOptions()
        self.method = runtime.place(method)
        self.optimiser = torch.optim.AdamW(
            method.parameter_groups(config.learning_rate, config.weight_decay), betas=options.betas, fused=True
        )
        self.peaks = [float(group["lr"]) for group in self.optimiser.param_groups]
        self.scaler = torch.amp.GradScaler(runtime.device.type, enabled=runtime.precision == torch.float16)
        self.log = TrainingLog(
            folder / LOG_FILE, max(options.watch_after * config.steps, options.watch_steps), options.plateau
        )
        self.warmup = round(config.warmup_fraction * config.steps)
        self.step = 0
        self.elapsed = 0.0

    def train(self) -> Outcome:
        """Run to the end, from the last checkpoint where there is one.

        Raises:
            InputError: if a loss or gradient is not finite, or the checkpoint is of another run.
        """
        self._resume()
        began = time.perf_counter() - self.elapsed
        self.method.train()
        with torch.random.fork_rng(devices=_own(self.runtime.device)), progress(
            f"pre-training {self.config.method}", self.config.steps
        ) as advance:  # fmt: skip
            advance(self.step)
            for batch in loader(self.sampler, self.step, self.config.workers):
                self._train_step(batch.to(self.runtime.device))
                advance(1)
                self.elapsed = time.perf_counter() - began
                if self.step % self.config.log_every == 0 or self.step == self.config.steps:
                    self.log.write(self.step, self.config.steps, self.optimiser.param_groups[0]["lr"])
                if self.step % self.config.checkpoint_every == 0 or self.step == self.config.steps:
                    self._save()
        return Outcome(self.elapsed, self.log.rows[-1] if self.log.rows else {})

    def _train_step(self, batch: Batch) -> None:
        factor = rate_factor(self.step, self.config.steps, self.warmup)
        for group, peak in zip(self.optimiser.param_groups, self.peaks, strict=True):
            group["lr"] = peak * factor
        seed = step_seed(self.seed, self.step, self.sampler.rank)
        torch.manual_seed(seed)  # layers such as dropout draw from the global state
        generator = torch.Generator().manual_seed(seed)

        self.optimiser.zero_grad(set_to_none=True)
        with self.runtime.autocast():
            terms: dict[str, LossTerm] = self.method(batch, self.step, generator)
        total = torch.stack([term.weight * term.value.float() for term in terms.values()]).sum()
        self._require_finite(total, terms, batch)
        self.scaler.scale(total).backward()
        self.scaler.unscale_(self.optimiser)
        parameters = [p for group in self.optimiser.param_groups for p in group["params"]]
        norm = torch.nn.utils.clip_grad_norm_(parameters, self.config.gradient_clip, foreach=True)
        if not self.scaler.is_enabled() and not bool(norm.isfinite()):
            raise self._not_finite("the gradient", batch)
        self.scaler.step(self.optimiser)  # skips the step where fp16 gradients overflowed
        self.scaler.update()
        self.method.after_step(self.step)
        self.log.add(float(total.detach()), terms)
        self.step += 1

    def _require_finite(self, total: torch.Tensor, terms: Mapping[str, LossTerm], batch: Batch) -> None:
        if bool(total.detach().isfinite()):
            return
        bad = [f"loss {name} = {float(t.value.detach())}" for name, t in terms.items() if not t.value.isfinite()]
        raise self._not_finite(", ".join(bad) or "the weighted sum of the losses", batch)

    def _not_finite(self, what: str, batch: Batch) -> InputError:
        kept = f"The state of the last checkpoint is kept in {self.folder}." if self.step else ""
        return InputError(
            f"step {self.step}",
            found=f"{what} not finite on cases {', '.join(batch.cases)}",
            expected="finite losses",
            fix=f"Check these cases' intensities, or lower --learning-rate or use --precision fp32. {kept}".strip(),
        )

    def _save(self) -> None:
        content = {
            "step": self.step,
            "elapsed": self.elapsed,
            "method": self.method.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "log": self.log.state(),
        }
        save_checkpoint(self.folder / CHECKPOINT_FILE, self.identity, content)

    def _resume(self) -> None:
        content = load_checkpoint(self.folder / CHECKPOINT_FILE, self.identity)
        if content is None:
            return
        self.method.load_state_dict(content["method"])
        self.optimiser.load_state_dict(content["optimiser"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(content["scaler"])
        self.log.load_state(content["log"])
        self.step, self.elapsed = int(content["step"]), float(content["elapsed"])
        log.info("resumed at step %d of %d", self.step, self.config.steps)


def _own(device: torch.device) -> list[torch.device]:
    """Devices whose random state must be put back afterwards, beside the CPU's."""
    return [device] if device.type == "cuda" else []
