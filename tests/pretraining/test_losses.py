"""Losses against independent slow versions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mvp_bench.pretraining.methods.brainmvp.losses import info_nce, trivial_info_nce
from mvp_bench.pretraining.reconstruction import constant_error, constant_mse, masked_mse, reconstruction_error


def slow_info_nce(first: np.ndarray, second: np.ndarray, temperature: float) -> float:
    """Sum over samples and both directions of -log of the positive's share, one exponential at a time."""
    a = [v.ravel() / math.sqrt(sum(float(x) ** 2 for x in v.ravel())) for v in first]
    b = [v.ravel() / math.sqrt(sum(float(x) ** 2 for x in v.ravel())) for v in second]
    total = 0.0
    for one, two in ((a, b), (b, a)):
        for i in range(len(one)):
            shares = [math.exp(float(np.dot(one[i], two[j])) / temperature) for j in range(len(two))]
            total -= math.log(shares[i] / sum(shares))
    return total / (2 * len(a))


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_info_nce_against_the_slow_version(batch: int, temperature: float) -> None:
    rng = np.random.default_rng([batch])
    first, second = rng.standard_normal((2, batch, 4, 2, 2, 2))
    found = info_nce(torch.from_numpy(first), torch.from_numpy(second), temperature)
    assert found.item() == pytest.approx(slow_info_nce(first, second, temperature), rel=1e-5, abs=1e-6)


def test_closed_forms() -> None:
    equal = torch.ones(3, 7)
    assert info_nce(equal, equal, 1.0).item() == pytest.approx(math.log(3), abs=1e-6)
    assert trivial_info_nce(3) == pytest.approx(1.0986, abs=1e-4)
    orthogonal = torch.eye(3)
    assert info_nce(orthogonal, orthogonal, 1.0).item() == pytest.approx(0.5514, abs=1e-4)
    simplex = torch.eye(3) - 1 / 3  # cosines of -1/2
    assert info_nce(simplex, simplex, 1.0).item() == pytest.approx(0.3690, abs=1e-4)


def test_one_sample_gives_zero_and_no_gradient() -> None:
    feature = torch.randn(1, 5, requires_grad=True)
    loss = info_nce(feature, torch.randn(1, 5), 0.2)
    loss.backward()
    assert loss.item() == 0
    assert (feature.grad == 0).all()


def test_symmetry_and_permutation() -> None:
    first, second = torch.randn(2, 4, 6)
    order = torch.tensor([2, 0, 3, 1])
    assert info_nce(first, second, 0.2).item() == pytest.approx(info_nce(second, first, 0.2).item(), rel=1e-6)
    assert info_nce(first, second, 0.2).item() == pytest.approx(
        info_nce(first[order], second[order], 0.2).item(), rel=1e-6
    )


def test_autocast_costs_no_digits() -> None:
    first, second = torch.randn(2, 4, 60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        reduced = info_nce(first, second, 0.05)
    assert reduced.item() == pytest.approx(info_nce(first, second, 0.05).item(), rel=1e-6)


def test_zero_features_are_finite() -> None:
    features = torch.zeros(2, 4, requires_grad=True)
    info_nce(features, features, 0.2).backward()
    assert features.grad.isfinite().all()


def test_masked_error() -> None:
    target, counted = torch.ones(2, 1, 4, 4, 4), torch.zeros(2, 1, 4, 4, 4, dtype=torch.bool)
    counted[:, :, :2] = True
    assert masked_mse(target, target, counted) == 0
    assert masked_mse(torch.zeros_like(target), target, counted) == 1  # 0 on a constant-1 image
    visible_wrong = target.clone()
    visible_wrong[~counted] = 99.0
    assert masked_mse(visible_wrong, target, counted) == 0
    assert masked_mse(target, target, torch.zeros_like(counted)) == 0


def test_masked_error_against_the_slow_version() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 1, 3, 3, 3))
    mask = rng.random((3, 1, 3, 3, 3)) < 0.4
    slow = sum((x - y) ** 2 for x, y, m in zip(a.ravel(), b.ravel(), mask.ravel(), strict=True) if m) / mask.sum()
    found = masked_mse(torch.from_numpy(a), torch.from_numpy(b), torch.from_numpy(mask))
    assert found.item() == pytest.approx(slow, rel=1e-6)


def test_best_constant() -> None:
    target = torch.randn(3, 1, 4, 4, 4)
    assert constant_mse(target).item() == pytest.approx(target.flatten(1).var(1, correction=0).mean().item(), rel=1e-5)
    mask = torch.rand(3, 1, 4, 4, 4) < 0.5
    errors = [((t[m] - t[m].mean()) ** 2).sum() for t, m in zip(target, mask, strict=True)]
    assert constant_mse(target, mask).item() == pytest.approx(float(sum(errors) / mask.sum()), rel=1e-5)


def test_reconstruction_errors_against_the_slow_version() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal((2, 3, 1, 4, 4, 4))
    roots = [math.sqrt(sum(float(d) ** 2 for d in (a[i] - b[i]).ravel()) / 64) for i in range(3)]
    prediction, target = torch.from_numpy(a), torch.from_numpy(b)
    assert reconstruction_error(prediction, target, "l2").item() == pytest.approx(sum(roots) / 3, rel=1e-5)
    assert reconstruction_error(prediction, target, "mse").item() == pytest.approx(((a - b) ** 2).mean(), rel=1e-5)
    assert constant_error(target, "l2").item() == pytest.approx(np.mean([t.std() for t in b]), rel=1e-5)
    assert constant_error(target, "mse").item() == constant_mse(target).item()
    perfect = target.clone().requires_grad_()
    reconstruction_error(perfect, target, "l2").backward()
    assert perfect.grad.isfinite().all()
