"""Gradients in bfloat16 of convolutions on shallow maps are those of float32."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mvp_bench.training.runtime import autocast_for
from mvp_bench.training.shallow import miscomputed

CPU = torch.device("cpu")


def gradients(layer: nn.Conv3d, maps: torch.Tensor, precision: torch.dtype | None) -> list[torch.Tensor]:
    layer.zero_grad()
    maps = maps.clone().requires_grad_()
    with autocast_for(CPU, precision):
        output = layer(maps)
    assert precision is None or output.dtype == precision
    output.float().square().sum().backward()
    assert maps.grad is not None and layer.weight.grad is not None and layer.bias is not None
    return [output.detach().float(), maps.grad, layer.weight.grad.clone(), layer.bias.grad.clone()]  # type: ignore[union-attr]


@pytest.mark.parametrize("edge", [(2, 2, 2), (2, 3, 4), (3, 2, 2), (4, 4, 4), (1, 2, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (1, 1)])
def test_gradients_are_those_of_float32(edge: tuple[int, int, int], kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = nn.Conv3d(16, 16, kernel, stride, padding=kernel // 2)
    maps = torch.randn(2, 16, *edge)
    exact, low = gradients(layer, maps, None), gradients(layer, maps, torch.bfloat16)
    for one, other in zip(exact, low, strict=True):
        assert (one - other).abs().max() < 0.05 * one.abs().max()


def test_only_what_has_to_be_is_computed_in_float32() -> None:
    maps, kernel, stride = torch.zeros(1, 1, 2, 2, 2), (3, 3, 3), (1, 1, 1)
    assert not miscomputed(maps, kernel, stride)
    with autocast_for(CPU, torch.bfloat16):
        assert miscomputed(maps, kernel, stride)
        assert not miscomputed(maps, (1, 3, 3), stride) and not miscomputed(maps, kernel, (2, 2, 2))
        assert not miscomputed(torch.zeros(1, 1, 3, 2, 2), kernel, stride)
        with torch.no_grad():
            assert not miscomputed(maps, kernel, stride)
