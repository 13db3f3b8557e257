"""What methods that see all modalities of a case share."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.parts.modalities import (
    ModalityDecoder,
    check_blocks,
    check_slots,
    constant_slot_error,
    distinct,
    mean_over_slots,
    ranks,
    slot_error,
)
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import generator

PATCH = (16, 16, 16)


def random_images(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Prediction, target (3, 4, 5, 6, 7), present and counted, one image of which has no counted voxel."""
    random = generator(seed)
    prediction, target = torch.randn(2, 3, 4, 5, 6, 7, generator=random)
    present = torch.tensor([[True, True, True, True], [True, False, True, False], [False, False, True, False]])
    counted = torch.rand(3, 4, 5, 6, 7, generator=random) < 0.4
    counted[0, 1] = False
    return prediction, target, present, counted


def slow_error(prediction: np.ndarray, target: np.ndarray, present: np.ndarray, counted: np.ndarray) -> float:
    """:func:`slot_error` with loops."""
    cases = []
    for i in range(len(target)):
        errors = []
        for k in range(target.shape[1]):
            if not present[i, k]:
                continue
            total, number = 0.0, 0
            for voxel in np.ndindex(target.shape[2:]):
                if counted[i, k][voxel]:
                    total += (float(prediction[i, k][voxel]) - float(target[i, k][voxel])) ** 2
                    number += 1
            errors.append(total / number if number else 0.0)
        cases.append(sum(errors) / len(errors))
    return sum(cases) / len(cases)


def test_error_equals_a_slow_one() -> None:
    prediction, target, present, counted = random_images()
    arrays = [t.numpy() for t in (prediction, target, present, counted)]
    assert slot_error(prediction, target, present, counted).item() == pytest.approx(slow_error(*arrays), rel=1e-5)
    arrays[3] = np.ones_like(arrays[3])
    assert slot_error(prediction, target, present).item() == pytest.approx(slow_error(*arrays), rel=1e-5)


def test_constant_error_is_that_of_the_best_constant_per_image() -> None:
    _, target, present, counted = random_images()
    best = constant_slot_error(target, present, counted)
    mean = torch.zeros_like(target)
    for i, k in np.ndindex(3, 4):
        if counted[i, k].any():
            mean[i, k] = target[i, k][counted[i, k]].mean()
    assert best.item() == pytest.approx(slot_error(mean, target, present, counted).item(), rel=1e-5)
    assert all(slot_error(mean + shift, target, present, counted) > best for shift in (-0.1, 0.1))


def test_order_of_cases_and_modalities_does_not_matter() -> None:
    images = random_images()
    error = slot_error(*images)
    assert torch.isclose(slot_error(*(t[[2, 0, 1]] for t in images)), error)
    assert torch.isclose(slot_error(*(t[:, [3, 1, 0, 2]] for t in images)), error)


def test_an_image_without_counted_voxels_leaves_no_nan() -> None:
    prediction, target, present, counted = random_images()
    prediction.requires_grad_()
    counted[:] = False
    error = slot_error(prediction, target, present, counted)
    error.backward()
    assert error == 0 and prediction.grad is not None and not prediction.grad.any()


def test_repeated_modalities_are_not_distinct() -> None:
    modality = torch.tensor([[2, 0, 2, 0], [1, 1, 1, 1], [3, 2, 1, 0]])
    assert distinct(modality).tolist() == [[True, True, False, False], [True, False, False, False], [True] * 4]


def test_ranks() -> None:
    values = torch.tensor([[0.3, 0.1, 0.2], [5.0, 6.0, 4.0]])
    assert ranks(values).tolist() == [[2, 0, 1], [1, 2, 0]]


def test_mean_over_the_used_slots() -> None:
    maps = torch.randn(6, 5, 2, 2, 2, generator=generator())
    used = torch.tensor([[True, False, True], [False, True, False]])
    mean = mean_over_slots(maps, used)
    assert torch.allclose(mean[0], (maps[0] + maps[2]) / 2) and torch.allclose(mean[1], maps[4])


@pytest.mark.parametrize("name", ["resenc-smoke", "plain-smoke", "unet3d-smoke", "uniformer-smoke"])
def test_what_is_rebuilt_depends_on_the_modality_told(name: str) -> None:
    spec = ENCODERS[name]
    torch.manual_seed(0)
    encoder, decoder = spec.build(1), ModalityDecoder(spec, 3)
    patch = (max(16, 2 * spec.stride),) * 3
    maps = encoder(torch.randn(2, 1, *patch, generator=generator()))
    rebuilt = decoder(maps, maps[-1], torch.tensor([[0, 1, 0], [2, 0, 2]]))
    assert rebuilt.shape == (2, 3, *patch)
    assert torch.allclose(rebuilt[:, 0], rebuilt[:, 2], atol=1e-5)
    # Not by an offset alone, nor by a scale.
    joint = torch.corrcoef(torch.stack([rebuilt[0, 0].flatten(), rebuilt[0, 1].flatten()]))
    assert joint[0, 1].abs() < 0.99


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PATCH, 16, 2, 0.9), "none of a case with one modality stays visible; expected at most 0.875"),
    ],
)
def test_blocks_that_cannot_work_are_refused(arguments: tuple[tuple[int, ...], int, int, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_blocks(*arguments)
    check_blocks(PATCH, 16, 2, 0.875)


def test_slots_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="at least 2, or 0"):
        check_slots(1)
    check_slots(0)
    check_slots(2)
