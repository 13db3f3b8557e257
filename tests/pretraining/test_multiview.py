"""Contrastive losses of several views: closed forms, slow versions with loops, missing views."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from mvp_bench.pretraining.methods.brainmvp.losses import info_nce
from mvp_bench.pretraining.methods.brainmvp.multiview import (
    MULTI_VIEW,
    RIDGE,
    MultiView,
    gram,
    multi_view_loss,
    mv_dhel,
    mv_infonce,
    repairings,
    symile,
    volumes,
)
from tests.pretraining.conftest import generator

TEMPERATURES = (0.1, 0.5, 1.0)


def everyone(samples: int, views: int) -> torch.Tensor:
    return torch.ones(samples, views, dtype=torch.bool)


def random_views(samples: int = 4, views: int = 3, size: tuple[int, ...] = (2, 3), seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, views, *size, generator=generator(seed), dtype=torch.float64)


def some_missing(samples: int = 5, views: int = 4) -> torch.Tensor:
    """Samples 0, 2 and 4 have all; 1 and 3 lack the same two."""
    present = everyone(samples, views)
    present[1::2, 1] = present[1::2, 2] = False
    return present


def loss(name: MultiView, views: torch.Tensor, present: torch.Tensor, temperature: float = 0.5) -> torch.Tensor:
    keys = torch.rand(present.shape, generator=generator(3))
    return multi_view_loss(name, views, present, temperature, 0.1, keys)[0]


def trivial(name: MultiView, present: torch.Tensor, temperature: float) -> float:
    views = random_views(*present.shape)
    keys = torch.rand(present.shape, generator=generator(3))
    return multi_view_loss(name, views, present, temperature, 0.1, keys)[1].item()


# --------------------------------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(("samples", "views"), [(2, 2), (3, 2), (2, 4), (5, 3), (4, 8)])
def test_all_embeddings_equal(samples: int, views: int, temperature: float) -> None:
    n, m, t = samples, views, temperature
    expected = {
        "symile": math.log(n),
        "gram": math.log(n),
        "mv_infonce": math.log((m * n - 1) / (m - 1)),
        "mv_dhel": m * math.log(n - 1) + (m - 1) / t - math.log(m * (m - 1) / 2),
    }
    equal = torch.full((n, m, 3, 2), 0.7)
    for name in MULTI_VIEW:
        assert loss(name, equal, everyone(n, m), t).item() == pytest.approx(expected[name], rel=1e-5), name
        assert trivial(name, everyone(n, m), t) == pytest.approx(expected[name], rel=1e-5), name


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_symile_of_two_views_is_symmetric_infonce(temperature: float) -> None:
    views = random_views(6, 2)
    for seed in range(3):
        repaired = repairings(everyone(6, 2), torch.rand(6, 2, generator=generator(seed)))
        found = symile(views, everyone(6, 2), temperature, repaired)
        assert found.item() == pytest.approx(info_nce(views[:, 0], views[:, 1], temperature).item(), rel=1e-5)


@pytest.mark.parametrize("views", [2, 3, 4])
def test_symile_of_aligned_one_hots(views: int) -> None:
    n, t = 5, 0.5
    one_hots = torch.eye(n)[:, None].expand(n, views, n)
    repaired = repairings(everyone(n, views), torch.rand(n, views, generator=generator()))
    expected = math.log(1 + (n - 1) * math.exp(-1 / t))
    assert symile(one_hots, everyone(n, views), t, repaired).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("views", [2, 3, 4, 8])
def test_stretched_scores_of_long_vectors_do_not_vanish(views: int) -> None:
    n, t, present = 4, 0.5, everyone(4, views)
    flat = torch.ones(n, views, 4096)
    flat[:, 0] = flat[:, 1] = torch.randn(n, 4096, generator=generator()).sign()  # these two tell the samples apart
    repaired = torch.arange(n)[:, None].expand(n, views).clone()
    pair = symile(flat[:, :2], everyone(n, 2), t, repaired[:, :2], stretch=True).item()
    assert pair == pytest.approx(math.log(1 + (n - 1) * math.exp(-1 / t)), rel=0.05)  # random signs: nearly orthogonal
    found = symile(flat, present, t, repaired, stretch=True).item()
    # Anchors that are the same in all samples tell nothing: their loss is log N.
    assert found == pytest.approx((2 * pair + (views - 2) * math.log(n)) / views, rel=1e-4)
    if views > 2:
        assert symile(flat, present, t, repaired).item() == pytest.approx(math.log(n), rel=0.02)


def test_symile_cannot_tell_two_flipped_signs() -> None:
    views, present = random_views(), everyone(4, 3)
    flipped = views * torch.tensor([1.0, -1.0, -1.0])[:, None, None]
    assert loss("symile", flipped, present).item() == pytest.approx(loss("symile", views, present).item(), rel=1e-6)
    wrong = views * torch.tensor([1.0, 1.0, -1.0])[:, None, None]
    assert loss("symile", wrong, present).item() != pytest.approx(loss("symile", views, present).item(), rel=1e-3)


@pytest.mark.parametrize("views", [2, 3, 5])
def test_volumes(views: int) -> None:
    present = everyone(2, views)
    assert volumes(torch.ones(2, views, 6), present).max() < 2 * math.sqrt(2 * RIDGE)
    orthogonal = torch.eye(6)[None, :views].expand(2, views, 6)
    own = volumes(orthogonal, present).diagonal(dim1=1, dim2=2)
    assert torch.allclose(own, torch.ones_like(own), atol=1e-5)


def test_the_volume_of_two_views_is_the_sine() -> None:
    angles = torch.linspace(0.2, 2.9, 7)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    first, second = circle[:, None], torch.tensor([1.0, 0.0]).expand(7, 1, 2)
    found = volumes(torch.cat([first, second], dim=1), everyone(7, 2))[1]
    assert torch.allclose(found, angles.sin().abs().expand(7, 7), atol=1e-4)  # an anchor is the same in all rows


def test_volumes_know_no_order_and_no_sign() -> None:
    views = random_views(3, 4, (9,))
    present = everyone(3, 4)
    own = volumes(views, present).diagonal(dim1=1, dim2=2)
    shuffled = volumes(views[:, [2, 0, 3, 1]] * torch.tensor([1.0, -1.0, -1.0, 1.0])[:, None], present)
    assert torch.allclose(shuffled.diagonal(dim1=1, dim2=2), own[[2, 0, 3, 1]], rtol=1e-4)
    assert torch.allclose(own, own[:1].expand_as(own), rtol=1e-4)  # of one sample, whichever view is the anchor


# -------------------------------------------------------------------------------------------------------- slow versions


def unit(views: torch.Tensor) -> np.ndarray:
    flat = views.numpy().reshape(*views.shape[:2], -1)
    return flat / np.linalg.norm(flat, axis=-1, keepdims=True)


def has(present: np.ndarray, i: int) -> list[int]:
    return [view for view in range(present.shape[1]) if present[i, view]]


def slow_mv_infonce(u: np.ndarray, p: np.ndarray, t: float) -> float:
    found = []
    for i in range(len(u)):
        above = below = 0.0
        for a in has(p, i):
            for j in range(len(u)):
                for b in has(p, j):
                    value = math.exp(float(u[i, a] @ u[j, b]) / t)
                    above += value if i == j and a != b else 0.0
                    below += value if (i, a) != (j, b) else 0.0
        found.append(-math.log(above / below))
    return sum(found) / len(found)


def slow_mv_dhel(u: np.ndarray, p: np.ndarray, t: float) -> float:
    found = []
    for i in range(len(u)):
        above = sum(math.exp(float(u[i, a] @ u[i, b]) / t) for a, b in itertools.combinations(has(p, i), 2))
        below = 1.0
        for a in has(p, i):
            fellows = [j for j in range(len(u)) if j != i and p[j, a]]
            below *= sum(math.exp(float(u[i, a] @ u[j, a]) / t) for j in fellows) if fellows else 1.0
        found.append(-math.log(above / below))
    return sum(found) / len(found)


def slow_gram(u: np.ndarray, p: np.ndarray, t: float, smoothing: float) -> float:
    def volume(i: int, j: int, anchor: int) -> float:
        vectors = np.stack([u[i, anchor]] + [u[j, view] for view in has(p, j) if view != anchor])
        return math.sqrt(np.linalg.det(vectors @ vectors.T + RIDGE * np.eye(len(vectors))) + RIDGE)

    def cross_entropy(logits: list[float], label: int) -> float:
        total = math.log(sum(math.exp(x) for x in logits))
        return total - (1 - smoothing) * logits[label] - smoothing * sum(logits) / len(logits)

    found = []
    for anchor in range(u.shape[1]):
        anchors = [i for i in range(len(u)) if p[i, anchor]]
        for position, i in enumerate(anchors):
            rows = cross_entropy([-volume(i, j, anchor) / t for j in range(len(u))], i)
            columns = cross_entropy([-volume(j, i, anchor) / t for j in anchors], position)
            found.append((rows + columns) / 2)
    return sum(found) / len(found)


def slow_symile(u: np.ndarray, p: np.ndarray, temperature: float, repaired: np.ndarray, stretch: bool) -> float:
    found = []
    for i in range(len(u)):
        t = temperature / (u.shape[2] ** (len(has(p, i)) / 2 - 1) if stretch else 1)
        group = [k for k in range(len(u)) if has(p, k) == has(p, i)]
        for anchor in has(p, i):
            others = [view for view in has(p, i) if view != anchor]
            tuples = [[int(repaired[k, view]) for view in others] for k in group]
            negatives = []
            for samples in tuples:
                if all(sample == i for sample in samples):
                    continue
                product = u[i, anchor].copy()
                for sample, view in zip(samples, others, strict=True):
                    product = product * u[sample, view]
                negatives.append(math.exp(product.sum() / t))
            if not negatives:
                continue
            positive = math.exp(np.prod([u[i, view] for view in has(p, i)], axis=0).sum() / t)
            below = positive + (len(group) - 1) * sum(negatives) / len(negatives)
            found.append(-math.log(positive / below))
    return sum(found) / len(found)


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_against_the_slow_versions(temperature: float, missing: bool) -> None:
    views = random_views(5, 4)
    present = some_missing() if missing else everyone(5, 4)
    u, p = unit(views), present.numpy()
    repaired = repairings(present, torch.rand(5, 4, generator=generator(1)))
    pairs = {
        "infonce": (mv_infonce(views, present, temperature), slow_mv_infonce(u, p, temperature)),
        "dhel": (mv_dhel(views, present, temperature), slow_mv_dhel(u, p, temperature)),
        "gram": (gram(views, present, temperature, 0.1), slow_gram(u, p, temperature, 0.1)),
    }
    for stretch in (False, True):
        expected = slow_symile(u, p, temperature, repaired.numpy(), stretch)
        pairs[f"symile {stretch}"] = symile(views, present, temperature, repaired, stretch), expected
    for name, (found, expected) in pairs.items():
        assert found.item() == pytest.approx(expected, rel=1e-4), name


# ----------------------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("name", MULTI_VIEW)
@pytest.mark.parametrize("views", [2, 3, 8])
def test_gradients_are_finite_where_views_are_equal_or_zero(name: MultiView, views: int) -> None:
    for fill in (0.0, 1.0):
        features = torch.full((3, views, 4, 2), fill, requires_grad=True)
        value = loss(name, features, everyone(3, views))
        value.backward()
        assert value.isfinite() and features.grad.isfinite().all()


@pytest.mark.parametrize("name", MULTI_VIEW)
def test_views_that_are_missing_have_no_influence(name: MultiView) -> None:
    present = some_missing()
    views = random_views(5, 4)
    other = views.masked_fill(~present[:, :, None, None], 99.0).requires_grad_()
    value = loss(name, other, present)
    assert value.item() == loss(name, views, present).item()
    value.backward()
    assert not other.grad[~present].any() and other.grad[present].abs().sum() > 0
    first, last = views[:, :2], torch.zeros(5, 1, 2, 3)  # a view that nobody has
    wider = torch.cat([first, last], dim=1)
    nobody = torch.cat([everyone(5, 2), torch.zeros(5, 1, dtype=torch.bool)], dim=1)
    assert loss(name, wider, nobody).item() == pytest.approx(loss(name, first, everyone(5, 2)).item(), rel=1e-5)


@pytest.mark.parametrize("name", MULTI_VIEW)
def test_the_order_of_samples_and_views_does_not_matter(name: MultiView) -> None:
    views, present = random_views(5, 4), some_missing()
    keys = torch.rand(5, 4, generator=generator(3))
    samples, order = [3, 0, 4, 2, 1], [2, 0, 3, 1]
    expected = multi_view_loss(name, views, present, 0.5, 0.1, keys)
    # Repairings are permutations of the samples: those of the same samples, wherever they stand.
    found = multi_view_loss(name, views[:, order], present[:, order], 0.5, 0.1, keys[:, order])
    assert found[0].item() == pytest.approx(expected[0].item(), rel=1e-5)
    assert found[1].item() == pytest.approx(expected[1].item(), rel=1e-5)
    if name == "symile":
        repaired, place = repairings(present, keys), torch.tensor(samples).argsort()
        moved = symile(views[samples], present[samples], 0.5, place[repaired[samples]], stretch=True)
        assert moved.item() == pytest.approx(expected[0].item(), rel=1e-5)
    else:
        moved = multi_view_loss(name, views[samples], present[samples], 0.5, 0.1)[0]
        assert moved.item() == pytest.approx(expected[0].item(), rel=1e-5)


def test_repairings_stay_among_those_with_the_same_views() -> None:
    present = some_missing(7)
    drawn = {tuple(repairings(present, torch.rand(7, 4, generator=generator(s))).flatten().tolist()) for s in range(9)}
    assert len(drawn) == 9
    for values in drawn:
        repaired = torch.tensor(values).view(7, 4)
        assert (repaired.sort(dim=0).values == torch.arange(7)[:, None]).all()
        assert (present[repaired] == present[:, None]).all()


def test_a_sample_like_no_other_has_no_symile_loss() -> None:
    present = everyone(3, 3)
    present[1, 0] = False
    views = random_views(3, 3).requires_grad_()
    loss("symile", views, present).backward()
    assert views.grad[[0, 2]].abs().sum() > 0 and not views.grad[1].any()
    present[2, 1] = False  # now all three differ
    value, equal = multi_view_loss("symile", views, present, 0.5, keys=torch.rand(3, 3))
    assert value.item() == equal.item() == 0 and value.requires_grad


def test_autocast_costs_no_digits() -> None:
    views = random_views(4, 3, (60,))
    for name in MULTI_VIEW:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reduced = loss(name, views, everyone(4, 3), 0.1)
        assert reduced.item() == pytest.approx(loss(name, views, everyone(4, 3), 0.1).item(), rel=1e-6), name


@pytest.mark.parametrize("name", MULTI_VIEW)
def test_minimising_pulls_the_views_of_a_sample_together(name: MultiView) -> None:
    features = torch.randn(4, 3, 8, generator=generator(2), requires_grad=True)
    optimiser = torch.optim.Adam([features], 0.1)
    before = loss(name, features, everyone(4, 3), 0.2).item()
    for _ in range(100):
        optimiser.zero_grad()
        loss(name, features, everyone(4, 3), 0.2).backward()
        optimiser.step()
    after = loss(name, features, everyone(4, 3), 0.2).item()
    assert after < 0.6 * before if before > 0 else after < before
    different = ~torch.eye(4, dtype=torch.bool)
    if name == "gram":  # volumes know no sign, and vanish in a plane
        spanned = volumes(features.detach(), everyone(4, 3))
        assert spanned.diagonal(dim1=1, dim2=2).mean() < 0.2 < spanned[:, different].mean()
    elif name != "symile":  # whose scores know pairs of views only together with the third
        u = torch.nn.functional.normalize(features.detach(), dim=2)
        cosines = torch.einsum("ild,jmd->ijlm", u, u)
        own = cosines.diagonal(dim1=0, dim2=1)[~torch.eye(3, dtype=torch.bool)]
        assert own.mean() > 0.5 > cosines[different].mean()
