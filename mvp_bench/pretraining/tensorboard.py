"""The log's lines for TensorBoard."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from mvp_bench.errors import InputError

BOARD = "tensorboard"


def require_tensorboard() -> None:
    """Refuse ``--tensorboard`` before a run where the package is absent.

    Raises:
        InputError: saying how to get it.
    """
    if importlib.util.find_spec("tensorboard") is None:
        raise InputError(
            "--tensorboard",
            found="the package tensorboard is not installed",
            expected="it beside torch",
            fix="pip install tensorboard, or leave the option out: log.csv has the same numbers.",
        )


class Board:
    """An event file in ``folder``. A resumed run hides the points after its checkpoint.

    Args:
        folder: of the events.
        step: last step of the checkpoint.

    Raises:
        InputError: if the package is absent.
    """

    def __init__(self, folder: Path, step: int) -> None:
        require_tensorboard()
        from torch.utils.tensorboard import SummaryWriter  # slow to import

        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def add(self, row: Mapping[str, float]) -> None:
        """One line of the log: each loss and its trivial value in one group."""
        for name, value in row.items():
            if name != "step":
                base = name.removesuffix("_trivial")
                self._writer.add_scalar(f"{base}/{'trivial' if base != name else 'value'}", value, int(row["step"]))

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
