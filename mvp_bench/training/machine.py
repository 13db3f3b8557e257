"""What does the arithmetic: the settings as they really are here, and the machine."""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch

from mvp_bench.cells.record import Machine
from mvp_bench.config.check import Fault, refuse
from mvp_bench.config.groups import RuntimeConfig
from mvp_bench.errors import InputError
from mvp_bench.progress import log
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


def check_machine(runtime: RuntimeConfig, memory_gb: float | None = None) -> None:
    """Refuse what this machine has not got, before any work; more memory than it has is warned of.

    Args:
        memory_gb: what patches and batches are planned for.

    Raises:
        InputError: for a device or precision that is not there, or more threads than logical cores.
    """
    faults = []
    cores = os.cpu_count() or 1
    if runtime.threads > cores:
        expected = f"at most {cores}, the logical cores of this machine"
        faults.append(Fault("--threads", str(runtime.threads), expected))
    try:
        device = Runtime.resolve(runtime).device
    except InputError as error:
        faults.append(Fault(error.where, error.found, error.expected, error.fix))
    refuse(faults)
    if memory_gb is not None and memory_gb > (there := memory_of(device)):
        log.warning("--planning.memory-gb is %g, but %s has %.1f GB", memory_gb, device, there)


def memory_of(device: torch.device) -> float:
    """Memory in GB: of a GPU, or of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**30
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


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
