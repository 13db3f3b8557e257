"""BM-MAE's shares of visible tokens, and what its loss looks at."""

from __future__ import annotations

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.bmmae import BmMae, BmMaeOptions, shares, visible_counts
from mvp_bench.pretraining.parts.modalities import distinct, slot_error
from mvp_bench.pretraining.sampling import Batch, PatchSampler, Shard
from mvp_bench.registry import ENCODERS
from tests.pretraining.conftest import MODALITIES, build, generator, overfitted
from tests.pretraining.fake_store import FakeStore, brains

FOUR = ("t1", "t2", "flair", "t1c")


def make(
    store: FakeStore | None = None, options: BmMaeOptions | None = None, **more: int
) -> tuple[BmMae, PatchSampler]:
    method, sampler = build("bmmae", store or brains(3, MODALITIES), options, **more)
    assert isinstance(method, BmMae)
    return method, sampler


def gammas(cases: int, candidates: int, slots: int, alpha: float = 1.0, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_gamma(alpha, (cases, candidates, slots)))


def counts_of(gamma: torch.Tensor, present: torch.Tensor, visible: int, tokens: int) -> torch.Tensor:
    number = torch.full((len(gamma),), visible)
    share = shares(gamma, present, tokens / number.double())
    assert torch.allclose(share.sum(dim=1), torch.ones(len(gamma), dtype=torch.float64))
    return visible_counts(share, present, number, tokens)


def test_512_of_2048_tokens_are_kept_and_each_modality_gets_a_quarter() -> None:
    counts = counts_of(gammas(4000, 16, 4), torch.ones(4000, 4, dtype=torch.bool), 512, 512)
    assert (counts.sum(dim=1) == 512).all() and counts.min() >= 0
    assert (counts.double().mean(dim=0) / 512 - 0.25).abs().max() < 0.015
    # Dirichlet(1) of four: a share is Beta(1, 3), of standard deviation sqrt(3 / 80).
    assert (counts / 512).std(dim=0).mean().item() == pytest.approx(math.sqrt(3 / 80), rel=0.05)


def slow_counts(gamma: np.ndarray, present: np.ndarray, visible: int, tokens: int) -> list[int]:
    """One case's visible tokens: drawn again until they fit, rounded by largest remainder."""
    for candidate in gamma:
        weight = [float(w) if p else 0.0 for w, p in zip(candidate, present, strict=True)]
        exact = [w / sum(weight) * visible for w in weight]
        if max(exact) <= tokens:
            break
    else:
        raise AssertionError("none fits")
    counts = [math.floor(e) for e in exact]
    for k in sorted(range(len(exact)), key=lambda k: counts[k] - exact[k])[: visible - sum(counts)]:
        counts[k] += 1
    return counts


@pytest.mark.parametrize(("visible", "tokens"), [(48, 64), (80, 64), (100, 64)])
def test_counts_equal_slow_ones(visible: int, tokens: int) -> None:
    gamma = gammas(50, 40, 5)
    present = torch.tensor([[True, True, False, True, True]] * 25 + [[True, True, True, False, False]] * 25)
    counts = counts_of(gamma, present, visible, tokens)
    slow = [slow_counts(g, p, visible, tokens) for g, p in zip(gamma.numpy(), present.numpy(), strict=True)]
    assert counts.tolist() == slow


