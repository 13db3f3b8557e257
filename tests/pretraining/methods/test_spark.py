"""SparK: that hidden sites are not seen, masked norms and convolutions, targets, over-fitting, bad settings."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from mvp_bench.errors import InputError
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.methods.spark import BLOCK_EPS, SparK, SparkOptions, normalised_blocks
from mvp_bench.pretraining.parts.sparse import dense_layers, masked_norm, sparsify, visible_sites
from mvp_bench.pretraining.reconstruction import masked_mse
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import brains

FITTING = ("resenc-smoke", "plain-smoke", "unet3d-smoke")
"""One of each family that SparK works on; total stride 4."""


def spark(options: SparkOptions | None = None, **arguments: Any) -> tuple[SparK, Any]:
    method, sampler = build("spark", brains(2, MODALITIES), options, **arguments)
    assert isinstance(method, SparK)
    unsettle(method)
    return method, sampler


def unsettle(module: nn.Module) -> None:
    """Give every parameter a value of its own: fresh biases are 0, and residual blocks' last norms have scale 0."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator(parameter.numel())))


def blocks_of(method: SparK, size: int = 2) -> torch.Tensor:
    return masking.draw_kept(size, method.grid, method.kept, generator(3))


class TestHiddenSites:
    @pytest.mark.parametrize("name", FITTING)
    @pytest.mark.parametrize("junk", [100.0, 1e30, math.nan])
    def test_what_they_hold_changes_no_bit_of_any_active_feature(self, name: str, junk: float) -> None:
        """The decisive test."""
        method, sampler = spark(encoder=name)
        images = sampler[0].images
        visible = visible_sites(blocks_of(method), (16,) * 3, method.context.encoder.strides)
        voxels = visible[16, 16, 16]
        noise = junk * torch.randn(images.shape, generator=generator(1))
        first, second = (method.encode(x, visible) for x in (images, torch.where(voxels, images, noise)))
        for one, two in zip(first, second, strict=True):
            active = visible[tuple(one.shape[2:])].expand_as(one)
            assert torch.equal(one[active], two[active]) and one[active].std() > 0
            assert (one[~active] == 0).all() and (two[~active] == 0).all()

    @pytest.mark.parametrize("name", FITTING)
    def test_every_layer_leaves_them_at_zero(self, name: str) -> None:
        method, sampler = spark(encoder=name)
        visible = visible_sites(blocks_of(method), (16,) * 3, method.context.encoder.strides)
        seen: list[torch.Tensor] = []
        layers = [m for m in method.encoder.modules() if isinstance(m, (nn.Conv3d, nn.InstanceNorm3d, nn.GroupNorm))]
        for layer in layers:
            layer.register_forward_hook(lambda layer, inputs, output: seen.append(output.clone()))
        method.encode(sampler[0].images, visible)
        assert len(seen) == len(layers) >= 6
        for output in seen:
            active = visible[tuple(output.shape[2:])].expand_as(output)
            assert (output[~active] == 0).all() and (output[active] != 0).any()

    @pytest.mark.parametrize("name", FITTING)
    def test_a_visible_corner_is_encoded_as_if_it_were_the_whole_image(self, name: str) -> None:
        """Zero padding takes the place of hidden neighbours, and norms know of nothing else."""
        method, _ = spark(encoder=name)
        kept = torch.zeros(2, 4, 4, 4, dtype=torch.bool)
        kept[:, 1:3, :2, 2:4] = True
        images = torch.randn(2, 1, 16, 16, 16, generator=generator())
        sparse = method.encode(images, visible_sites(kept, (16,) * 3, method.context.encoder.strides))
        alone = ENCODERS[name].build(1)
        alone.load_state_dict(method.encoder.state_dict())
        for found, expected in zip(sparse, alone(images[:, :, 4:12, :8, 8:16]), strict=True):
            q = found.shape[2] // 4
            assert torch.allclose(found[:, :, q : 3 * q, : 2 * q, 2 * q :], expected, atol=2e-5, rtol=1e-4)

    def test_gradients_stop_at_them(self) -> None:
        method, sampler = spark()
        images = sampler[0].images.clone().requires_grad_()
        visible = visible_sites(blocks_of(method), (16,) * 3, method.context.encoder.strides)
        torch.stack([m.square().sum() for m in method.encode(images, visible)]).sum().backward()
        assert images.grad is not None
        assert (images.grad[~visible[16, 16, 16]] == 0).all() and (images.grad[visible[16, 16, 16]] != 0).any()


