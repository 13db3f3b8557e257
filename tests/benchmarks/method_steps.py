"""Seconds per training step of every method beside BrainMVP's, and the part of it that goes into making views.

``python tests/benchmarks/method_steps.py [--encoder resenc-mini] [--patch 32 40 32] [--batch 4] [--steps 5]``

A step is drawing views, forward and backward pass, and optimiser, on batches that lie in memory, as the engine makes
them. Views are what happens before the encoder is called for the first time. Medians; volumes are smooth noise, three
modalities per case.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from mvp_bench.config.groups import RuntimeConfig
from mvp_bench.pretraining.method import Context, Method, resolve_options
from mvp_bench.pretraining.run import take_census
from mvp_bench.pretraining.sampling import PatchSampler
from mvp_bench.pretraining.source import PretrainSource, Size
from mvp_bench.registry import ENCODERS, METHODS
from mvp_bench.training.runtime import Runtime
from tests.pretraining.fake_store import brains

REFERENCE = "brainmvp"
STEP, STEPS = 9, 10
"""A step at which every loss is on, of how many."""


def prepared(name: str, encoder: str, patch: Size, batch: int, profile: str) -> tuple[Method[Any], PatchSampler]:
    """A method and its batches."""
    edge = tuple(2 * length for length in patch)
    store = brains(2 * batch, ("t1", "t2", "flair"), shape=(edge[0], edge[1], edge[2]))
    source = PretrainSource("Dataset999_Noise", store, "phantom")
    census = take_census([source])
    context = Context.of(census, ENCODERS[encoder], patch, batch, STEPS)
    torch.manual_seed(0)
    method = METHODS[name](resolve_options(name, None, profile), context)
    return method, PatchSampler([source], census.modalities, patch, batch, method.sampling(), 0, STEPS)


def measure(method: Method[Any], sampler: PatchSampler, steps: int, runtime: Runtime) -> tuple[float, float]:
    """Median seconds of a step, and of its views."""
    method = runtime.place(method)
    method.train()
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-4, 0.0), fused=True)
    called: list[float] = []
    method.encoder.register_forward_pre_hook(lambda *_: called.append(time.perf_counter()))
    whole, views = [], []
    for number in range(steps + 1):
        batch = sampler[number % STEPS].to(runtime.device)
        called.clear()
        began = time.perf_counter()
        with runtime.autocast():
            terms = method(batch, STEP, torch.Generator().manual_seed(number))
        total = torch.stack([term.weight * term.value.float() for term in terms.values()]).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        method.after_step(STEP)
        whole.append(time.perf_counter() - began)
        views.append(called[0] - began)
    return statistics.median(whole[1:]), statistics.median(views[1:])


def main() -> None:
    """Print a line per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resenc-mini", help="registered encoder")
    parser.add_argument("--patch", type=int, nargs=3, default=(32, 40, 32), help="voxels (z, y, x)")
    parser.add_argument("--batch", type=int, default=4, help="cases per step")
    parser.add_argument("--steps", type=int, default=5, help="steps that are timed")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--profile", default="mini", help="whose presets are used")
    parser.add_argument("--methods", nargs="*", default=(), help="default: all")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    runtime = Runtime.resolve(replace(RuntimeConfig(), device="cpu", threads=given.threads))
    names = [REFERENCE, *[name for name in given.methods or METHODS if name != REFERENCE]]
    reference = 0.0
    for name in names:
        reason = METHODS[name].misfit(ENCODERS[given.encoder])
        if reason:
            print(f"{name}: not on {given.encoder}: {reason}")
            continue
        size = (given.patch[0], given.patch[1], given.patch[2])
        whole, views = measure(*prepared(name, given.encoder, size, given.batch, given.profile), given.steps, runtime)
        reference = reference or whole
        ratio, share = whole / reference, views / whole
        print(f"{name}: {whole:.3f} s per step, {ratio:.2f} of {REFERENCE}'s; views {share:.0%}", flush=True)


if __name__ == "__main__":
    main()
