"""What this machine has not got is refused before any work."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
import torch

from mvp_bench.config.groups import RuntimeConfig
from mvp_bench.errors import InputError
from mvp_bench.training.machine import check_machine, memory_of

CPU = RuntimeConfig(device="cpu")


def test_what_is_there_is_accepted() -> None:
    check_machine(replace(CPU, threads=os.cpu_count() or 1), memory_gb=0.01)


def test_all_that_is_missing_is_said_at_once() -> None:
    with pytest.raises(InputError) as caught:
        check_machine(replace(CPU, precision="fp16", threads=(os.cpu_count() or 1) + 1))
    assert "--threads: at most" in str(caught.value) and "--precision: " in str(caught.value)
    with pytest.raises(InputError, match="--device: found 'cuda:99'"):
        check_machine(RuntimeConfig(device="cuda:99"))


def test_memory_is_counted_in_gigabytes() -> None:
    assert 0.1 < memory_of(torch.device("cpu")) < 100_000
