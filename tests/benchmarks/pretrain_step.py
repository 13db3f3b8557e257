"""Time and peak memory of a BrainMVP step, and time per delivered sample, beside a naive loop measured in the same run.

``python tests/benchmarks/pretrain_step.py [--encoder uniformer-s] [--patch 96] [--batch 2] [--steps 3]``

The naive loop (``pretrain_naive.py``) trains the same network on the same draws with the same losses, in plain eager
float32: it decodes and normalises NIfTI files for every sample, copies and scales templates whole, and keeps attention
weights. Either loop runs in a process of its own, so that its peak memory (VmHWM) is its own, reads its samples itself,
and starts from the same weights. Losses and templates are those of the preset ``paper``, all switched on from the first
step; of each case one of its four images is rebuilt per step, as in the released code. Volumes are noise in a ball, one
case per sample of a batch; all files are in the page cache.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from pretrain_naive import NaiveCases, naive_steps
from pretrain_setting import MODALITIES, PRESENT, SEED, WARM_UP, Setting, write_cases

from mvp_bench.config.groups import RuntimeConfig
from mvp_bench.planning.store import CaseStore
from mvp_bench.pretraining.case_table import CaseTable
from mvp_bench.pretraining.census import take_census
from mvp_bench.pretraining.run import assembled
from mvp_bench.pretraining.sampling import PatchSampler, SamplingSpec
from mvp_bench.pretraining.source import PretrainSource
from mvp_bench.pretraining.training_log import TrainingLog
from mvp_bench.training.runtime import Runtime

LIMITS = {"time": 0.40, "memory": 0.45, "delivery": 30.0, "losses": 0.01}
"""Ours / naive at most; delivery: naive / ours at least; losses: largest relative difference."""


class Losses(TrainingLog):
    """Remembers every step's losses."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "log.csv", math.inf, 1.0)
        self.each: list[dict[str, float]] = []

    def add(self, values: Mapping[str, float]) -> None:
        self.each.append({k: v for k, v in values.items() if not k.endswith("_trivial")})


def sources(folder: Path) -> list[PretrainSource]:
    """The store as data to pre-train on."""
    return [PretrainSource("Dataset999_Ball", CaseStore(folder / "store"), "phantom")]


def our_steps(folder: Path, setting: Setting) -> dict[str, Any]:
    """The project's engine."""
    stores, runtime = sources(folder), setting.runtime
    table = CaseTable.of(stores)
    census = take_census(stores, table)
    arguments = (stores, setting.config(), setting.options(), setting.encoder, runtime, SEED, table, census, {}, folder)
    with assembled(*arguments) as engine:
        engine.log = Losses(folder)
        seconds = engine.durations(setting.all_steps)
    place = Runtime.resolve(runtime)
    layout = "channels_last_3d" if place.channels_last else "contiguous"
    return {"seconds": seconds, "losses": engine.log.each, "how": f"{place.precision_name}, {layout}"}


PARTS = {"ours": our_steps, "naive": naive_steps}


def peak_mb() -> float:
    """Largest resident memory of this process so far (Linux), MB; the parent's does not count."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) / 1024


def measured(part: str, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Run one of :data:`PARTS` in a process of its own."""
    command = [sys.executable, __file__, *arguments, "--part", part, "--folder", str(folder)]
    subprocess.run(command, check=True)
    return json.loads((folder / f"{part}.json").read_text())


def run_part(part: str, folder: Path, setting: Setting) -> None:
    """In the process of its own."""
    idle = peak_mb()
    found = PARTS[part](folder, setting)
    (folder / f"{part}.json").write_text(json.dumps({**found, "idle_mb": idle, "peak_mb": peak_mb()}))


