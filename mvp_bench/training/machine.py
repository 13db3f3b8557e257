"""What does the arithmetic: the settings as they really are here, and the machine."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mvp_bench.cells.record import Machine
from mvp_bench.config.groups import RuntimeConfig
from mvp_bench.training.runtime import Runtime

CPU_INFO = Path("/proc/cpuinfo")
"""Where Linux tells the type of the processor."""


def resolved_runtime(config: RuntimeConfig) -> dict[str, Any]:
    """Device kind, precision and thread count that are really used, never "auto"; part of keys.

    Raises:
        InputError: if a device or precision is asked for that is not there.
    """
    found = Runtime.resolve(config)
    return {"device": found.device.type, "precision": found.precision_name, "threads": config.threads}


def machine_of(config: RuntimeConfig) -> Machine:
    """The machine, for the record of a result."""
    found = Runtime.resolve(config)
    gpu = torch.cuda.get_device_name(found.device) if found.device.type == "cuda" else ""
    return Machine(
        processor=processor_type(),
        device=found.device.type,
        device_name=gpu,
        precision=found.precision_name,
        threads=config.threads,
    )


@cache
def processor_type() -> str:
    """Name of the processor's type, as the system tells it."""
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