@given(
    present=st.lists(st.booleans(), min_size=2, max_size=9).filter(any),
    tokens=st.integers(1, 70),
    ratio=st.floats(0.0, 1.0),
    alpha=st.sampled_from([1e-3, 0.1, 1.0, 30.0]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150, deadline=None)
def test_counts_are_exact_and_fit_whatever_is_asked_for(
    present: list[bool], tokens: int, ratio: float, alpha: float, seed: int
) -> None:
    there = torch.tensor([present])
    visible = max(1, math.floor(ratio * sum(present) * tokens))
    counts = counts_of(gammas(1, 2, len(present), alpha, seed), there, visible, tokens)
    assert int(counts.sum()) == visible and int(counts.min()) >= 0 and int(counts.max()) <= tokens
    assert not counts[~there].any()


def test_a_share_that_never_fits_is_moved_towards_equal_ones() -> None:
    gamma = torch.tensor([[[8.0, 1.0, 1.0]]], dtype=torch.float64)
    share = shares(gamma, torch.ones(1, 3, dtype=torch.bool), torch.tensor([0.5], dtype=torch.float64))
    assert torch.allclose(share, torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64))
    second = torch.cat([gamma, torch.tensor([[[2.0, 1.0, 2.0]]], dtype=torch.float64)], dim=1)
    share = shares(second, torch.ones(1, 3, dtype=torch.bool), torch.tensor([0.5], dtype=torch.float64))
    assert torch.allclose(share, torch.tensor([[0.4, 0.2, 0.4]], dtype=torch.float64))


def one_lacks() -> FakeStore:
    """Two cases; the first has two of three modalities."""
    store = brains(2, MODALITIES)
    store._present = {"case00": ("t1", "flair")}
    return store


def test_a_quarter_of_the_tokens_a_case_has_stays_visible() -> None:
    method, sampler = make(one_lacks())
    batch = sampler[0]
    present = distinct(batch.modality)
    for seed in range(10):
        kept = method.draw(batch, generator(seed))
        assert kept.shape == (2, 3, 4, 4, 4) and not kept[~present].any()
        assert kept.sum(dim=(1, 2, 3, 4)).tolist() == (present.sum(dim=1) * 16).tolist()


def test_visible_tokens_of_a_modality_are_anywhere() -> None:
    method, sampler = make()
    batch = sampler[0]
    often = torch.stack([method.draw(batch, generator(seed)) for seed in range(400)]).float().mean(dim=(0, 1, 2))
    assert (often - 0.25).abs().max() < 0.05


def test_dropping_a_modality_changes_no_other_ones_maps() -> None:
    method, sampler = make(brains(2, FOUR))
    batch = sampler[0]
    kept = method.visible(batch, method.draw(batch, generator()))
    whole = [m.unflatten(0, (2, 4)) for m in method.encode(batch, kept)]
    others = [0, 1, 3]
    fewer = replace(batch, images=batch.images[:, others], modality=batch.modality[:, others])
    for one, other in zip(whole, method.encode(fewer, kept[:, others]), strict=True):
        assert torch.allclose(one[:, others], other.unflatten(0, (2, 3)), atol=1e-5)
    # Nor does hiding it altogether.
    hidden = kept.clone()
    hidden[:, 2] = False
    for one, other in zip(whole, method.encode(batch, hidden), strict=True):
        assert torch.allclose(one[:, others], other.unflatten(0, (2, 4))[:, others], atol=1e-5)


def test_a_modality_of_which_nothing_is_visible_is_left_out_but_rebuilt() -> None:
    method, sampler = make()
    batch = sampler[0]
    kept = method.visible(batch, method.draw(batch, generator()))
    kept[:, 1] = False
    others = [0, 2]
    fewer = replace(batch, images=batch.images[:, others], modality=batch.modality[:, others])
    rebuilt = method.rebuild(batch, kept)
    assert rebuilt.shape == batch.images.shape
    assert torch.allclose(rebuilt[:, others], method.rebuild(fewer, kept[:, others]), atol=1e-5)


