"""Presets, their plans entry, and that planning can use them without torch."""

from __future__ import annotations

import pydoc
import subprocess
import sys

import pytest
import torch

from mvp_bench.errors import InputError
from mvp_bench.models.encoders.residual import ResidualEncoderSpec
from mvp_bench.registry import ENCODERS

STRIDES = {"resenc-s": 32, "resenc-m": 32, "resenc-l": 32, "resenc-mini": 8, "resenc-smoke": 4}


@pytest.mark.parametrize("name", sorted(STRIDES))
def test_total_stride(name: str) -> None:
    assert ENCODERS[name].stride == STRIDES[name]


def test_large_is_the_topology_of_nnunet() -> None:
    spec = ENCODERS["resenc-l"]
    assert spec.features == (32, 64, 128, 256, 320, 320)
    assert spec.blocks == (1, 3, 4, 6, 6, 6)
    assert spec.strides == (1, 2, 2, 2, 2, 2)
    assert spec.parameters > ENCODERS["resenc-m"].parameters > ENCODERS["resenc-s"].parameters > 1_000_000


@pytest.mark.parametrize("name", ["resenc-mini", "resenc-smoke"])
def test_feature_maps(name: str) -> None:
    spec = ENCODERS[name]
    maps = spec.build(2)(torch.randn(1, 2, 16, 24, 16))
    assert [m.shape[1] for m in maps] == list(spec.features)
    assert tuple(maps[-1].shape[2:]) == spec.deepest((16, 24, 16))
    assert spec.parameters == sum(p.numel() for p in spec.build(1).parameters())


def test_encoder_is_the_one_in_the_network_that_nnunet_builds() -> None:
    spec = ENCODERS["resenc-smoke"]
    architecture = spec.architecture()
    kwargs = dict(architecture["arch_kwargs"])
    for key in architecture["_kw_requires_import"]:
        kwargs[key] = pydoc.locate(kwargs[key]) if kwargs[key] is not None else None
    network = pydoc.locate(architecture["network_class_name"])(input_channels=1, num_classes=2, **kwargs)  # type: ignore[operator]
    ours, theirs = spec.build(1).state_dict(), network.encoder.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}


def test_stages_must_agree() -> None:
    with pytest.raises(ValueError, match="one entry per stage"):
        ResidualEncoderSpec("odd", (4, 8), (1, 2, 2), (1, 1))


def test_unknown_encoder_names_the_near_ones() -> None:
    with pytest.raises(InputError, match="resenc-mini"):
        ENCODERS["resnec-mini"]


def test_specifications_cost_no_torch() -> None:
    code = (
        "import sys; from mvp_bench.registry import ENCODERS; "
        "[ENCODERS[n].architecture() for n in ENCODERS]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
