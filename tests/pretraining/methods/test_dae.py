"""DAE: its three corruptions, the supervised contrastive loss, what the decoder sees, over-fitting, bad settings."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.models.weights import stem_name
from mvp_bench.pretraining.methods.dae import (
    DaeOptions,
    DisruptiveAutoencoder,
    coarse_shape,
    corrupt,
    drop_channels,
    supervised_contrastive,
)
from mvp_bench.pretraining.sampling import Batch
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import brains

ALONE = DaeOptions(weight_contrastive=0.0)


def dae(options: DaeOptions = ALONE, cases: int = 3, **arguments: Any) -> tuple[DisruptiveAutoencoder, Any]:
    method, sampler = build("dae", brains(cases, MODALITIES), options, **arguments)
    assert isinstance(method, DisruptiveAutoencoder)
    return method, sampler


def labelled(batch: Batch, modalities: list[int]) -> Batch:
    return replace(batch, modality=torch.tensor(modalities)[:, None])


class TestCorruption:
    def test_noise_has_the_stated_variance(self) -> None:
        method, sampler = dae(replace(ALONE, coarsening=1), batch=3)
        batch = sampler[0]
        noise = method.corrupted(batch, generator()) - batch.images
        standard_error = 0.1 * math.sqrt(2 / noise.numel())
        assert noise.var().item() == pytest.approx(0.1, abs=4 * standard_error)
        assert noise.mean().item() == pytest.approx(0.0, abs=4 * math.sqrt(0.1 / noise.numel()))

    def test_what_is_constant_in_cells_stays(self) -> None:
        image = torch.randn(2, 1, 2, 3, 4, generator=generator())
        for axis in (2, 3, 4):
            image = image.repeat_interleave(4, dim=axis)
        assert torch.equal(corrupt(image, torch.zeros(2, 1, 2, 3, 4), 4), image)

    @pytest.mark.parametrize("factor", [1, 2, 4])
    def test_equals_noise_on_all_voxels_then_resampling(self, factor: int) -> None:
        rng = np.random.default_rng(0)
        image, noise = rng.standard_normal((2, 2, 1, 8, 4, 12)).astype(np.float32)
        noisy, slow = image + noise, np.zeros_like(image)
        for b, z, y, x in np.ndindex(2, 8, 4, 12):
            middle = tuple(factor * (i // factor) + factor // 2 for i in (z, y, x))
            slow[(b, 0, z, y, x)] = noisy[(b, 0, *middle)]
        half = slice(factor // 2, None, factor)
        kept = torch.from_numpy(noise)[..., half, half, half]
        assert kept.shape[2:] == coarse_shape((8, 4, 12), factor)
        assert np.array_equal(corrupt(torch.from_numpy(image), kept, factor).numpy(), slow)


class TestChannelDropout:
    def test_zeroes_whole_tokens(self) -> None:
        maps = torch.randn(2, 3, 4, 6, 2, generator=generator())
        dropped = torch.rand(2, 3, 6, generator=generator(1)) < 0.6
        slow = maps.clone()
        for b, c, z, y, x in np.ndindex(*maps.shape):
            if dropped[b, c, (z // 2 * 3 + y // 2) + x // 2]:
                slow[b, c, z, y, x] = 0
        assert torch.equal(drop_channels(maps, dropped, 2), slow)
        fast = drop_channels(maps.contiguous(memory_format=torch.channels_last_3d), dropped, 2)
        assert torch.equal(fast, slow)

    @pytest.mark.parametrize(
        ("name", "patch"), [("resenc-smoke", 16), ("plain-smoke", 16), ("unet3d-smoke", 16), ("uniformer-smoke", 16)]
    )
    def test_share_of_zeroed_channels(self, name: str, patch: int) -> None:
        method, sampler = dae(encoder=name, patch=patch)
        stem = method.encoder.get_submodule(stem_name(method.encoder))
        seen: list[torch.Tensor] = []
        stem.register_forward_hook(lambda layer, inputs, output: seen.append(output))
        terms = method.losses(sampler[0], 0, generator())
        draws = 2 * method.dropout.channels * 8**3
        assert (seen[0] == 0).float().mean().item() == pytest.approx(0.6, abs=4 * math.sqrt(0.24 / draws))
        per_token = (seen[0] == 0).float()
        if ENCODERS[name].strides[0] == 1:
            per_token = torch.nn.functional.avg_pool3d(per_token, 2)
        assert ((per_token == 0) | (per_token == 1)).all()
        terms["reconstruction"].value.backward()

    def test_is_off_outside(self) -> None:
        method, sampler = dae()
        method.losses(sampler[0], 0, generator())
        fresh = ENCODERS["resenc-smoke"].build(1)
        assert list(method.encoder.state_dict()) == list(fresh.state_dict())
        fresh.load_state_dict(method.encoder.state_dict())
        images = sampler[0].images
        assert all(torch.equal(a, b) for a, b in zip(method.encoder(images), fresh(images), strict=True))

    def test_a_copy_drops_by_itself(self) -> None:
        method, sampler = dae()
        twin = copy.deepcopy(method)
        values = [m.losses(sampler[0], 0, generator())["reconstruction"].value.item() for m in (method, twin)]
        assert values[0] == values[1]
        twin.dropout.edge = 4  # 8 tokens per sample and channel too many: only the copy's hook may notice
        method.losses(sampler[0], 0, generator())
        with pytest.raises(RuntimeError):
            twin.losses(sampler[0], 0, generator())


class TestContrast:
    @pytest.mark.parametrize(("size", "classes"), [(5, 2), (9, 3), (6, 6)])
    def test_equals_a_slow_version(self, size: int, classes: int) -> None:
        rng = np.random.default_rng([size, classes])
        features, t = rng.standard_normal((size, 7)), 0.5
        labels = np.arange(size) % classes
        unit = [row / math.sqrt(sum(v * v for v in row)) for row in features]
        each = []
        for i in range(size):
            positives = [p for p in range(size) if p != i and labels[p] == labels[i]]
            if not positives:
                continue
            below = sum(math.exp(unit[i] @ unit[k] / t) for k in range(size) if k != i)
            each.append(-sum(math.log(math.exp(unit[i] @ unit[p] / t) / below) for p in positives) / len(positives))
        expected = sum(each) / len(each) if each else 0.0
        found = supervised_contrastive(torch.from_numpy(features), torch.from_numpy(labels), t)
        assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-7)

    def test_one_sample_per_class_is_no_term(self) -> None:
        features = torch.randn(4, 5, generator=generator(), requires_grad=True)
        value = supervised_contrastive(features, torch.arange(4), 0.5)
        value.backward()
        assert value == 0 and features.grad is not None and (features.grad == 0).all()

    def test_equal_features_give_the_trivial_value_and_zeros_no_nan(self) -> None:
        features = torch.zeros(5, 3, requires_grad=True)
        value = supervised_contrastive(features, torch.tensor([0, 0, 1, 1, 2]), 0.5)
        value.backward()
        assert value.item() == pytest.approx(math.log(4), rel=1e-6)
        assert features.grad is not None and features.grad.isfinite().all()

    def test_order_of_samples_does_not_matter(self) -> None:
        features, labels = torch.randn(6, 5, generator=generator()), torch.tensor([0, 1, 0, 2, 1, 1])
        order = torch.tensor([3, 1, 5, 0, 2, 4])
        one, two = (
            supervised_contrastive(f, x, 0.5) for f, x in ((features, labels), (features[order], labels[order]))
        )
        assert one.item() == pytest.approx(two.item(), rel=1e-6)

    def test_is_left_out_without_pairs_or_without_others(self) -> None:
        method, sampler = dae(DaeOptions(), batch=3)
        batch = sampler[0]
        for modalities, there in (([0, 1, 2], False), ([1, 1, 1], False), ([0, 1, 0], True)):
            terms = method.losses(labelled(batch, modalities), 0, generator())
            assert ("contrastive" in terms) is there
        assert terms["contrastive"].trivial == math.log(2) and terms["contrastive"].weight == 0.03


def test_decoder_looks_at_the_deepest_map_only() -> None:
    method, sampler = dae()
    maps = [m.detach().requires_grad_() for m in method.encoder(sampler[0].images)]
    method.decoder(maps).sum().backward()
    assert [m.grad is not None for m in maps] == [False] * (len(maps) - 1) + [True]


def test_the_loss_is_the_clean_patch(monkeypatch: pytest.MonkeyPatch) -> None:
    """All voxels count, and the target has no noise."""
    method, sampler = dae()
    batch = sampler[0]
    monkeypatch.setattr(method.decoder, "forward", lambda maps: batch.images + 0.25)
    assert method.losses(batch, 0, generator())["reconstruction"].value.item() == pytest.approx(0.25, rel=1e-5)


def test_two_volumes_are_overfitted() -> None:
    method, sampler = build("dae", brains(2, ["t1"], variation=1.0), ALONE)
    assert overfitted(method, sampler[0], steps=60)["reconstruction"] < 0.5


def test_modalities_are_learned_to_attract() -> None:
    method, sampler = dae(replace(DaeOptions(), weight_contrastive=1.0), cases=6, batch=6)
    batch = labelled(sampler[0], [0, 0, 1, 1, 2, 2])
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    for _ in range(25):
        term = method.losses(batch, 0, generator())["contrastive"]
        optimiser.zero_grad()
        term.value.backward()
        optimiser.step()
    assert term.value < 0.6 * term.trivial


def test_pictures() -> None:
    method, sampler = dae()
    views = method.pictures(sampler[0], 0, generator())["views"]
    assert {v.shape for v in views.values()} == {(2, 1, 16, 16, 16)}


class TestBadInput:
    def test_too_few_cases_for_contrast(self) -> None:
        with pytest.raises(InputError, match=r"--batch-size: found 2 cases .* at least 3.*--weight-contrastive 0"):
            dae(DaeOptions())
        spec = ENCODERS["resenc-smoke"]
        DisruptiveAutoencoder.check_settings(DaeOptions(), spec, (16,) * 3, 2, world=2)

    def test_one_modality(self) -> None:
        with pytest.raises(InputError, match=r"pre-training data: found one modality \(t1\)"):
            build("dae", brains(3, ["t1"]), DaeOptions(), batch=3)

    def test_intensities_outside_the_contract(self) -> None:
        with pytest.raises(InputError, match="--intensity: found unit; expected zscore for DAE"):
            dae(replace(ALONE, intensity="unit"))

    @pytest.mark.parametrize(
        ("changes", "encoder", "message"),
        [
            ({"coarsening": 3}, "resenc-smoke", "coarsening: found 3 in a patch of 16 x 16 x 16"),
            ({"coarsening": 0}, "resenc-smoke", "coarsening: found 0"),
            ({"token": 5}, "resenc-smoke", "token: found 5"),
            ({"token": 3}, "uniformer-smoke", "token: found 3 .* a multiple of 2"),
            ({"channel_dropout": 1.0}, "resenc-smoke", "--channel-dropout: found 1.0"),
        ],
    )
    def test_numbers_that_do_not_fit(self, changes: dict[str, Any], encoder: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            dae(replace(ALONE, **changes), encoder=encoder)
