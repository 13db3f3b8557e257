"""Devices and precisions that are there, and those that are not."""

from __future__ import annotations

import pytest
import torch

from mvp_bench.config.groups import RuntimeConfig
from mvp_bench.errors import InputError
from mvp_bench.training import runtime
from mvp_bench.training.runtime import Runtime, resolve_device, resolve_precision

CPU = torch.device("cpu")


def test_a_gpu_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="0 CUDA devices"):
        resolve_device(RuntimeConfig(device="cuda"))
    assert resolve_device(RuntimeConfig()) == CPU


@pytest.mark.parametrize("name", ["gpu", "meta", "cuda:x"])
def test_not_a_device(name: str) -> None:
    with pytest.raises(InputError, match="--device"):
        resolve_device(RuntimeConfig(device=name))


@pytest.mark.parametrize(("has", "expected"), [(True, torch.bfloat16), (False, None)])
def test_bf16_on_a_cpu_only_in_hardware(monkeypatch: pytest.MonkeyPatch, has: bool, expected: torch.dtype) -> None:
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has)
    assert resolve_precision(RuntimeConfig(), CPU) == expected


def test_precision_by_name() -> None:
    assert resolve_precision(RuntimeConfig(precision="fp32"), CPU) is None
    assert resolve_precision(RuntimeConfig(), torch.device("cuda")) == torch.float16
    with pytest.raises(InputError, match="fp16 on a CPU"):
        resolve_precision(RuntimeConfig(precision="fp16"), CPU)


def test_kernels_are_laid_out_and_other_tensors_left_alone() -> None:
    module = torch.nn.Conv3d(2, 4, 3)
    module.register_parameter("volume", torch.nn.Parameter(torch.zeros(2, 3, 4, 5)))
    Runtime(CPU, None, channels_last=True).place(module)
    assert module.weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert module.volume.is_contiguous()
