"""What holds for every registered method, by name."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch

from mvp_bench.config.profiles import PROFILES
from mvp_bench.errors import InputError
from mvp_bench.models.weights import encoder_state, initialise_encoder
from mvp_bench.pretraining.method import LossTerm, resolve_options
from mvp_bench.pretraining.sampling import Batch, Shard
from mvp_bench.registry import ENCODERS, METHODS
from tests.pretraining.conftest import MODALITIES, build, generator
from tests.pretraining.fake_store import brains

LAST = 9
"""A step at which every loss is on."""


class Turned(Shard):
    """Gives every sample's draws to the one before it, as its turned batch does with the samples."""

    def own(self, drawn: torch.Tensor) -> torch.Tensor:
        return drawn.roll(-(len(drawn) // 4), 0)


def total(terms: dict[str, LossTerm]) -> torch.Tensor:
    return torch.stack([term.weight * term.value for term in terms.values()]).sum()


@pytest.mark.parametrize("name", list(METHODS))
class TestEveryMethod:
    def test_declares_itself(self, name: str) -> None:
        declaration = METHODS[name].declaration
        for field in fields(declaration):
            assert getattr(declaration, field.name), field.name
        assert METHODS.summary(name)
        kind = METHODS[name].Options
        assert is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]

    def test_losses_are_scalars_beside_their_trivial_values(self, name: str) -> None:
        method, sampler = build(name, brains(3, MODALITIES))
        terms = method(sampler[0], LAST, generator())
        assert terms
        for term in terms.values():
            assert term.value.shape == () and term.value.dtype == torch.float32 and term.value.isfinite()
            assert float(term.trivial) > 0

    def test_draws_come_from_the_generator_alone(self, name: str) -> None:
        method, sampler = build(name, brains(3, MODALITIES))
        values = []
        for noise in (1, 2):
            torch.manual_seed(noise)
            values.append(total(method(sampler[0], LAST, generator(7))).item())
        assert values[0] == values[1]
        assert total(method(sampler[0], LAST, generator(8))).item() != values[0]

    def test_the_order_of_the_batch_does_not_matter(self, name: str) -> None:
        method, sampler = build(name, brains(5, MODALITIES), batch=4)
        batch = sampler[0]
        turned = replace(batch.select([1, 2, 3, 0]), shard=Turned())
        one, other = method(batch, LAST, generator(3)), method(turned, LAST, generator(3))
        for key, term in one.items():
            assert other[key].value.item() == pytest.approx(term.value.item(), rel=1e-4, abs=1e-6), key

    def test_empty_patch_is_finite(self, name: str) -> None:
        method, sampler = build(name, brains(3, MODALITIES))
        batch = sampler[0]
        batch.images.zero_()
        loss = total(method(batch, LAST, generator()))
        loss.backward()
        assert loss.isfinite()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())

    def test_the_encoder_learns_and_transfers_whole(self, name: str) -> None:
        method, sampler = build(name, brains(2, MODALITIES))
        batch: Batch = sampler[0]
        before = encoder_state(method.encoder)
        optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
        losses: list[float] = []
        for _ in range(14):
            loss: Any = total(method(batch, LAST, generator()))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        assert losses[-1] < 0.95 * losses[0]
        after = encoder_state(method.encoder)
        # Biases of convolutions before a norm have no influence; every kernel must have moved.
        assert all(not torch.equal(before[k], after[k]) for k in before if after[k].dim() == 5)
        report = initialise_encoder(ENCODERS["resenc-smoke"].build(1), after, "repeat", 1)
        assert report.elements_loaded == report.elements_total

    @pytest.mark.parametrize("profile", list(PROFILES))
    def test_every_profile_suits_it(self, name: str, profile: str) -> None:
        values = PROFILES[profile]
        loop, options = values.pretrain, resolve_options(name, None, profile)
        METHODS[name].check_settings(options, ENCODERS[values.encoder], loop.patch_size, loop.batch_size)

    def test_patch_must_fit_the_encoder(self, name: str) -> None:
        with pytest.raises(InputError, match="multiples of 4"):
            build(name, brains(3, MODALITIES), patch=18)


def test_options_by_preset_profile_or_default() -> None:
    presets = METHODS["brainmvp"].Options.presets()
    assert resolve_options("brainmvp", "official", "mini") == presets["official"]
    assert resolve_options("brainmvp", None, "mini") == presets["mini"] != presets["official"]
    assert resolve_options("brainmvp", None, "full") == METHODS["brainmvp"].Options()
    assert resolve_options("mae", None, "mini") == METHODS["mae"].Options()
