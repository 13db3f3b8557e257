"""Pooling and projectors."""

import pytest
import torch
from torch import nn

from mvp_bench.pretraining.parts.heads import Projector, pooled, pooled_features
from mvp_bench.registry import ENCODERS


def _maps() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, c, e, e, e + 1, generator=generator) for c, e in ((3, 8), (5, 4), (7, 2))]


def test_pooling_is_the_mean_over_voxels() -> None:
    maps = _maps()
    torch.testing.assert_close(pooled(maps), maps[-1].flatten(2).mean(dim=2))
    everything = pooled(maps, "all")
    assert everything.shape == (2, 15)
    torch.testing.assert_close(everything[:, 3:8], maps[1].flatten(2).mean(dim=2))


def test_a_grid_averages_boxes_whose_mean_is_the_mean() -> None:
    even = [m[..., :-1] for m in _maps()]
    grid = pooled(even, "all", grid=2)
    assert grid.shape == (2, 15 * 8)
    torch.testing.assert_close(grid.view(2, 15, 8).mean(dim=2), pooled(even, "all"))
    torch.testing.assert_close(pooled(even[:1], grid=2)[:, 0], even[0][:, 0, :4, :4, :4].mean((1, 2, 3)))


def test_pooling_is_in_float32_under_autocast() -> None:
    assert pooled([m.bfloat16() for m in _maps()]).dtype == torch.float32


@pytest.mark.parametrize("stages", ["last", "all"])
@pytest.mark.parametrize("grid", [1, 2])
def test_the_number_of_features_is_that_of_the_encoder(stages: str, grid: int) -> None:
    spec = ENCODERS["resenc-smoke"]
    maps = spec.build(1)(torch.zeros(1, 1, 16, 16, 16))
    assert pooled(maps, stages, grid).shape == (1, pooled_features(spec, stages, grid))


def test_a_projector_ends_with_normalised_features() -> None:
    projector = Projector(6, 16, 4, layers=3)
    out = projector(torch.randn(32, 6, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(out.mean(dim=0), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(dim=0, unbiased=False), torch.ones(4), atol=1e-2, rtol=0)
    norms = [layer for layer in projector.modules() if isinstance(layer, nn.BatchNorm1d)]
    assert [norm.affine for norm in norms] == [True, True, False]
    assert sum(isinstance(layer, nn.Linear) for layer in projector.modules()) == 3


def test_projector_without_norms_takes_single_samples() -> None:
    projector = Projector(6, 16, 4, batch_norm=False)
    assert not any(isinstance(layer, nn.BatchNorm1d) for layer in projector.modules())
    assert projector(torch.zeros(1, 6)).shape == (1, 4)
    assert all(layer.bias is not None for layer in projector.modules() if isinstance(layer, nn.Linear))


def test_a_projector_keeps_float32_under_autocast() -> None:
    projector = Projector(6, 16, 4, last_affine=True)
    with torch.autocast("cpu", torch.bfloat16):
        out = projector(torch.randn(8, 6))
    assert out.dtype == torch.float32 and projector.layers[-1].affine