def test_hidden_voxels_alone_count(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = make()
    batch = sampler[0]
    prediction = torch.zeros_like(batch.images, requires_grad=True)
    monkeypatch.setattr(method.decoder, "forward", lambda maps, shared, modality: prediction)
    term = method.losses(batch, 0, generator())["reconstruction"]
    term.value.backward()
    kept = method.visible(batch, method.draw(batch, generator()))
    assert prediction.grad is not None and not prediction.grad[kept].any() and prediction.grad[~kept].any()
    errors = [batch.images[i, k][~kept[i, k]].square().mean().item() for i, k in np.ndindex(2, 3)]
    assert term.value.item() == pytest.approx(float(np.mean(errors)), rel=1e-5)


def test_a_modality_without_a_hidden_token_is_no_division_by_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    method, sampler = make()
    batch = sampler[0]
    tokens = torch.zeros(2, 3, *method.grid, dtype=torch.bool)
    tokens[:, 0] = True
    monkeypatch.setattr(method, "draw", lambda batch, generator: tokens)
    term = method.losses(batch, 0, generator())["reconstruction"]
    term.value.backward()
    assert term.value.isfinite() and float(term.trivial) > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
    # It adds nothing and is counted.
    kept = method.visible(batch, tokens)
    rest = slot_error(method.rebuild(batch, kept)[:, 1:], batch.images[:, 1:], torch.ones(2, 2, dtype=torch.bool))
    assert term.value.item() == pytest.approx(rest.item() * 2 / 3, rel=1e-5)


def test_repeated_images_do_not_count() -> None:
    method, sampler = make(one_lacks())
    batch = sampler[0]
    present = distinct(batch.modality)
    before = method.losses(batch, 0, generator())["reconstruction"]
    batch.images[~present] = 50.0
    after = method.losses(batch, 0, generator())["reconstruction"]
    assert torch.equal(before.value, after.value)
    assert torch.equal(torch.as_tensor(before.trivial), torch.as_tensor(after.trivial))


def error_of(method: BmMae, batch: Batch, tokens: torch.Tensor) -> float:
    kept = method.visible(batch, tokens)
    return slot_error(method.rebuild(batch, kept), batch.images, distinct(batch.modality), ~kept).item()


def test_order_of_the_batch_does_not_matter() -> None:
    method, sampler = make(brains(4, MODALITIES), batch=4)
    batch, order = sampler[0], [2, 0, 3, 1]
    tokens = method.draw(batch, generator())
    ordered, shuffled = error_of(method, batch, tokens), error_of(method, batch.select(order), tokens[order])
    assert ordered == pytest.approx(shuffled, rel=1e-5)


def test_draws_of_a_step_are_shared_out() -> None:
    method, sampler = make(brains(4, MODALITIES), batch=4)
    batch = sampler[0]
    whole = method.draw(batch, generator())
    parts = [replace(batch.select([2 * r, 2 * r + 1]), shard=Shard(r, 2)) for r in range(2)]
    assert torch.equal(torch.cat([method.draw(part, generator()) for part in parts]), whole)


def test_two_volumes_are_overfitted() -> None:
    method, sampler = make(brains(2, ["t1", "t2"], variation=1.0))
    assert overfitted(method, sampler[0], steps=80)["reconstruction"] < 0.35


def test_pictures() -> None:
    method, sampler = make()
    shown = method.pictures(sampler[0], 0, generator())
    assert {tuple(v.shape) for v in shown["views"].values()} == {(6, 16, 16, 16)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": 1}, "--slots: found 1"),
        ({"slots": -2}, "--slots: found -2"),
        ({"alpha": 0.0}, "--alpha: found 0.0; expected a number above 0"),
        ({"mask_ratio": 0.0}, "--mask-ratio: found 0.0"),
        ({"mask_ratio": 0.99}, "none of a case with one modality stays visible"),
        ({"block": 0}, "block: found 0"),
        ({"intensity": "raw"}, "--intensity: found 'raw'"),
    ],
)
def test_settings_that_cannot_work_are_refused(change: dict[str, float], message: str) -> None:
    options = BmMaeOptions(**{**asdict(BmMaeOptions()), **change})
    with pytest.raises(InputError, match=message):
        BmMae.check_settings(options, ENCODERS["resenc-smoke"], (16, 16, 16), 2)


def test_data_without_two_modalities_in_any_case_are_refused() -> None:
    with pytest.raises(InputError, match="no case with two modalities"):
        make(brains(2, ["t1"]))
