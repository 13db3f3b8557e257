"""nnU-Net's plain encoder is the one inside the network that nnU-Net builds from the plan."""

from __future__ import annotations

import pydoc
from typing import Any

import pytest
import torch

from mvp_bench.registry import ENCODERS


def network_of(architecture: dict[str, Any], channels: int, classes: int) -> torch.nn.Module:
    """As ``nnunetv2.utilities.get_network_from_plans`` does."""
    kwargs = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        kwargs[key] = pydoc.locate(kwargs[key]) if kwargs[key] is not None else None
    kind: Any = pydoc.locate(architecture["network_class_name"])
    return kind(input_channels=channels, num_classes=classes, **kwargs)


@pytest.mark.parametrize("name", ["plain-smoke", "plain-mini"])
def test_encoder_is_the_one_in_the_network_that_nnunet_builds(name: str) -> None:
    spec = ENCODERS[name]
    ours, network = spec.build(2), network_of(spec.architecture(), 2, 3)
    network.encoder.load_state_dict(ours.state_dict())
    image = torch.randn(1, 2, 16, 16, 16)
    maps = ours(image)
    for one, other in zip(maps, network.encoder(image), strict=True):
        assert torch.equal(one, other)
    assert [m.shape[1] for m in maps] == list(spec.features)
    assert tuple(maps[-1].shape[2:]) == spec.deepest((16, 16, 16))


def test_large_is_nnunets_default() -> None:
    large, small = ENCODERS["plain-l"], ENCODERS["plain-s"]
    assert large.features == (32, 64, 128, 256, 320, 320) and large.stride == small.stride == 32
    kwargs = large.architecture()["arch_kwargs"]
    assert kwargs["n_conv_per_stage"] == [2] * 6 and kwargs["n_conv_per_stage_decoder"] == [2] * 5
    assert small.features == tuple(width // 2 for width in large.features)
