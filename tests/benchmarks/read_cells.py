"""Seconds to read and verify finished cells: ``python -m tests.benchmarks.read_cells [cells] [patients] [folder]``.

The bar is 10 s for 5,000 cells: reading them for the tables, and recognising them as finished at the start of a run.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mvp_bench.cells.files import is_finished
from mvp_bench.leaderboard.reading import read_cells
from mvp_bench.workspace import Workspace
from tests.made_cells import TASKS, CellFactory

SEEDS = 10


def main(count: int, patients: int, folder: Path) -> None:
    """Print the seconds of every step; cells that are there already are kept."""
    cells = CellFactory(Workspace(folder), patients)
    methods = ["scratch", *(f"method{number:03d}" for number in range(1, count))]
    grid = ((task, method, seed) for method in methods for task in TASKS for seed in range(SEEDS))
    specs = [cells.spec(*next(grid)) for _ in range(count)]
    made = [spec for spec in specs if not spec.folder(cells.workspace).is_dir()]
    _timed("made", len(made), lambda: [cells.write(spec.task, spec.method, spec.seed) for spec in made])
    found = _timed("read and verified", count, lambda: read_cells(cells.workspace.cells))
    assert len(found.finished) == count and not found.open
    known = [(spec.folder(cells.workspace), spec.key) for spec in specs]
    assert all(_timed("recognised", count, lambda: [is_finished(*cell) for cell in known]))


def _timed(what: str, count: int, work: Callable) -> object:
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{count} cells {what}: {wall:.1f} s, {cpu:.1f} s of CPU", flush=True)
    return result


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:3]]
    with tempfile.TemporaryDirectory() as temporary:
        where = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(temporary)
        main(*[*numbers, *(5000, 40)[len(numbers) :]], where)
