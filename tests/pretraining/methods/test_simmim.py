"""SimMIM: pixel shuffle, what the loss looks at, where the token goes on every encoder, over-fitting, bad settings."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.models.weights import encoder_state, stem_name
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.methods.simmim import (
    MaskToken,
    SimMim,
    SimMimOptions,
    shuffle_voxels,
    unshuffle_voxels,
)
from mvp_bench.pretraining.reconstruction import constant_l1, masked_l1
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import brains

PATCHES = {
    "resenc-smoke": (8, 16, 12),
    "plain-smoke": (8, 16, 12),
    "unet3d-smoke": (8, 16, 12),
    "uniformer-smoke": (16, 32, 24),
    "swinunetr-smoke": (32, 64, 32),
}
"""A patch without cubes, and small, for each family of encoders."""


def simmim(options: SimMimOptions | None = None, **arguments: Any) -> tuple[SimMim, Any]:
    method, sampler = build("simmim", brains(2, MODALITIES), options, **arguments)
    assert isinstance(method, SimMim)
    return method, sampler


def shown(patch: tuple[int, ...], block: int, seed: int = 0) -> torch.Tensor:
    """A mask of half the blocks: bool (2, 1, *patch)."""
    grid = masking.grid_shape(patch, block)
    kept = masking.draw_kept(2, grid, math.prod(grid) // 2, generator(seed))
    return masking.to_voxels(kept, patch, block)


class TestShuffle:
    @settings(max_examples=30, deadline=None)
    @given(st.tuples(*[st.integers(1, 3)] * 5), st.integers(1, 4))
    def test_is_a_bijection(self, shape: tuple[int, ...], factor: int) -> None:
        size, channels, z, y, x = shape
        deep = torch.rand(size, channels * factor**3, z, y, x)
        fine = shuffle_voxels(deep, factor)
        assert fine.shape == (size, channels, z * factor, y * factor, x * factor)
        assert torch.equal(unshuffle_voxels(fine, factor), deep)
        assert torch.equal(shuffle_voxels(unshuffle_voxels(fine, factor), factor), fine)

    def test_order(self) -> None:
        deep = torch.rand(2, 2 * 27, 2, 3, 1).contiguous(memory_format=torch.channels_last_3d)
        slow = np.zeros((2, 2, 6, 9, 3), np.float32)
        for b, c, i, j, k, z, y, x in np.ndindex(2, 2, 3, 3, 3, 2, 3, 1):
            slow[b, c, 3 * z + i, 3 * y + j, 3 * x + k] = deep[b, ((c * 3 + i) * 3 + j) * 3 + k, z, y, x]
        assert np.array_equal(shuffle_voxels(deep, 3).numpy(), slow)


class TestLoss:
    def test_equals_a_slow_version(self) -> None:
        rng = np.random.default_rng(0)
        prediction, target = rng.standard_normal((2, 3, 1, 4, 4, 4)).astype(np.float32)
        hidden = rng.random((3, 1, 4, 4, 4)) < 0.6
        errors, constants = [], []
        for b in range(3):
            middle = np.median([target[b][index] for index in np.ndindex(1, 4, 4, 4) if hidden[b][index]])
            for index in np.ndindex(1, 4, 4, 4):
                if hidden[b][index]:
                    errors.append(abs(prediction[b][index] - target[b][index]))
                    constants.append(abs(middle - target[b][index]))
        given_ = torch.from_numpy(prediction), torch.from_numpy(target), torch.from_numpy(hidden)
        assert masked_l1(*given_).item() == pytest.approx(np.mean(errors), rel=1e-5)
        assert constant_l1(*given_[1:]).item() == pytest.approx(np.mean(constants), rel=1e-5)

    @pytest.mark.parametrize("error", [-0.7, 0.3])
    def test_of_a_constant_error_is_its_size(self, error: float) -> None:
        target = torch.randn(2, 1, 8, 8, 8, generator=generator())
        hidden = ~shown((8, 8, 8), 4)
        prediction = torch.where(hidden, target + error, 100.0)
        assert masked_l1(prediction, target, hidden).item() == pytest.approx(abs(error), rel=1e-5)

    def test_looks_at_hidden_voxels_only(self, monkeypatch: pytest.MonkeyPatch) -> None:
        method, sampler = simmim()
        deep = torch.zeros(2, 64, 4, 4, 4, requires_grad=True)
        monkeypatch.setattr(method.head, "forward", lambda maps: deep)
        term = method.losses(sampler[0], 0, generator())["simmim"]
        term.value.backward()
        kept = masking.to_voxels(masking.draw_kept(2, method.grid, method.kept, generator()), (16,) * 3, method.block)
        assert deep.grad is not None
        slope = shuffle_voxels(deep.grad, 4)
        assert (slope[kept] == 0).all() and (slope[~kept & (sampler[0].images != 0)] != 0).all()
        assert term.value.item() == pytest.approx(sampler[0].images[~kept].abs().mean().item(), rel=1e-5)


class TestToken:
    @pytest.mark.parametrize("name", PATCHES)
    def test_stands_where_blocks_are_hidden(self, name: str) -> None:
        """Also where the encoder turns the axes before its stem (Swin), and where that is strided."""
        torch.manual_seed(0)
        encoder, patch, stride = ENCODERS[name].build(1), PATCHES[name], ENCODERS[name].strides[0]
        turned = (2, 1, 0) if name.startswith("swin") else (0, 1, 2)
        stem = encoder.get_submodule(stem_name(encoder))
        assert isinstance(stem, torch.nn.Conv3d)
        token = MaskToken(stem)
        torch.nn.init.constant_(token.token, 7.0)
        seen: list[torch.Tensor] = []
        stem.register_forward_hook(lambda layer, inputs, output: seen.append(output))
        kept = shown(patch, 4)
        encoder(masking.fill(torch.randn(2, 1, *patch, generator=generator()), kept, torch.nan))
        expected = kept[:, :, ::stride, ::stride, ::stride].permute(0, 1, *(2 + axis for axis in turned))
        assert torch.equal((seen[0] == 7.0).all(dim=1, keepdim=True), ~expected)

    @pytest.mark.parametrize("name", PATCHES)
    def test_hidden_voxels_have_no_influence(self, name: str) -> None:
        torch.manual_seed(0)
        encoder, patch = ENCODERS[name].build(1).eval(), PATCHES[name]
        token = MaskToken(encoder.get_submodule(stem_name(encoder)))  # type: ignore[arg-type]
        kept = shown(patch, 4)
        image = torch.randn(2, 1, *patch, generator=generator())
        other = torch.where(kept, image, 100 * torch.randn(image.shape, generator=generator(1)))
        first, second = (encoder(masking.fill(x, kept, torch.nan)) for x in (image, other))
        assert all(torch.equal(a, b) and a.isfinite().all() for a, b in zip(first, second, strict=True))
        first[-1].square().sum().backward()
        assert token.token.grad is not None and (token.token.grad != 0).any()

    def test_leaves_whole_images_and_the_state_alone(self) -> None:
        method, sampler = simmim()
        fresh = ENCODERS["resenc-smoke"].build(1)
        assert list(method.encoder.state_dict()) == list(fresh.state_dict())
        fresh.load_state_dict(method.encoder.state_dict())
        images = sampler[0].images
        assert all(torch.equal(a, b) for a, b in zip(method.encoder(images), fresh(images), strict=True))

    def test_a_copy_has_a_token_of_its_own(self) -> None:
        """As the running average of the weights needs it."""
        method, sampler = simmim()
        twin = copy.deepcopy(method)
        torch.nn.init.constant_(twin.token.token, 5.0)
        value, other = (m.losses(sampler[0], 0, generator())["simmim"].value for m in (method, twin))
        assert value != other
        other.backward()
        assert method.token.token.grad is None and twin.token.token.grad is not None


def test_hidden_fraction_and_blocks() -> None:
    method, _ = simmim()
    blocks = math.prod(method.grid)
    assert method.block == 4 and blocks == 64 and blocks - method.kept == math.ceil(0.6 * 64)
    options = SimMimOptions()
    edges = {
        patch: masking.fitting_block(patch, options.block, options.min_blocks) for patch in ((96,) * 3, (32, 40, 32))
    }
    assert list(edges.values()) == [32, 8]


def test_two_volumes_are_overfitted() -> None:
    method, sampler = build("simmim", brains(2, ["t1"], variation=1.0))
    assert overfitted(method, sampler[0], steps=70)["simmim"] < 0.35


@pytest.mark.parametrize("name", ["plain-smoke", "unet3d-smoke", "uniformer-smoke"])
def test_learns_on_other_encoders(name: str) -> None:
    method, sampler = simmim(encoder=name)
    before = encoder_state(method.encoder)
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    losses = []
    for _ in range(10):
        loss = method.losses(sampler[0], 0, generator())["simmim"].value
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(not torch.equal(before[k], v) for k, v in encoder_state(method.encoder).items() if v.dim() == 5)


def test_intensities_can_be_chosen() -> None:
    method, sampler = simmim(SimMimOptions(intensity="unit"))
    images = sampler[0].images
    assert images.min() == 0 and images.max() == 1
    assert method.losses(sampler[0], 0, generator())["simmim"].value.isfinite()


def test_pictures() -> None:
    method, sampler = simmim()
    views = method.pictures(sampler[0], 0, generator())["views"]
    assert {v.shape for v in views.values()} == {(2, 1, 16, 16, 16)} and all(v.isfinite().all() for v in views.values())


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0.0, "expected a number above 0 and below 1"),
        (1.0, "expected a number above 0 and below 1"),
        (0.999, "of 64 blocks; expected at least one block hidden"),
    ],
)
def test_something_must_be_hidden_and_something_visible(ratio: float, message: str) -> None:
    with pytest.raises(InputError, match=f"--mask-ratio: found {ratio}.*{message}"):
        simmim(SimMimOptions(mask_ratio=ratio))


def test_a_block_must_be_whole_for_a_strided_stem() -> None:
    with pytest.raises(InputError, match=r"block: found 3 voxels .* a multiple of 2, the stride of the first layer"):
        simmim(SimMimOptions(block=3), encoder="uniformer-smoke")
