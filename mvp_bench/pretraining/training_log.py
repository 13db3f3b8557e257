"""log.csv: every loss beside the value of its trivial solution, as means over the steps since the last line."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

from mvp_bench.io import write_text
from mvp_bench.progress import log

LOG_FILE = "log.csv"
Row = dict[str, float]


class TrainingLog:
    """Collects the steps' losses and writes one line per window. No times: the file is the same for every repetition.

    Args:
        path: log.csv.
        watch_after: step after which a loss at its trivial value is reported.
        plateau: a loss above this part of its trivial value is at it.
    """

    def __init__(self, path: Path, watch_after: float, plateau: float) -> None:
        self.path, self.watch_after, self.plateau = path, watch_after, plateau
        self.rows: list[Row] = []
        self._sums: Row = {}
        self._counts: dict[str, int] = {}
        self._warned: set[str] = set()

    def add(self, values: Mapping[str, float]) -> None:
        """Count one forward pass: its total, and each loss beside its trivial value."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def write(self, step: int, steps: int, learning_rate: float) -> Row:
        """End the window: append a line, rewrite the file, warn of losses that sit at their trivial values.

        Returns:
            The line.
        """
        row: Row = {"step": step, "learning_rate": learning_rate}
        row.update({name: self._sums[name] / self._counts[name] for name in self._sums})
        self.rows.append(row)
        self._sums, self._counts = {}, {}
        self.flush()
        parts = [f"{name} {value:.4g}" for name, value in row.items() if name != "step"]
        log.debug("step %d of %d: %s", step, steps, ", ".join(parts))
        for name, value in row.items() if step >= self.watch_after else ():
            trivial = row.get(f"{name}_trivial")
            if trivial and value > self.plateau * trivial and name not in self._warned:
                self._warned.add(name)
                log.warning(
                    "loss %s is %.4g at step %d; its trivial solution gets %.4g: nothing is being learned from it",
                    name,
                    value,
                    step,
                    trivial,
                )
        return row

    def flush(self) -> None:
        """Write the file; a loss that was off has empty fields."""
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.9g}" for k, v in row.items()} for row in self.rows)
        write_text(self.path, text.getvalue())

    def state(self) -> dict[str, object]:
        """What a checkpoint must keep so that a resumed log equals an uninterrupted one."""
        return {
            "rows": [dict(r) for r in self.rows],
            "sums": dict(self._sums),
            "counts": dict(self._counts),
            "warned": sorted(self._warned),
        }

    def load_state(self, state: Mapping[str, object], rewrite: bool = True) -> None:
        """Undo of :meth:`state`; rewrites the file without the lines after the checkpoint (unless told not to)."""
        self.rows = [dict(r) for r in state["rows"]]  # type: ignore[attr-defined]
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])  # type: ignore[call-overload]
        self._warned = set(state["warned"])  # type: ignore[call-overload]
        if self.rows and rewrite:
            self.flush()
