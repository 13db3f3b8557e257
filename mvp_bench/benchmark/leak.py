"""``leak.json`` beside a cell's results: how many of its test patients the encoder has seen in pre-training.

It is no part of cell.json, which is never written again: a crosswalk added later changes what is known of the leak, not
the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mvp_bench.datasets.overlap.audit import OVERLAP, Audit, Leak
from mvp_bench.errors import InputError
from mvp_bench.io import read_json, write_json_if_changed
from mvp_bench.workspace import Workspace

if TYPE_CHECKING:  # brings nnU-Net, which the leaderboards do without
    from mvp_bench.benchmark.grid import Cell, Task

LEAK_FILE = "leak.json"
_PARTS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")


def write_leaks(workspace: Workspace, cells: Iterable[tuple[Cell, Sequence[Leak]]]) -> None:
    """Bring leak.json up to date in the folder of every cell that has been run; none is touched without need.

    Args:
        cells: each with the leaks of its pre-training, by task and fold.
    """
    for cell, leaks in cells:
        folder = cell.folder(workspace)
        wanted = (cell.task.card.dataset_name, cell.task.fold_index)
        if folder.is_dir():
            (leak,) = (leak for leak in leaks if (leak.task, leak.fold) == wanted)
            write_json_if_changed(folder / LEAK_FILE, leak.as_json())


def read_leak(folder: Path) -> float | None:
    """Percent of a cell's test patients seen in pre-training; None if it has not been determined.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / LEAK_FILE
    if not path.is_file():
        return None
    content = read_json(path)
    percent = content.get("leak_percent") if isinstance(content, dict) else None
    if not isinstance(percent, (int, float)) or not 0 <= percent <= 100:
        raise InputError(path, found=repr(percent), expected="leak_percent, 0 to 100", fix="Run mvp_benchmark again.")
    return float(percent)


def refuse_divided(shared: Audit, tasks: Iterable[Task]) -> None:
    """No one is in two parts of a fold, under whatever ids.

    Raises:
        InputError: naming the two patient ids.
    """
    for task in tasks:
        name = task.card.dataset_name
        part_of: dict[int, tuple[str, str]] = {}
        for part in _PARTS:
            for patient in sorted(task.patients(part)):
                other, other_part = part_of.setdefault(shared.person[name, patient], (patient, part))
                if other_part != part:
                    raise InputError(
                        f"dataset {name}, fold {task.fold_index}",
                        found=f"patients {other} in {other_part} and {patient} in {part}, who are one person (by id, "
                        f"crosswalk or image; see {OVERLAP})",
                        expected="each person in one part",
                        fix="Leave one of the cases out with converter_options.exclude of a card of your own; where "
                        "only images speak for it and you know better, use --overlap.no-images.",
                    )
