"""MAE's mask fraction, what its loss looks at, and over-fitting."""

from __future__ import annotations

import math

import pytest
import torch

from mvp_bench.pretraining import masking
from mvp_bench.pretraining.methods.mae import MaskedAutoencoder
from tests.pretraining.conftest import MODALITIES, build, generator
from tests.pretraining.fake_store import brains


def test_masked_fraction() -> None:
    method, _ = build("mae", brains(2, MODALITIES))
    assert isinstance(method, MaskedAutoencoder)
    blocks = math.prod(method.grid)
    assert method.block == 4 and blocks == 64
    assert blocks - method.kept == int(0.75 * blocks)


def test_visible_voxels_of_the_target_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = build("mae", brains(2, MODALITIES))
    prediction = torch.zeros(2, 1, 16, 16, 16, requires_grad=True)
    monkeypatch.setattr(method.decoder, "forward", lambda maps: prediction)
    term = method.losses(sampler[0], 0, generator())["mae"]
    term.value.backward()
    grid = masking.draw_kept(2, method.grid, method.kept, generator())
    kept = masking.to_voxels(grid, (16, 16, 16), method.block)
    assert prediction.grad is not None and (prediction.grad[kept] == 0).all()
    assert term.value.item() == pytest.approx(sampler[0].images[:, :1][~kept].square().mean().item(), rel=1e-5)


def test_two_volumes_are_overfitted() -> None:
    method, sampler = build("mae", brains(2, ["t1"], variation=1.0))
    batch = sampler[0]
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    for _ in range(100):
        term = method.losses(batch, 0, generator())["mae"]
        optimiser.zero_grad()
        term.value.backward()
        optimiser.step()
    assert term.value < 0.2 * term.trivial
