"""Intensity changes: monotone curves, gains, gammas and blur against closed forms and scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from mvp_bench.pretraining.views import intensity


def _seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _unit(batch: int, edge: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 1, edge, edge, edge, generator=_seeded(seed))


@given(seed=st.integers(0, 200), decreasing=st.booleans())
@settings(max_examples=40, deadline=None)
def test_curves_keep_or_reverse_the_rank_order_and_end_at_their_ends(seed: int, decreasing: bool) -> None:
    curves = intensity.draw_curves(3, _seeded(seed), decreasing=float(decreasing))
    ramp = torch.linspace(0, 1, 512).view(1, 1, 8, 8, 8).expand(3, -1, -1, -1, -1)
    mapped = intensity.apply_curves(ramp, curves).flatten(1)
    assert mapped.min() >= 0 and mapped.max() <= 1
    torch.testing.assert_close(mapped[:, 0], torch.full((3,), float(decreasing)), atol=1e-6, rtol=0)
    torch.testing.assert_close(mapped[:, -1], torch.full((3,), 1.0 - decreasing), atol=1e-6, rtol=0)
    steps = mapped.diff(dim=1)
    assert (steps <= 1e-6).all() if decreasing else (steps >= -1e-6).all()


def test_a_curve_goes_through_the_points_of_its_formula() -> None:
    curves = intensity.draw_curves(4, _seeded(3))
    t = np.linspace(0.1, 0.9, 27)  # near the ends a curve may be too steep for the table
    for curve in curves.numpy().astype(np.float64):
        points = sum(
            c * t**k * (1 - t) ** (3 - k) * p[:, None] for k, (c, p) in enumerate(zip((1, 3, 3, 1), curve, strict=True))
        )
        image = torch.from_numpy(points[0]).float().view(1, 1, 3, 3, 3)
        got = intensity.apply_curves(image, torch.from_numpy(curve)[None]).flatten().numpy()
        np.testing.assert_allclose(got, points[1], atol=5e-3)


def test_inner_points_on_the_diagonal_are_the_identity_and_values_outside_are_clamped() -> None:
    diagonal = torch.tensor([[[0.0, 0.0], [1 / 3, 1 / 3], [2 / 3, 2 / 3], [1.0, 1.0]]])
    images = _unit(1)
    torch.testing.assert_close(intensity.apply_curves(images, diagonal), images, atol=1e-5, rtol=0)
    outside = intensity.apply_curves(3 * images - 1, diagonal)
    torch.testing.assert_close(outside, (3 * images - 1).clamp(0, 1), atol=1e-5, rtol=0)


def test_half_of_the_curves_decrease() -> None:
    start = intensity.draw_curves(4000, _seeded())[:, 0, 1]
    assert set(start.tolist()) == {0.0, 1.0} and abs(start.mean() - 0.5) < 0.03


def test_gains_are_affine_and_keep_the_background_when_told() -> None:
    images = _unit(2) * (_unit(2, seed=1) > 0.5)
    gains = torch.tensor([[2.0, 0.5], [1.0, 0.0]])
    changed = intensity.apply_gains(images, gains)
    torch.testing.assert_close(changed[0], images[0] * 2 + 0.5)
    assert torch.equal(changed[1], images[1])
    kept = intensity.apply_gains(images, gains, images != 0)
    assert not kept[images == 0].any() and torch.equal(kept[images != 0], changed[images != 0])
    drawn = intensity.draw_gains(4000, 0.1, 0.3, _seeded())
    assert 0.9 <= drawn[:, 0].min() < 0.905 and 1.095 < drawn[:, 0].max() <= 1.1
    assert -0.3 <= drawn[:, 1].min() < -0.29 and 0.29 < drawn[:, 1].max() <= 0.3


def test_gammas_act_in_each_images_own_range() -> None:
    images = _unit(2) * 5 - 2
    changed = intensity.apply_gammas(images, torch.tensor([2.0, 1.0]))
    low, high = images[0].min(), images[0].max()
    torch.testing.assert_close(changed[0], ((images[0] - low) / (high - low)) ** 2 * (high - low) + low)
    torch.testing.assert_close(changed[1], images[1])
    constant = torch.full((1, 1, 3, 3, 3), 0.7)
    assert torch.equal(intensity.apply_gammas(constant, torch.tensor([0.5])), constant)
    kept = intensity.apply_gammas(images, torch.tensor([2.0, 3.0]), images > 0)
    assert torch.equal(kept[images <= 0], images[images <= 0])


def test_gammas_are_as_often_below_one_as_above() -> None:
    gammas = intensity.draw_gammas(4000, 0.5, 2.0, _seeded())
    assert 0.5 <= gammas.min() < 0.505 and 1.98 < gammas.max() <= 2.0
    assert abs((gammas < 1).float().mean() - 0.5) < 0.03


@given(sigmas=st.lists(st.floats(0.0, 2.5), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_blur_is_scipys_and_keeps_constants(sigmas: list[float]) -> None:
    images = torch.randn(len(sigmas), 1, 9, 11, 10, generator=_seeded())
    blurred = intensity.blur(images, torch.tensor(sigmas, dtype=torch.float64))
    for image, sigma, got in zip(images, sigmas, blurred, strict=True):
        wanted = ndimage.gaussian_filter(image[0].double().numpy(), sigma, mode="nearest") if sigma > 1e-3 else image[0]
        np.testing.assert_allclose(got[0].numpy(), wanted, atol=2e-6)
    constant = torch.full_like(images, 3.0)
    torch.testing.assert_close(intensity.blur(constant, torch.tensor(sigmas)), constant)


def test_blur_of_nothing_is_the_image() -> None:
    images = _unit(2)
    assert torch.equal(intensity.blur(images, torch.zeros(2)), images)


def test_noise_is_standard_normal_and_on_the_cpu() -> None:
    noise = intensity.gaussian_noise((4, 1, 20, 20, 20), _seeded())
    assert noise.device.type == "cpu" and abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_patches_give_no_nan(value: float) -> None:
    images = torch.full((2, 1, 4, 4, 4), value)
    for changed in (
        intensity.apply_curves(images, intensity.draw_curves(2, _seeded())),
        intensity.apply_gammas(images, torch.tensor([0.7, 1.5])),
        intensity.blur(images, torch.tensor([0.5, 1.0])),
    ):
        assert torch.isfinite(changed).all()
