"""The Swin encoder is ``swinViT`` of MONAI's Swin UNETR, key for key and value for value."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from monai.networks.nets.swin_unetr import SwinUNETR

from mvp_bench.models.encoders.swin import SwinSpec
from mvp_bench.models.weights import stem_name
from mvp_bench.registry import ENCODERS

SMOKE = ENCODERS["swinunetr-smoke"]


@pytest.mark.parametrize("convolutions", [False, True])
def test_same_function_as_monai(convolutions: bool) -> None:
    torch.manual_seed(0)
    spec = replace(SMOKE, convolutions=convolutions)
    theirs = SwinUNETR(
        in_channels=2, out_channels=1, feature_size=12, depths=(1, 1, 1, 1), use_v2=convolutions
    ).swinViT.eval()
    ours = spec.build(2).eval()
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 2, 64, 32, 32)
    with torch.inference_mode():
        maps = ours(image)
        turned = theirs(image.permute(0, 1, 4, 3, 2))  # MONAI's axes are (x, y, z)
        for one, other in zip(maps, turned, strict=True):
            assert torch.equal(one, other.permute(0, 1, 4, 3, 2))
        assert not torch.allclose(theirs(image)[-1], maps[-1], atol=1e-3), "the axes are not alike"
    assert [m.shape[1] for m in maps] == list(spec.features)
    assert tuple(maps[-1].shape[2:]) == spec.deepest((64, 32, 32))
    assert stem_name(ours) == "patch_embed.proj"


def test_presets_fit_the_published_weights() -> None:
    # Feature size 48: MONAI's self-supervised weights and VoCo's.
    assert ENCODERS["swinunetr"].parameters == 8_062_002
    assert ENCODERS["swinunetr-v2"].parameters == 18_637_362
    keys = set(ENCODERS["swinunetr-v2"].build(1).state_dict())
    assert "layers1.0.blocks.0.attn.relative_position_bias_table" in keys
    assert "layers1c.0.layer.conv1.conv.weight" in keys


def test_recomputing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    keeping, recomputing = replace(SMOKE, recompute=False).build(1), SMOKE.build(1)
    recomputing.load_state_dict(keeping.state_dict())
    image = torch.randn(1, 1, 32, 32, 32)
    for encoder in (keeping, recomputing):
        encoder(image)[-1].square().sum().backward()
    expected = dict(keeping.named_parameters())
    for name, parameter in recomputing.named_parameters():
        other = expected[name].grad
        assert (parameter.grad is None) == (other is None), name
        assert other is None or torch.allclose(parameter.grad, other, atol=1e-5), name


def test_impossible_topologies() -> None:
    with pytest.raises(ValueError, match="twice the features"):
        SwinSpec("odd", (12, 24, 48, 96, 96), (2,) * 5, heads=(3, 6, 12, 24))
    with pytest.raises(ValueError, match="one entry per stage"):
        SwinSpec("odd", (12, 24, 48, 96, 192), (2,) * 5, heads=(3, 6))
