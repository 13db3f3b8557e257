"""NT-Xent and InfoNCE against closed forms and slow NumPy versions."""

import math

import numpy as np
import pytest
import torch

from mvp_bench.pretraining.parts.contrastive import (
    case_numbers,
    cosines,
    normalised,
    nt_xent,
    trivial_nt_xent,
)


def _features(n: int, width: int = 7, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def _slow_nt_xent(first: np.ndarray, second: np.ndarray, temperature: float, groups: list[int]) -> float:
    views = [*first, *second]
    owner = [*range(len(first))] * 2
    losses = []
    for i, view in enumerate(views):
        positive, negatives = 0.0, 0.0
        for j, other in enumerate(views):
            if i == j:
                continue
            e = math.exp(_cosine(view, other) / temperature)
            if owner[i] == owner[j]:
                positive = e
            elif groups[owner[i]] != groups[owner[j]]:
                negatives += e
        losses.append(-math.log(positive / (positive + negatives)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0])
def test_nt_xent_is_the_slow_one(size: int, temperature: float) -> None:
    first, second = _features(size), _features(size, seed=1)
    expected = _slow_nt_xent(first.double().numpy(), second.double().numpy(), temperature, list(range(size)))
    assert float(nt_xent(first, second, temperature)) == pytest.approx(expected, rel=1e-5)


def test_samples_of_one_group_are_no_negatives() -> None:
    first, second, groups = _features(5), _features(5, seed=1), [3, 8, 3, 1, 8]
    expected = _slow_nt_xent(first.double().numpy(), second.double().numpy(), 0.5, groups)
    numbers = torch.tensor(groups)
    assert float(nt_xent(first, second, 0.5, numbers)) == pytest.approx(expected, rel=1e-5)
    same = torch.ones(5, 4)
    assert float(nt_xent(same, same, 0.5, numbers)) == pytest.approx(float(trivial_nt_xent(numbers)), rel=1e-5)
    assert float(nt_xent(first, second, 0.5, torch.zeros(5))) == 0.0, "nobody to be told from"


@pytest.mark.parametrize("size", [2, 3, 8])
def test_equal_features_give_the_log_of_the_other_views(size: int) -> None:
    same = torch.ones(size, 4)
    expected = pytest.approx(math.log(2 * size - 1), rel=1e-5)
    assert float(nt_xent(same, same, 0.5)) == expected
    assert float(trivial_nt_xent(torch.arange(size))) == expected


def test_matched_pairs_that_are_otherwise_orthogonal() -> None:
    pairs = torch.eye(2, 5) * 3
    assert float(nt_xent(pairs, pairs * 2, 0.5)) == pytest.approx(math.log(1 + 2 * math.exp(-2)), rel=1e-5)
    assert float(nt_xent(pairs, pairs, 0.5)) == pytest.approx(0.2395, abs=5e-5)


def test_nt_xent_is_symmetric_and_ignores_the_order_of_samples() -> None:
    first, second = _features(6), _features(6, seed=1)
    value = nt_xent(first, second, 0.5)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(nt_xent(second, first, 0.5), value)
    torch.testing.assert_close(nt_xent(first[order], second[order], 0.5), value)
    torch.testing.assert_close(nt_xent(7 * first, second, 0.5), value)


def test_zero_features_give_finite_losses_and_gradients() -> None:
    zeros = torch.zeros(3, 4, requires_grad=True)
    value = nt_xent(zeros, zeros * 2, 0.5)
    value.backward()
    assert torch.isfinite(value) and zeros.grad is not None and torch.isfinite(zeros.grad).all()


def test_cosines_are_in_float32_under_autocast() -> None:
    first, second = _features(4), _features(3, seed=1)
    expected = cosines(first, second)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cosines(first, second), expected)
    torch.testing.assert_close(normalised(first.view(4, 7, 1)).norm(dim=1), torch.ones(4))


def test_numbers_of_cases_are_equal_for_equal_names_only() -> None:
    numbers = case_numbers(["a/1", "a/2", "a/1", "b/1"], torch.device("cpu"))
    assert numbers.dtype == torch.int64 and len(numbers.unique()) == 3 and numbers[0] == numbers[2]
    assert torch.equal(numbers[1:2], case_numbers(["a/2"], torch.device("cpu"))), "whichever process asks"
