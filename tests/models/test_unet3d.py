"""BrainMVP's U-Net: counts, pre-activation blocks, additive skips."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from mvp_bench.models.encoders.unet3d import UNet3dSpec
from mvp_bench.models.networks.unet3d import PreActivationBlock
from mvp_bench.models.weights import stem_name
from mvp_bench.registry import ENCODERS

SMOKE = ENCODERS["unet3d-smoke"]


def test_the_papers_size() -> None:
    spec = ENCODERS["unet3d"]
    assert spec.parameters == 17_594_112
    assert spec.stride == 8
    with torch.device("meta"):
        encoder, decoder = spec.build(1), spec.skip_free_decoder()
    assert sum(p.numel() for m in (encoder, decoder) for p in m.parameters()) == 18_799_937
    assert stem_name(encoder) == "conv1a"


def test_maps() -> None:
    maps = SMOKE.build(3)(torch.randn(1, 3, 8, 16, 12))
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 8, 16, 12), (8, 4, 8, 6), (16, 2, 4, 3)]


def test_block_is_pre_activated_and_residual() -> None:
    torch.manual_seed(0)
    block, x = PreActivationBlock(8, 4), torch.randn(2, 8, 4, 4, 4)
    before = x.clone()
    inner = block.conv1(functional.relu(functional.group_norm(x, 4)))
    expected = x + block.conv2(functional.relu(functional.group_norm(inner, 4)))
    assert torch.allclose(block(x), expected, atol=1e-6)
    assert torch.equal(x, before)


def test_skips_are_added() -> None:
    torch.manual_seed(0)
    maps = SMOKE.build(1)(torch.randn(1, 1, 8, 8, 8))
    none = [torch.zeros_like(m) for m in maps[:-1]] + maps[-1:]
    decoder, alone = SMOKE.unet_decoder(), SMOKE.skip_free_decoder()
    decoder.load_state_dict(alone.state_dict())
    assert torch.equal(decoder(none), alone(none))
    assert torch.equal(alone(maps), alone(none))
    assert not torch.allclose(decoder(maps), decoder(none))


def test_impossible_topologies() -> None:
    with pytest.raises(ValueError, match="halves"):
        UNet3dSpec("odd", (8, 16), (2, 2), blocks=(1, 1))
    with pytest.raises(ValueError, match="multiples of 8"):
        UNet3dSpec("odd", (8, 12), (1, 2), blocks=(1, 1))
    with pytest.raises(ValueError, match="one entry per level"):
        UNet3dSpec("odd", (8, 16), (1, 2), blocks=(1,))
