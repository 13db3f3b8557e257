"""BrainMVP with each contrastive loss of several views."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.pretraining.methods.brainmvp import BrainMvpOptions
from mvp_bench.pretraining.methods.brainmvp.losses import info_nce
from mvp_bench.pretraining.methods.brainmvp.multiview import MULTI_VIEW, MultiView, by_modality
from tests.pretraining.conftest import MODALITIES, build, generator
from tests.pretraining.fake_store import brains

CONTRASTED = BrainMvpOptions(cross_modal_start=0.0, contrastive_start=0.0)


def test_views_by_modality() -> None:
    modality = torch.tensor([[2, 0, 2], [1, 1, 1]])
    views = torch.arange(12.0).view(6, 2, 1, 1)
    table, present = by_modality(views, modality, 3)
    assert present.tolist() == [[True, True, False, False, True, True], [False, False, True, True, False, False]]
    assert table[0, :, 0].tolist() == [2.0, 3.0, 0.0, 0.0, 0.0, 1.0]  # the second image of a modality does not count
    assert table[1, :, 0].tolist() == [0.0, 0.0, 6.0, 7.0, 0.0, 0.0]


@pytest.mark.parametrize("name", MULTI_VIEW)
@pytest.mark.parametrize("target", ["sample", "all"])
def test_brainmvp_trains_with_each(name: MultiView, target: str) -> None:
    store = brains(4, MODALITIES)
    store._present = {"case01": ("t2",), "case03": ("flair", "t1")}
    options = replace(CONTRASTED, contrastive=name, target=target, slots=0 if target == "all" else 2)  # type: ignore
    method, sampler = build("brainmvp", store, options, batch=4)
    optimiser = torch.optim.AdamW(method.parameter_groups(3e-3, 0.0))
    values = []
    for _ in range(4):
        terms = method.losses(sampler[0], 9, generator())
        optimiser.zero_grad()
        torch.stack([t.weight * t.value for t in terms.values()]).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
        optimiser.step()
        values.append(terms["contrastive"].value.item())
    assert float(terms["contrastive"].trivial) > 0
    assert values[-1] < values[0] - 1e-3  # with any number of views
    if target == "sample" and name in ("symile", "gram"):
        assert float(terms["contrastive"].trivial) == pytest.approx(math.log(4), rel=1e-5)


def test_draws_of_the_other_losses_leave_the_views_alone() -> None:
    rebuilt = set()
    for name in ("infonce", *MULTI_VIEW):
        method, sampler = build("brainmvp", brains(3, MODALITIES), replace(CONTRASTED, contrastive=name))
        rebuilt.add(method.losses(sampler[0], 9, generator())["distillation"].value.item())
    assert len(rebuilt) == 1


@pytest.mark.parametrize("target", ["sample", "all"])
def test_the_default_is_infonce_to_the_bit(target: str) -> None:
    method, sampler = build("brainmvp", brains(3, MODALITIES), replace(CONTRASTED, target=target))  # type: ignore
    maps: list[torch.Tensor] = []
    method.encoder.register_forward_hook(lambda module, arguments, output: maps.append(output[-1]))
    found = method.losses(sampler[0], 9, generator())["contrastive"]
    first, second = maps[0].chunk(2)
    assert found.value.item() == info_nce(first, second, CONTRASTED.temperature).item()
    assert found.trivial == math.log(len(first))


@pytest.mark.parametrize("name", MULTI_VIEW)
def test_one_modality_is_refused(name: MultiView) -> None:
    template_only = BrainMvpOptions(contrastive=name, contrastive_start=0.0, cross_modal_start=1.0)
    with pytest.raises(InputError, match=f"--contrastive: found {name} on data with one modality in every case"):
        build("brainmvp", brains(2, ["t1"]), template_only)
    assert build("brainmvp", brains(2, ["t1"]), replace(template_only, contrastive="infonce"))
    assert build("brainmvp", brains(2, ["t1"]), replace(template_only, contrastive_start=1.0))
    assert build("brainmvp", brains(2, ["t1"]), replace(template_only, weight_contrastive=0.0))
