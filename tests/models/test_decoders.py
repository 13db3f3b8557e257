"""The skip-free decoder sees the deepest map only; the U-Net decoder sees all."""

from __future__ import annotations

import pytest
import torch

from mvp_bench.models.decoders import SkipFreeDecoder, unet_decoder
from mvp_bench.models.heads import Classifier, global_average
from mvp_bench.registry import ENCODERS

SPEC = ENCODERS["resenc-smoke"]


@pytest.fixture
def maps() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return SPEC.build(1)(torch.randn(2, 1, 16, 16, 24))


@pytest.mark.parametrize("linear", [False, True])
def test_no_skip_reaches_the_skip_free_decoder(maps: list[torch.Tensor], linear: bool) -> None:
    decoder = SkipFreeDecoder(SPEC.features, SPEC.strides, linear=linear)
    alone = [torch.zeros_like(m) for m in maps[:-1]] + maps[-1:]
    assert torch.equal(decoder(maps), decoder(alone))
    assert decoder(maps).shape == (2, 1, 16, 16, 24)


def test_linear_decoder_is_linear(maps: list[torch.Tensor]) -> None:
    decoder = SkipFreeDecoder(SPEC.features, SPEC.strides, linear=True)
    zero = decoder([torch.zeros_like(maps[-1])])
    assert torch.allclose(decoder([2 * maps[-1]]) - zero, 2 * (decoder([maps[-1]]) - zero), atol=1e-4)


def test_a_strided_first_stage_is_undone() -> None:
    decoder = SkipFreeDecoder((4, 8), (2, 2))
    assert decoder([torch.randn(1, 8, 4, 4, 4)]).shape == (1, 1, 16, 16, 16)


def test_the_mean_survives_the_decoder() -> None:
    # A norm before the output would make the mean of the output independent of the scale of the deepest map.
    torch.manual_seed(0)
    decoder = SkipFreeDecoder((4, 8), (1, 2))
    deep = torch.rand(1, 8, 4, 4, 4)
    assert not torch.allclose(decoder([deep]).mean(), decoder([3 * deep]).mean(), atol=1e-3)


def test_unet_decoder_uses_skips_and_does_not_own_the_encoder(maps: list[torch.Tensor]) -> None:
    decoder = unet_decoder(SPEC)
    assert not [name for name in decoder.state_dict() if name.startswith("encoder")]
    without = [torch.zeros_like(maps[0]), *maps[1:]]
    assert decoder(maps).shape == (2, 1, 16, 16, 24)
    assert not torch.allclose(decoder(maps), decoder(without))


def test_pooling_and_classifier(maps: list[torch.Tensor]) -> None:
    assert torch.allclose(global_average(maps), maps[-1].flatten(2).mean(2), atol=1e-6)
    model = Classifier(SPEC.build(3), SPEC.out_channels, classes=4, dropout=0.5).eval()
    assert model(torch.randn(2, 3, 16, 16, 16)).shape == (2, 4)
