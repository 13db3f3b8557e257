"""A small run that any test can change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mvp_bench.config.groups import Precision, PretrainConfig, RuntimeConfig
from mvp_bench.models.record import EncoderRecord
from mvp_bench.pretraining.method import Context, Method, resolve_options
from mvp_bench.pretraining.run import pretrain, take_census
from mvp_bench.pretraining.sampling import Batch, PatchSampler
from mvp_bench.pretraining.source import PretrainSource
from mvp_bench.registry import ENCODERS, METHODS
from tests.pretraining.fake_store import FakeStore, brains

MODALITIES = ("t1", "t2", "flair")
SMALL = PretrainConfig(
    steps=8,
    batch_size=2,
    patch_size=(16, 16, 16),
    learning_rate=1e-3,
    checkpoint_every=2,
    log_every=3,
    loaders=0,
)
EXACT = RuntimeConfig(device="cpu", precision="fp32")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums in one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def source(store: FakeStore, **changes: Any) -> PretrainSource:
    return replace(PretrainSource("Dataset521_Fake", store, "phantom", licence="CC0"), **changes)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., EncoderRecord]:
    """Pre-train in ``tmp_path / name`` with changed fields of :data:`SMALL`."""

    def call(
        name: str = "run",
        store: FakeStore | None = None,
        options: Any = None,
        seed: int = 0,
        precision: Precision = "fp32",
        data_hash: str = "",
        **changes: Any,
    ) -> EncoderRecord:
        store = store or brains(3, MODALITIES)
        config, runtime = replace(SMALL, **changes), replace(EXACT, precision=precision)
        data = source(store, data_hash=data_hash)
        return pretrain([data], config, options, "resenc-smoke", runtime, seed, "smoke", tmp_path / name)

    return call


def build(
    method: str,
    store: FakeStore,
    options: Any = None,
    batch: int = 2,
    steps: int = 10,
    patch: int = 16,
    encoder: str = "resenc-smoke",
) -> tuple[Method[Any], PatchSampler]:
    """A method and its sampler, without the engine."""
    census = take_census([source(store)])
    kind = METHODS[method]
    context = Context.of(census, ENCODERS[encoder], (patch,) * 3, batch, steps)
    torch.manual_seed(0)
    built = kind(options or resolve_options(method, None, "smoke"), context)
    sampler = PatchSampler([source(store)], census.modalities, (patch,) * 3, batch, built.sampling(), 0, steps)
    return built, sampler


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def overfitted(method: Method[Any], batch: Batch, steps: int = 100, rate: float = 1e-2) -> dict[str, float]:
    """Each loss as a part of its trivial value after training on one batch with the same draws."""
    optimiser = torch.optim.AdamW(method.parameter_groups(rate, 0.0))
    for _ in range(steps):
        terms = method.losses(batch, 0, generator())
        optimiser.zero_grad()
        torch.stack([term.weight * term.value for term in terms.values()]).sum().backward()
        optimiser.step()
    return {name: float(term.value.detach()) / float(term.trivial) for name, term in terms.items()}
