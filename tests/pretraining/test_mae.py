"""MAE's mask fraction, what its loss looks at, its augmentation, over-fitting, and bad settings."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining import masking
from mvp_bench.pretraining.methods.mae import MaeOptions, MaskedAutoencoder, draw_placement, placed
from mvp_bench.pretraining.reconstruction import masked_mse
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import brains


def test_masked_fraction() -> None:
    method, _ = build("mae", brains(2, MODALITIES))
    assert isinstance(method, MaskedAutoencoder)
    blocks = math.prod(method.grid)
    assert method.block == 4 and blocks == 64
    assert blocks - method.kept == int(0.75 * blocks)


def test_visible_voxels_of_the_target_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = build("mae", brains(2, MODALITIES), MaeOptions(augment=False))
    prediction = torch.zeros(2, 1, 16, 16, 16, requires_grad=True)
    monkeypatch.setattr(method.decoder, "forward", lambda maps: prediction)
    term = method.losses(sampler[0], 0, generator())["mae"]
    term.value.backward()
    grid = masking.draw_kept(2, method.grid, method.kept, generator())
    kept = masking.to_voxels(grid, (16, 16, 16), method.block)
    assert prediction.grad is not None and (prediction.grad[kept] == 0).all()
    assert term.value.item() == pytest.approx(sampler[0].images[:, :1][~kept].square().mean().item(), rel=1e-5)


def test_predicting_zero_on_ones_costs_one(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = build("mae", brains(2, MODALITIES), MaeOptions(augment=False))
    batch = sampler[0]
    batch.images.fill_(1.0)
    for value, expected in ((0.0, 1.0), (1.0, 0.0)):
        prediction = torch.full((2, 1, 16, 16, 16), value)
        monkeypatch.setattr(method.decoder, "forward", lambda maps, prediction=prediction: prediction)
        assert method.losses(batch, 0, generator())["mae"].value.item() == expected


def test_loss_equals_a_slow_version() -> None:
    rng = np.random.default_rng(0)
    prediction, target = rng.standard_normal((2, 2, 1, 3, 4, 5)).astype(np.float32)
    hidden = rng.random((2, 1, 3, 4, 5)) < 0.75
    squares = [(prediction[i] - target[i]) ** 2 for i in np.ndindex(*hidden.shape) if hidden[i]]
    found = masked_mse(*(torch.from_numpy(array) for array in (prediction, target, hidden)))
    assert found.item() == pytest.approx(sum(squares) / len(squares), rel=1e-5)


class TestAugmentation:
    STILL = MaeOptions(flip=0.0, rotation_probability=0.0, scaling_probability=0.0)

    def test_without_chances_the_patch_stays(self) -> None:
        images = torch.randn(3, 1, 8, 12, 16, generator=generator())
        assert torch.equal(placed(images, draw_placement(3, (8, 12, 16), self.STILL, generator())), images)

    def test_mirrors(self) -> None:
        images = torch.randn(3, 1, 8, 12, 16, generator=generator())
        placement = draw_placement(3, (8, 12, 16), replace(self.STILL, flip=1.0), generator())
        assert torch.equal(placed(images, placement), images.flip(2, 3, 4))

    def test_chances(self) -> None:
        placement = draw_placement(4000, (8, 12, 16), MaeOptions(), generator())
        assert placement.flips.float().mean().item() == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 12000))
        moved = 1 - 0.8**2
        assert placement.moved.float().mean().item() == pytest.approx(moved, abs=4 * math.sqrt(moved * 0.64 / 4000))
        still = torch.eye(3, 4).expand(4000, 3, 4)
        assert torch.equal((placement.theta - still).abs().amax((1, 2)) > 1e-6, placement.moved)

    @pytest.mark.parametrize("factor", [0.7, 1.4])
    def test_scales_about_the_middle(self, factor: float) -> None:
        """A ball of radius 6 appears with radius 6 / factor, with the same intensities."""
        axes = torch.meshgrid(*[torch.arange(24.0) - 11.5] * 3, indexing="ij")
        ball = (torch.stack(axes).norm(dim=0) < 6).float()[None, None]
        options = replace(self.STILL, scaling_probability=1.0, scaling=(factor, factor))
        seen = placed(ball, draw_placement(1, (24,) * 3, options, generator()))
        assert seen.sum().item() == pytest.approx(ball.sum().item() / factor**3, rel=0.03)
        assert seen.max().item() == pytest.approx(1, abs=1e-6) and seen.min() == 0

    def test_rotates_without_shear_in_patches_that_are_no_cubes(self) -> None:
        z, y, x = torch.meshgrid(
            torch.arange(16.0) - 7.5, torch.arange(24.0) - 11.5, torch.arange(20.0) - 9.5, indexing="ij"
        )
        ball = torch.exp(-(z**2 + y**2 + x**2) / 18)[None, None]
        options = replace(self.STILL, rotation_probability=1.0, rotation_degrees=90.0)
        placement = draw_placement(1, (16, 24, 20), options, generator())
        assert placement.moved.all()
        assert torch.allclose(placed(ball, placement), ball, atol=0.05)  # 0.17 if turned in normalised coordinates

    def test_only_moved_samples_are_resampled(self) -> None:
        images = torch.randn(2, 1, 8, 8, 8, generator=generator())
        placement = draw_placement(2, (8,) * 3, replace(self.STILL, rotation_probability=1.0), generator())
        seen = placed(images, replace(placement, moved=torch.tensor([False, True])))
        assert torch.equal(seen[0], images[0]) and not torch.equal(seen[1], images[1])

    def test_can_be_left_out(self) -> None:
        method, sampler = build("mae", brains(2, MODALITIES), MaeOptions(augment=False))
        assert isinstance(method, MaskedAutoencoder)
        assert torch.equal(method.rebuild(sampler[0], generator())[0], sampler[0].images)
        method, sampler = build("mae", brains(2, MODALITIES))
        assert isinstance(method, MaskedAutoencoder)
        assert not torch.equal(method.rebuild(sampler[0], generator())[0], sampler[0].images)


@pytest.mark.parametrize(
    ("ratio", "message"),
    [
        (0.0, "expected a number above 0 and below 1"),
        (1.0, "expected a number above 0 and below 1"),
        (0.01, "of 64 blocks; expected at least one block hidden"),
    ],
)
def test_something_must_be_hidden_and_something_visible(ratio: float, message: str) -> None:
    with pytest.raises(InputError, match=f"--mask-ratio: found {ratio}.*{message}"):
        build("mae", brains(2, MODALITIES), MaeOptions(mask_ratio=ratio))


def test_scaling_must_be_a_range() -> None:
    with pytest.raises(InputError, match="scaling: found"):
        build("mae", brains(2, MODALITIES), MaeOptions(scaling=(1.4, 0.7)))


def test_two_volumes_are_overfitted() -> None:
    method, sampler = build("mae", brains(2, ["t1"], variation=1.0))
    assert overfitted(method, sampler[0], steps=45)["mae"] < 0.2