class TestLayers:
    def test_norms_equal_the_ordinary_ones_where_all_is_visible(self) -> None:
        maps = torch.randn(2, 6, 3, 4, 5, generator=generator()) * 3 + 5
        visible = torch.ones(2, 1, 3, 4, 5, dtype=torch.bool)
        weight, bias = torch.randn(2, 6, generator=generator(1))
        instance = functional.instance_norm(maps, weight=weight, bias=bias)
        assert torch.allclose(masked_norm(maps, visible, 6, weight, bias), instance, atol=1e-5)
        assert torch.allclose(masked_norm(maps, visible, 6), functional.instance_norm(maps), atol=1e-5)
        group = functional.group_norm(maps, 2, weight, bias)
        assert torch.allclose(masked_norm(maps, visible, 2, weight, bias), group, atol=1e-5)

    @pytest.mark.parametrize("groups", [1, 2, 4])
    def test_norms_equal_a_slow_version(self, groups: int) -> None:
        rng = np.random.default_rng(groups)
        maps, visible = rng.standard_normal((2, 4, 2, 3, 4)), rng.random((2, 1, 2, 3, 4)) < 0.5
        weight, bias = rng.standard_normal((2, 4))
        slow = np.zeros_like(maps)
        for b in range(2):
            for g in range(groups):
                channels = range(g * 4 // groups, (g + 1) * 4 // groups)
                sites = [i for i in np.ndindex(2, 3, 4) if visible[(b, 0, *i)]]
                values = [maps[(b, c, *i)] for c in channels for i in sites]
                mean = sum(values) / len(values)
                variance = sum((v - mean) ** 2 for v in values) / len(values)
                for c in channels:
                    for i in sites:
                        slow[(b, c, *i)] = (maps[(b, c, *i)] - mean) / math.sqrt(variance + 1e-5) * weight[c] + bias[c]
        given = (
            torch.from_numpy(maps),
            torch.from_numpy(visible),
            groups,
            torch.from_numpy(weight),
            torch.from_numpy(bias),
        )
        assert np.allclose(masked_norm(*given).numpy(), slow, atol=1e-5)

    def test_norm_has_the_gradient_of_the_visible_sites_alone(self) -> None:
        maps = torch.randn(1, 3, 4, 4, 4, generator=generator(), requires_grad=True)
        visible = torch.rand(1, 1, 4, 4, 4, generator=generator(1)) < 0.5
        slope = torch.randn(3, int(visible.sum()), generator=generator(2))
        (masked_norm(maps, visible, 3)[:, :, visible[0, 0]][0] * slope).sum().backward()
        gathered = maps.detach()[:, :, visible[0, 0]].requires_grad_()
        (functional.instance_norm(gathered)[0] * slope).sum().backward()
        assert maps.grad is not None and gathered.grad is not None
        assert torch.allclose(maps.grad[:, :, visible[0, 0]], gathered.grad, atol=1e-5)
        assert (maps.grad[(~visible).expand_as(maps)] == 0).all()

    def test_constant_maps_give_finite_gradients(self) -> None:
        maps = torch.zeros(2, 3, 4, 4, 4, requires_grad=True)
        masked_norm(maps, torch.ones(2, 1, 4, 4, 4, dtype=torch.bool), 3).sum().backward()
        assert maps.grad is not None and maps.grad.isfinite().all()

    def test_convolution_equals_a_slow_version(self) -> None:
        layer = nn.Sequential(nn.Conv3d(2, 3, 3, stride=2, padding=1))
        sites = sparsify(layer)
        kept = torch.tensor([True, False, False, True]).reshape(1, 2, 2, 1)
        visible = visible_sites(kept, (8, 8, 4), (2,))
        image = torch.randn(1, 2, 8, 8, 4, generator=generator()).masked_fill(~visible[8, 8, 4], 0.0)
        with sites.shown(visible):
            found = layer(image)
        padded = np.pad(image.numpy()[0], [(0, 0), *[(1, 1)] * 3])
        weight, bias = layer[0].weight.detach().numpy(), layer[0].bias.detach().numpy()
        slow = np.zeros((1, 3, 4, 4, 2), np.float32)
        for o, z, y, x in np.ndindex(3, 4, 4, 2):
            if visible[4, 4, 2][0, 0, z, y, x]:
                window = padded[:, 2 * z : 2 * z + 3, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]
                slow[0, o, z, y, x] = (window * weight[o]).sum() + bias[o]
        assert np.allclose(found.detach().numpy(), slow, atol=1e-5)

    @pytest.mark.parametrize("name", FITTING)
    def test_outside_the_encoder_is_what_it_was(self, name: str) -> None:
        torch.manual_seed(0)
        encoder, fresh = ENCODERS[name].build(1), ENCODERS[name].build(1)
        sparsify(encoder)
        assert list(encoder.state_dict()) == list(fresh.state_dict())
        fresh.load_state_dict(encoder.state_dict())
        images = torch.randn(1, 1, 8, 8, 16, generator=generator())
        assert all(torch.equal(a, b) for a, b in zip(encoder(images), fresh(images), strict=True))

    def test_a_copy_has_sites_of_its_own(self) -> None:
        method, sampler = spark()
        twin = copy.deepcopy(method)
        assert twin.sites is not method.sites
        assert all(m.sites is twin.sites for m in twin.encoder.modules() if hasattr(m, "sites"))
        values = [m.losses(sampler[0], 0, generator())["spark"].value for m in (method, twin)]
        assert torch.equal(*values)


class TestTargets:
    def test_blocks_are_normalised_one_by_one(self) -> None:
        images = torch.randn(2, 1, 8, 4, 12, generator=generator()) * 3 + 1
        images[0, 0, :4, :4, :4] = 2.0
        found, mean, deviation = normalised_blocks(images, 4)
        for b, z, y, x in np.ndindex(2, 2, 1, 3):
            box = (b, 0, *(slice(4 * i, 4 * i + 4) for i in (z, y, x)))
            values = images[box].numpy().astype(np.float64)
            expected = (values - values.mean()) / math.sqrt(values.var() + BLOCK_EPS)
            assert np.allclose(found[box].numpy(), expected, atol=1e-5)
        assert (found[0, 0, :4, :4, :4] == 0).all()
        assert torch.allclose(found * deviation + mean, images, atol=1e-5)

    @pytest.mark.parametrize("normalise", [True, False])
    def test_hidden_blocks_count_only(self, normalise: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        method, sampler = spark(SparkOptions(normalise_targets=normalise))
        batch = sampler[0]
        prediction = torch.randn(2, 1, 16, 16, 16, generator=generator(5), requires_grad=True)
        monkeypatch.setattr(method.decoder, "forward", lambda maps: prediction)
        value = method.losses(batch, 0, generator())["spark"].value
        value.backward()
        grid = masking.draw_kept(2, method.grid, method.kept, generator())
        kept = masking.to_voxels(grid, (16,) * 3, 4)
        target = normalised_blocks(batch.images, 4)[0] if normalise else batch.images
        assert prediction.grad is not None and (prediction.grad[kept] == 0).all()
        assert value.item() == pytest.approx((prediction - target)[~kept].square().mean().item(), rel=1e-5)
        assert value.item() == masked_mse(prediction, target, ~kept).item()


def test_blocks_are_as_large_as_the_total_stride() -> None:
    method, _ = spark()
    assert method.grid == (4, 4, 4) and 64 - method.kept == math.ceil(0.6 * 64)
    sites = visible_sites(blocks_of(method), (16,) * 3, method.context.encoder.strides)
    assert list(sites) == [(16,) * 3, (8,) * 3, (4,) * 3]
    for shape, visible in sites.items():
        assert visible.sum().item() == 2 * method.kept * (shape[0] // 4) ** 3


def test_every_parameter_learns() -> None:
    """Which several processes rely on."""
    method, sampler = spark()
    method.losses(sampler[0], 0, generator())["spark"].value.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_two_volumes_are_overfitted() -> None:
    method, sampler = build("spark", brains(2, ["t1"], variation=1.0))
    assert overfitted(method, sampler[0], steps=60)["spark"] < 0.2


def test_intensities_can_be_chosen() -> None:
    method, sampler = spark(SparkOptions(intensity="unit"))
    images = sampler[0].images
    assert images.min() == 0 and images.max() == 1
    assert method.losses(sampler[0], 0, generator())["spark"].value.isfinite()


def test_pictures() -> None:
    method, sampler = spark()
    batch = sampler[0]
    views = method.pictures(batch, 0, generator())["views"]
    kept = views["visible"] != 0
    assert torch.equal(views["reconstruction"][kept], batch.images[kept])


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "layers"), [("uniformer-smoke", "BatchNorm3d"), ("swinunetr-smoke", "LayerNorm, Linear, Softmax")]
    )
    def test_encoders_that_see_everything(self, name: str, layers: str) -> None:
        with pytest.raises(InputError, match=rf"--encoder: found {name}; .*resenc-l.*{name} also has .*{layers}"):
            spark(encoder=name, patch=64)

    def test_fitting_encoders(self) -> None:
        assert not any(dense_layers(ENCODERS[name]) for name in FITTING)

    def test_too_little_hidden_or_visible(self) -> None:
        with pytest.raises(InputError, match=r"-ratio: found .* of 64 blocks of 4\^3 voxels; expected at least 2"):
            spark(SparkOptions(mask_ratio=0.99))
        with pytest.raises(InputError, match=r"--mask-ratio: found 0\.0; expected a number above 0"):
            spark(SparkOptions(mask_ratio=0.0))
