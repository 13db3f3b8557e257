"""Who is tested and who was seen: what a cell's encoder knows of its test patients."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from mvp_bench.benchmark.grid import Task
from mvp_bench.cells.leak import CellLeak, leak_of, unknown_leak
from mvp_bench.datasets.overlap.audit import OVERLAP, Audit, Leak
from mvp_bench.errors import InputError

_PARTS: tuple[Literal["train", "val", "test"], ...] = ("train", "val", "test")


def leaks_of_tasks(
    shared: Audit, tasks: Iterable[Task], seen: Mapping[str, Iterable[str]]
) -> dict[tuple[str, int], Leak]:
    """How many of each task's test patients, by fold, are among those seen (dataset -> patients) in pre-training."""
    folds = {(task.card.dataset_name, task.fold_index): task.patients("test") for task in tasks}
    return {(name, fold): shared.leak(name, fold, test, seen) for (name, fold), test in folds.items()}


def cell_leak(shared: Audit, leak: Leak, seen: Mapping[str, Iterable[str]] | None) -> CellLeak:
    """What stands in a cell's row.

    Args:
        seen: dataset -> patients of the pre-training; None: unknown.
    """
    if seen is None:
        return unknown_leak("whom the weights have seen is not known")
    blind = sorted({leak.task, *seen} & set(shared.without_images))
    return leak_of(leak.test_patients, leak.shared, f"images of {', '.join(blind)}" if blind else "")


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
