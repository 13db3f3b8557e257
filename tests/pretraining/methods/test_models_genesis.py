"""Models Genesis: the target, the loss against NumPy, shares of a step, over-fitting, bad input."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.models_genesis import ModelsGenesis, ModelsGenesisOptions, draw_mirrors
from mvp_bench.pretraining.parts import corruption
from mvp_bench.pretraining.sampling import Batch, Shard
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import brains

NOTHING = {"flip": 0.0, "shuffle": 0.0, "curve": 0.0, "paint": 0.0}


def genesis(batch: int = 2, **options: Any) -> tuple[ModelsGenesis, Batch]:
    method, sampler = build("models_genesis", brains(4, MODALITIES), ModelsGenesisOptions(**options), batch=batch)
    assert isinstance(method, ModelsGenesis)
    return method, sampler[0]


def test_no_corruption_is_the_identity() -> None:
    method, batch = genesis()
    method.options = ModelsGenesisOptions(**NOTHING)
    corrupted, target = method.views(batch, generator())
    assert torch.equal(target, batch.images[:, :1]) and torch.equal(corrupted, target)


def test_input_is_the_corrupted_target_and_the_target_the_mirrored_patch() -> None:
    method, batch = genesis(batch=8, flip=1.0)
    corrupted, target = method.views(batch, generator(3))
    mirrors = draw_mirrors(8, 1.0, generator(3))
    for image, mirrored, axes in zip(batch.images, target, mirrors, strict=True):
        assert torch.equal(image.flip([1 + int(a) for a in axes.nonzero()]), mirrored)
    assert (corrupted != target).flatten(1).any(1).all()
    assert corrupted.min() >= 0 and corrupted.max() <= 1


def test_mirrorings() -> None:
    """Axis 0 is mirrored by an odd number of up to three mirrorings, each along it with probability 1/3."""
    found = draw_mirrors(20000, 0.4, generator()).float().mean(0)
    expected = sum(p * (1 - (1 / 3) ** k) / 2 for k, p in [(1, 0.4 - 0.16), (2, 0.16 - 0.064), (3, 0.064)])
    assert found.tolist() == pytest.approx([expected] * 3, abs=0.01)
    assert not draw_mirrors(100, 0.0, generator()).any()


def test_loss_against_numpy() -> None:
    output, target = torch.randn(2, 1, 3, 4, 5, generator=generator()), torch.rand(2, 1, 3, 4, 5, generator=generator())
    term = corruption.restoration(output, target)
    squares, spread = [], []
    for prediction, image in zip(output.numpy(), target.numpy(), strict=True):
        for value, truth in zip(prediction.ravel(), image.ravel(), strict=True):
            squares.append((1 / (1 + np.exp(-float(value))) - float(truth)) ** 2)
            spread.append((float(truth) - image.mean()) ** 2)
    assert term.value.item() == pytest.approx(np.mean(squares), rel=1e-5)
    assert float(term.trivial) == pytest.approx(np.mean(spread), rel=1e-5)
    assert corruption.restoration(100 * (2 * target.round() - 1), target.round()).value < 1e-12


def test_two_shares_are_one_step() -> None:
    method, batch = genesis(batch=4)
    whole = method.views(batch, generator(4))
    for rank in (0, 1):
        share = replace(batch.select([2 * rank, 2 * rank + 1]), shard=Shard(rank, 2))
        for part, all_ in zip(method.views(share, generator(4)), whole, strict=True):
            assert torch.equal(part, all_[2 * rank : 2 * rank + 2])


def test_two_volumes_are_overfitted() -> None:
    method, sampler = build("models_genesis", brains(2, ["t1"], variation=1.0))
    assert overfitted(method, sampler[0], steps=80)["restoration"] < 0.12


def test_z_scores_are_refused() -> None:
    options: Any = ModelsGenesisOptions(intensity="zscore")
    with pytest.raises(InputError, match="unit for Models Genesis"):
        build("models_genesis", brains(2, MODALITIES), options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"flip": 1.5}, "flip: found 1.5"),
        ({"curve": -1.0}, "--curve: found -1.0"),
        (NOTHING, "copy its input"),
    ],
)
def test_bad_options(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelsGenesis.check_settings(ModelsGenesisOptions(**options), ENCODERS["resenc-smoke"], (16, 16, 16), 2)


def test_every_encoder_fits() -> None:
    assert not any(ModelsGenesis.misfit(ENCODERS[name]) for name in ENCODERS)


def test_pictures() -> None:
    method, batch = genesis()
    shown = method.pictures(batch, 0, generator())["views"]
    assert {volumes.shape for volumes in shown.values()} == {(2, 1, 16, 16, 16)}
