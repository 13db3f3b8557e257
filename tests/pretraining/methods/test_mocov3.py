"""MoCo v3: closed forms, momentum branch, queue, negatives, refusals, over-fitting, resuming."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.mocov3 import (
    NOBODY,
    MocoOptions,
    MomentumContrast,
    contrast,
    equal_features,
    not_compared,
)
from mvp_bench.pretraining.parts.contrastive import case_numbers
from mvp_bench.pretraining.sampling import PatchSampler
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator
from tests.pretraining.fake_store import FakeStore, brains
from tests.pretraining.test_run import Unplugged

SMALL = MocoOptions(hidden=32, features=16, queue=0)
QUEUE = replace(SMALL, queue=10)
CPU = torch.device("cpu")


def make(store: FakeStore | None = None, options: MocoOptions = SMALL, **sizes: Any) -> tuple[Any, PatchSampler]:
    method, sampler = build("mocov3", store or brains(3, MODALITIES), options, **sizes)
    assert isinstance(method, MomentumContrast)
    return method, sampler


# --------------------------------------------------------------------------------------------------------------- loss


@pytest.mark.parametrize("batch", [2, 4])
def test_collapsed_features_cost_four_temperatures_times_log_n(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    method, sampler = make(brains(4, MODALITIES), batch=batch)
    monkeypatch.setattr(method, "predict", lambda x: torch.ones_like(x))
    monkeypatch.setattr(method.teacher_projector, "forward", lambda x: torch.ones(len(x), 16))
    term = method.losses(sampler[0], 0, generator())["contrast"]
    assert term.value.item() == pytest.approx(4 * 0.2 * math.log(batch), rel=1e-5)
    assert float(term.trivial) == pytest.approx(4 * 0.2 * math.log(batch), rel=1e-5)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_loss_equals_a_slow_one(temperature: float) -> None:
    rng = np.random.default_rng(1)
    queries, keys = rng.standard_normal((4, 6)), rng.standard_normal((9, 6))
    cases = [11, 12, 13, 11, 12, 99, NOBODY, 13, NOBODY]  # four keys of the step, five places of the queue
    losses, counts = [], []
    for i in range(4):
        terms = {}
        for j in range(9):
            if j != i and (cases[j] in (cases[i], NOBODY)):
                continue
            cosine = queries[i] @ keys[j] / np.linalg.norm(queries[i]) / np.linalg.norm(keys[j])
            terms[j] = math.exp(cosine / temperature)
        losses.append(-math.log(terms[i] / sum(terms.values())))
        counts.append(math.log(len(terms)))
    positives, numbers = torch.arange(4), torch.tensor(cases)
    left_out = not_compared(numbers[:4], numbers, positives)
    found = contrast(torch.from_numpy(queries), torch.from_numpy(keys), positives, left_out, temperature)
    assert found.item() == pytest.approx(2 * temperature * np.mean(losses), rel=1e-5)
    assert equal_features(left_out, temperature).item() == pytest.approx(2 * temperature * np.mean(counts), rel=1e-5)


def test_both_directions_are_summed() -> None:
    method, sampler = make(brains(4, MODALITIES), batch=4)
    batch = sampler[0]
    found = method.losses(batch, 0, generator())["contrast"].value
    with torch.no_grad():
        views = torch.cat(method.views(batch, generator()))
        queries = method.predictor(method.projector(method.encoder(views)[-1].mean((2, 3, 4))))
        keys = method.projector(method.encoder(views)[-1].mean((2, 3, 4)))  # the branches are equal at the start
    none = torch.zeros(4, 4, dtype=torch.bool)
    expected = contrast(queries[:4], keys[4:], torch.arange(4), none, 0.2)
    expected = expected + contrast(queries[4:], keys[:4], torch.arange(4), none, 0.2)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_keys_of_the_same_case_are_no_negatives() -> None:
    cases = torch.tensor([5, 6, 5, 7])
    expected = torch.tensor([[0, 0, 1, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()
    assert torch.equal(not_compared(cases, cases, torch.arange(4)), expected)
    assert not not_compared(
        torch.tensor([5, 5]), torch.tensor([5, 5]), torch.arange(2)
    ).any()  # unless there are no others
    queue = torch.tensor([5, 5, NOBODY])
    assert torch.equal(not_compared(queue[:2], queue, torch.arange(2)), torch.tensor([[False, False, True]] * 2))


# ---------------------------------------------------------------------------------------------------- momentum branch


def test_momentum_rises_from_its_first_value_to_one() -> None:
    method, _ = make(steps=10)
    teachers = [*method.teacher_encoder.parameters(), *method.teacher_projector.parameters()]
    students = [*method.encoder.parameters(), *method.projector.parameters()]

    def kept(step: int) -> float:
        """The part of the momentum branch that a step keeps."""
        with torch.no_grad():
            for teacher, student in zip(teachers, students, strict=True):
                teacher.fill_(1.0)
                student.zero_()
        method.after_step(step)
        values = torch.cat([teacher.flatten() for teacher in teachers])
        assert values.min() == values.max()
        return values[0].item()

    found = [kept(step) for step in range(10)]
    assert found[0] == pytest.approx(0.99) and found[-1] == 1
    assert found == sorted(found)
    assert found[3] == pytest.approx(1 - 0.01 * (1 + math.cos(math.pi * 3 / 9)) / 2)


def test_equal_weights_stay_and_keys_have_no_gradient() -> None:
    method, sampler = make(options=QUEUE)
    teachers = [*method.teacher_encoder.parameters(), *method.teacher_projector.parameters()]
    before = [p.clone() for p in teachers]
    method.losses(sampler[0], 0, generator())["contrast"].value.backward()
    method.after_step(0)
    assert all(torch.equal(a, b) for a, b in zip(before, teachers, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in teachers)
    assert not method.queue.requires_grad and not any(k.requires_grad for k, _ in method._arrived)
    for part in (method.encoder, method.projector, method.predictor):
        assert any(bool(p.grad.any()) for p in part.parameters())


def test_projector_has_norms_and_the_predictor_none_at_its_end() -> None:
    method, _ = make(options=MocoOptions.presets()["paper"])
    norms = [m for m in method.projector.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    assert [(n.num_features, n.affine) for n in norms] == [(4096, True), (256, False)]
    assert isinstance(method.predictor[-1], torch.nn.Linear) and len(method.queue) == 0


# -------------------------------------------------------------------------------------------------------------- queue


def test_queue_holds_the_latest_keys_and_their_cases() -> None:
    method, sampler = make(options=QUEUE)
    seen = []
    for step in range(4):
        batch = sampler[step]
        before = method.queue.clone()
        method.losses(batch, step, generator(step))
        assert torch.equal(before, method.queue)  # until the optimiser's step
        seen.append((method._arrived[0][0], case_numbers(batch.cases, CPU).repeat(2)))
        method.after_step(step)
        assert not method._arrived
    latest = torch.cat([keys for keys, _ in reversed(seen)])[:10]  # 4 keys a step
    assert torch.equal(method.queue, latest)
    assert torch.equal(method.queue_cases, torch.cat([cases for _, cases in reversed(seen)])[:10])
    torch.testing.assert_close(method.queue.norm(dim=1), torch.ones(10))
    assert {"queue", "queue_cases"} <= set(method.state_dict())


def test_queued_keys_of_other_cases_are_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = make(brains(6, MODALITIES), QUEUE)
    one, two = sampler[0], sampler[1]
    assert not set(one.cases) & set(two.cases)
    trivial = [float(method.losses(one, 0, generator())["contrast"].trivial)]
    method.after_step(0)
    trivial.append(float(method.losses(one, 1, generator())["contrast"].trivial))  # own case and the other's two keys
    trivial.append(float(method.losses(two, 1, generator())["contrast"].trivial))  # and four of other cases
    assert trivial == pytest.approx([4 * 0.2 * math.log(n) for n in (2, 4, 6)])
    monkeypatch.setattr(method, "predict", lambda x: method.queue[:1].expand(len(x), -1))  # points at a negative
    assert method.losses(two, 1, generator())["contrast"].value > trivial[-1]


def test_every_part_of_an_accumulated_step_is_queued() -> None:
    method, sampler = make(brains(6, MODALITIES), QUEUE)
    for part in (0, 1):
        method.losses(sampler[part], 0, generator(part))
    method.after_step(0)
    assert (method.queue_cases != NOBODY).sum() == 8
    assert set(method.queue_cases[:4].tolist()) == set(case_numbers(sampler[1].cases, CPU).tolist())
    method.eval()
    method.losses(sampler[2], 1, generator())
    assert not method._arrived  # looking on leaves no trace


# -------------------------------------------------------------------------------------------------------------- views


def test_two_views_of_one_patch_differ() -> None:
    method, sampler = make()
    batch = sampler[0]
    first, second = method.views(batch, generator())
    assert first.shape == second.shape == batch.images.shape
    assert not torch.equal(first, second) and not torch.equal(first[0], first[1])


def test_pictures() -> None:
    method, sampler = make()
    shown = method.pictures(sampler[0], 0, generator())["views"]
    assert [volumes.shape for volumes in shown.values()] == [(2, 1, 16, 16, 16)] * 3


def test_views_of_two_modalities() -> None:
    still = {"flip": 0.0, "blur": 0, "gamma": 1, "gain": 0, "offset": 0, "noise": 0}
    options = replace(SMALL, cross_modal=True, crop_volume=(1.0, 1.0), **still)
    store = brains(2, MODALITIES)
    store._present = {"case00": ("t2",)}
    method, sampler = make(store, options)
    batch = sampler[0]
    first, second = method.views(batch, generator())
    torch.testing.assert_close(torch.cat([first, second], dim=1), batch.images)
    for i, case in enumerate(batch.cases):
        assert torch.equal(first[i], second[i]) == case.endswith("case00")
    with pytest.raises(InputError, match="one modality in every case"):
        make(brains(2, ["t1"]), options)


def test_losses_do_not_depend_on_the_order_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = make(brains(4, MODALITIES), batch=4)
    batch = sampler[0]
    drawn = method.views(batch, generator())
    values = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        monkeypatch.setattr(method, "views", lambda b, g, order=order: tuple(view[order] for view in drawn))
        values.append(method.losses(batch.select(order), 0, generator())["contrast"].value.item())
    assert values[0] == pytest.approx(values[1], rel=1e-4)


# ---------------------------------------------------------------------------------------------------------------- runs


def test_runs_that_cannot_work_are_refused() -> None:
    spec = ENCODERS["resenc-smoke"]
    for options in (SMALL, QUEUE):
        with pytest.raises(InputError, match=r"--batch-size.*at least 2 cases per step.*no negatives"):
            MomentumContrast.check_settings(options, spec, (16, 16, 16), 1)
    MomentumContrast.check_settings(SMALL, spec, (16, 16, 16), 1, world=2)
    with pytest.raises(InputError, match=r"--crop-volume: found 0\.5 0\.2"):
        MomentumContrast.check_settings(replace(SMALL, crop_volume=(0.5, 0.2)), spec, (16, 16, 16), 2)


@pytest.mark.parametrize("options", [SMALL, replace(SMALL, queue=64)])
def test_volumes_are_told_apart_after_30_steps(options: MocoOptions) -> None:
    method, sampler = make(brains(2, ["t1"], variation=1.0), options, steps=30)
    batch = sampler[0]
    optimiser = torch.optim.AdamW(method.parameter_groups(1e-2, 0.0))
    for step in range(30):
        term = method.losses(batch, step, generator())["contrast"]
        optimiser.zero_grad()
        term.value.backward()
        optimiser.step()
        method.after_step(step)
    assert term.value < 0.3 * term.trivial


def test_interrupted_and_resumed_equals_uninterrupted(run: Callable[..., Any], tmp_path: Path) -> None:
    run("whole", method="mocov3", options=QUEUE)
    store = brains(3, MODALITIES)
    store.__class__ = Unplugged
    store.reads_left = 9  # type: ignore[attr-defined]  # 2 per step
    with pytest.raises(KeyboardInterrupt):
        run("parts", store=store, method="mocov3", options=QUEUE)
    content = torch.load(tmp_path / "parts" / "checkpoint_last.pt", weights_only=True)["method"]
    assert content["queue"].any() and (content["queue_cases"] != NOBODY).all()
    name = next(name for name, value in content.items() if name.startswith("encoder.") and value.dim() == 5)
    assert not torch.equal(content[name], content["teacher_encoder.module." + name.removeprefix("encoder.")])
    store.reads_left = 10**9  # type: ignore[attr-defined]
    run("parts", store=store, method="mocov3", options=QUEUE)
    for file in ("encoder.safetensors", "log.csv"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "parts" / file).read_bytes(), file
