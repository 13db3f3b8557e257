"""The slowly following copy."""

import copy

import pytest
import torch
from torch import nn

from mvp_bench.pretraining.parts.momentum import Teacher, cosine_momentum


def _student() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def _moved(student: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(torch.randn_like(parameter))
    return student


def test_a_copy_of_equal_weights_stays_equal_to_the_bit() -> None:
    student = _student()
    teacher = Teacher(student)
    for momentum in (0.0, 0.3, 0.996, 1.0):
        teacher.update(student, momentum)
    for mine, theirs in zip(teacher.module.parameters(), student.parameters(), strict=True):
        assert torch.equal(mine, theirs) and mine is not theirs


def test_the_update_is_the_moving_average() -> None:
    teacher = Teacher(_student())
    before = [p.clone() for p in teacher.module.parameters()]
    student = _moved(copy.deepcopy(teacher.module))
    teacher.update(student, 0.9)
    for mine, was, theirs in zip(teacher.module.parameters(), before, student.parameters(), strict=True):
        torch.testing.assert_close(mine, 0.9 * was + 0.1 * theirs)
    teacher.update(student, 0.0)
    for mine, theirs in zip(teacher.module.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_no_gradient_reaches_the_copy_and_the_student_keeps_its_own() -> None:
    student = _student()
    teacher = Teacher(student)
    out = teacher(torch.randn(5, 3, requires_grad=True))
    assert not out.requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    (student(torch.randn(5, 3)) - teacher(torch.randn(5, 3))).square().sum().backward()
    assert all(p.grad is None for p in teacher.parameters())


def test_other_modules_are_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        Teacher(_student()).update(nn.Sequential(nn.Linear(3, 4)), 0.5)


def test_the_state_survives_a_state_dict() -> None:
    teacher = Teacher(_student())
    teacher.update(_moved(_student()), 0.5)
    teacher(torch.randn(6, 3))
    other = Teacher(_student())
    other.load_state_dict(teacher.state_dict())
    for name, value in teacher.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)
    assert {"module.0.weight", "module.1.running_mean"} <= set(teacher.state_dict())


def test_momentum_rises_from_first_to_last() -> None:
    values = [cosine_momentum(step, 100, 0.99) for step in range(101)]
    assert values[0] == pytest.approx(0.99, abs=1e-12) and values[100] == pytest.approx(1.0, abs=1e-12)
    assert values[50] == pytest.approx(0.995) and values == sorted(values)
    assert cosine_momentum(250, 100, 0.99) == 1.0
    assert cosine_momentum(0, 10, 0.9, last=0.95) == pytest.approx(0.9)