def delivery(folder: Path, setting: Setting) -> tuple[float, float, float]:
    """Median seconds per sample: ours in a case's first visit (which measures percentiles), ours, the naive one."""
    stores = sources(folder)
    spec = SamplingSpec(slots=len(PRESENT), intensity=setting.options().intensity)
    ours = PatchSampler(stores, MODALITIES, (setting.patch,) * 3, setting.batch, spec, SEED, steps=100)
    naive = NaiveCases(folder, setting)
    first = _timed(ours.sample, range(setting.batch))
    return first, _timed(ours.sample, range(setting.batch, 24)), _timed(naive.sample, range(max(setting.batch, 4)))


def _timed(call: Callable[[int], object], positions: Iterable[int]) -> float:
    taken = []
    for position in positions:
        began = time.perf_counter()
        call(position)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def difference(ours: list[dict[str, float]], naive: list[dict[str, float]]) -> float:
    """Largest relative difference of a loss."""
    pairs = zip(ours, naive, strict=True)
    return max(abs(own[name] - other[name]) / abs(other[name]) for own, other in pairs for name in other)


def report(ours: dict[str, Any], naive: dict[str, Any], samples: tuple[float, float, float]) -> str:
    """For the terminal."""
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    lines = [f"CPU: avx512_bf16 {found.get('avx512_bf16', '?')}, amx_bf16 {found.get('amx_bf16', '?')}"]
    step = {}
    for name, part in (("ours", ours), ("naive", naive)):
        step[name] = statistics.median(part["seconds"][WARM_UP:])
        each = ", ".join(f"{s:.2f}" for s in part["seconds"])
        lines.append(
            f"{name:5} ({part['how']}): {step[name]:.3f} s per step (all: {each}), peak {part['peak_mb']:.0f} MB "
            f"(of which {part['idle_mb']:.0f} MB are imports)"
        )
    lines += [f"losses {i}: ours {o}, naive {n}" for i, (o, n) in enumerate(_rounded(ours, naive))]
    first, own, other = samples
    lines.append(f"sample: ours {1e3 * own:.1f} ms (first visit {1e3 * first:.1f}), naive {1e3 * other:.1f} ms")
    ratios = {
        "time": step["ours"] / step["naive"],
        "memory": ours["peak_mb"] / naive["peak_mb"],
        "delivery": other / own,
        "losses": difference(ours["losses"], naive["losses"]),
    }
    for name, ratio in ratios.items():
        good = ratio >= LIMITS[name] if name == "delivery" else ratio <= LIMITS[name]
        bound = "at least" if name == "delivery" else "at most"
        lines.append(f"{name}: {ratio:.4g} ({bound} {LIMITS[name]:g}): {'within' if good else 'MISSED'}")
    return "\n".join(lines)


def _rounded(*parts: dict[str, Any]) -> Iterable[tuple[dict[str, float], ...]]:
    return zip(*([{k: round(v, 5) for k, v in row.items()} for row in part["losses"]] for part in parts), strict=True)


def main(arguments: list[str]) -> None:
    """Measure, and print the ratios beside their limits."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="uniformer-s", help="registered encoder")
    parser.add_argument("--patch", type=int, default=96, help="edge in voxels, a multiple of the block (8)")
    parser.add_argument("--batch", type=int, default=2, help="cases per step")
    parser.add_argument("--steps", type=int, default=3, help="steps that are timed")
    parser.add_argument("--volume", type=int, nargs=3, default=(240, 240, 155), help="voxels (x, y, z) of an image")
    parser.add_argument("--threads", type=int, default=2, help="of the CPU")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="of ours")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    runtime = RuntimeConfig(device="cpu", precision=given.precision, threads=given.threads)
    setting = Setting(given.encoder, given.patch, given.batch, given.steps, tuple(given.volume), runtime)
    torch.set_num_threads(given.threads)
    if given.part:
        run_part(given.part, given.folder, setting)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cases(folder, setting)
        parts = {part: measured(part, folder, arguments) for part in PARTS}
        print(report(parts["ours"], parts["naive"], delivery(folder, setting)))


if __name__ == "__main__":
    main(sys.argv[1:])
