"""``cell.json``: what a cell is and where and how it came about, by one model that writes and reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mvp_bench.cells.spec import CellSpec, Strict
from mvp_bench.identity import RESULT_VERSIONS
from mvp_bench.registry import IMPORTED

FORMAT: Literal[2] = 2
"""Format of a cell's files."""


def current_stages() -> dict[str, int]:
    """Stage -> version of its arithmetic in this package."""
    return {str(stage): version for stage, version in RESULT_VERSIONS.items()}


class Machine(Strict):
    """What did the arithmetic. Results differ in their last digits between types of processor."""

    processor: str = ""
    """Type of the processor, as the system names it."""
    device: str = ""
    """Kind of device: cpu or cuda."""
    device_name: str = ""
    """Type of the GPU; empty on a CPU."""
    precision: str = ""
    """fp32, bf16 or fp16, as really used."""
    threads: int | None = None

    @property
    def arithmetic(self) -> tuple[str, str, int | None]:
        """Device, precision and threads: runs that differ in them are never averaged."""
        return self.device, self.precision, self.threads

    @property
    def calculator(self) -> str:
        """The type of processor or GPU that did the arithmetic; empty if unknown."""
        return self.device_name or self.processor


class CellCost(Strict):
    """What a cell took; None where it was not measured."""

    wall_time_s: float | None = None
    peak_memory_mb: float | None = None
    parameters: int | None = None
    voxels_seen: int | None = None
    pretraining_wall_time_s: float | None = None
    pretraining_voxels_seen: int | None = None


class CellRecord(Strict):
    """Everything that is known about one cell but its scores."""

    format: Literal[2] = FORMAT
    spec: CellSpec
    key: str
    """Key of the specification."""
    stages: dict[str, int] = Field(default_factory=current_stages)
    """Stage -> version of its arithmetic when the cell was made."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the package (``mvp_bench``) and the libraries that took part."""
    machine: Machine = Machine()
    weights: str | None = None
    """SHA-256 of the pre-trained weights that were loaded; None from scratch."""
    load_report: dict[str, Any] = Field(default_factory=dict)
    """Encoder tensors loaded, adapted and new."""
    cost: CellCost = CellCost()

    @classmethod
    def of(cls, spec: CellSpec, **facts: Any) -> CellRecord:
        """The record of a specification, with whatever else is known."""
        return cls(spec=spec, key=spec.key, **facts)

    @property
    def place(self) -> Path:
        """<task>/<method>/<cell id>, below ``results/cells``, under the key that the cell was made with."""
        return self.spec.place_of(self.key)

    def outdated_stages(self, current: Mapping[str, int] | None = None) -> list[str]:
        """Stages of other arithmetic than today's that the cell rests on; the score's is told by ``metrics.json``.

        Args:
            current: stage -> version; default: this package's.
        """
        rests_on = ["prepare", "plan", "finetune"]
        if self.spec.source == "phantom":
            rests_on.append("phantom")
        if self.spec.needs.encoder is not None and not self.spec.method.startswith(IMPORTED):
            rests_on.append("pretrain")
        now = current_stages() if current is None else current
        return [stage for stage in rests_on if self.stages.get(stage) != now.get(stage)]
