"""The per-case table: what a cell found for each of its test cases, from which everything else is computed.

One row per case and target, in long form, so that no region or class can be taken for a column: ``case``, ``patient``,
``target`` (the region or the class), then for segmentation the columns that the metrics add, for classification
``truth`` and ``predicted`` (class names) and ``probability`` (of the row's class).
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from mvp_bench.cells.spec import CellSpec
from mvp_bench.errors import InputError
from mvp_bench.io import atomic_path
from mvp_bench.metrics.masks import LabelPair
from mvp_bench.metrics.registry import Column, TaskKind, metrics_of

KEYS = ("case", "patient", "target")
TEXTS = ("truth", "predicted")
"""Columns of a classification table that hold class names."""
PROBABILITY = Column("probability", 0, 1)
PerCaseColumns = dict[str, list[str] | np.ndarray]
"""Column -> its texts or numbers."""
SUM_TOLERANCE = 1e-3
"""The probabilities of a case sum to 1 within this much (float32 softmax)."""


def numbers_of(kind: TaskKind) -> tuple[Column, ...]:
    """The numeric columns of a kind of task, in the order of the file."""
    if kind == "classification":
        return (PROBABILITY,)
    return tuple(column for metric in metrics_of(kind) for column in metric.adds)


def columns_of(kind: TaskKind) -> tuple[str, ...]:
    """All columns of a kind of task, in the order of the file."""
    texts = TEXTS if kind == "classification" else ()
    return (*KEYS, *texts, *(column.name for column in numbers_of(kind)))


def segmentation_rows(
    case: str,
    patient: str,
    reference: npt.NDArray[np.integer],
    predicted: npt.NDArray[np.integer],
    regions: Mapping[str, Sequence[int]],
    spacing: tuple[float, ...] | None = None,
) -> pd.DataFrame:
    """The rows of one case of a segmentation task.

    Args:
        case: case id.
        patient: its patient.
        reference: label volume, any shape, integers.
        predicted: label volume, the same shape.
        regions: region name -> label values that form it.
        spacing: voxel edges in mm in the order of the axes, for metrics that measure distances.

    Returns:
        One row per region.

    Raises:
        ValueError: as :func:`mvp_bench.metrics.masks.joint_histogram`.
    """
    pair = LabelPair(reference, predicted, spacing)
    rows = []
    for region, values in regions.items():
        row: dict[str, object] = {"case": case, "patient": patient, "target": region}
        for metric in metrics_of("segmentation"):
            row |= metric.of_masks(pair, values)
        rows.append(row)
    return pd.DataFrame(rows, columns=list(columns_of("segmentation")))


def classification_rows(
    cases: Sequence[str],
    patients: Sequence[str],
    truth: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    classes: Sequence[str],
) -> pd.DataFrame:
    """The table of a classification task.

    Args:
        cases: n case ids.
        patients: their patients.
        truth: their class names.
        probabilities: (n, len(classes)), in the order of ``classes``; the largest one is the prediction.
        classes: class names.

    Returns:
        One row per case and class, the classes of a case side by side.

    Raises:
        ValueError: if lengths disagree, a probability is not finite, or a true class is not in ``classes``.
    """
    values = np.asarray(probabilities, dtype=np.float64)
    if values.shape != (len(cases), len(classes)) or not len(cases) == len(patients) == len(truth):
        raise ValueError(f"{values.shape} probabilities for {len(cases)} cases and {len(classes)} classes")
    if not np.isfinite(values).all():
        raise ValueError("probabilities that are not finite")
    if unknown := set(truth) - set(classes):
        raise ValueError(f"classes {sorted(unknown)} are not among {list(classes)}")
    each = [index for index in range(len(cases)) for _ in classes]
    predicted = [int(index) for index in values.argmax(axis=1)]
    return pd.DataFrame(
        {
            "case": [str(cases[i]) for i in each],
            "patient": [str(patients[i]) for i in each],
            "target": list(classes) * len(cases),
            "truth": [str(truth[i]) for i in each],
            "predicted": [classes[predicted[i]] for i in each],
            "probability": values.ravel(),
        },
        columns=list(columns_of("classification")),
    )


# ------------------------------------------------------------------------------------------------------------- the file


def write_per_case(path: Path, rows: pd.DataFrame) -> None:
    """Write a table atomically: UTF-8, line feeds, shortest decimals that read back to the same bits."""
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read_per_case(path: Path, kind: TaskKind) -> pd.DataFrame:
    """Read a file that :func:`write_per_case` wrote, bit by bit.

    Raises:
        InputError: if it cannot be read, is no such table, or a number in it is none.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        found = "no such file" if isinstance(error, FileNotFoundError) else error.strerror or error
        raise InputError(path, found=found, expected="a per-case table") from error
    return pd.DataFrame(parse_per_case(content, kind, path))


def parse_per_case(content: bytes, kind: TaskKind, path: Path) -> PerCaseColumns:
    """The columns of a table from its bytes: ids stay text ("007"), an empty number becomes NaN.

    Args:
        content: of the file.
        kind: of the task.
        path: of the file, for messages.

    Raises:
        InputError: if it is no such table, or a number in it is none.
    """
    try:
        header, *body = _fields(content.decode("utf-8"))
        wanted = (*KEYS, *TEXTS) if kind == "classification" else KEYS
        if tuple(header[: len(wanted)]) != wanted or len(set(header)) < len(header):
            raise InputError(path, found=f"columns {', '.join(header)}", expected=f"{', '.join(wanted)} first")
        by_name = dict(zip(header, zip(*body, strict=True), strict=True)) if body else {name: () for name in header}
        table: PerCaseColumns = {name: [sys.intern(text) for text in by_name[name]] for name in wanted}
        for column in numbers_of(kind):
            if column.name in by_name:
                table[column.name] = _numbers(by_name[column.name], column)
    except (csv.Error, UnicodeDecodeError, ValueError, OverflowError) as error:
        raise InputError(path, found=f"no readable table ({error})", expected="a per-case table") from error
    return table


def _fields(text: str) -> list[list[str]]:
    """The fields of each line; at least one line."""
    if '"' in text or "\r" in text:
        lines = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    else:  # several times faster, and no field of these files needs more
        lines = [line.split(",") for line in text.removesuffix("\n").split("\n")]
    return lines or [[]]


def _numbers(texts: Sequence[str], column: Column) -> np.ndarray:
    if column.whole:
        return np.array([int(text) for text in texts], dtype=np.int64)
    # Python's float() rounds correctly; pandas' default parser may be off by one unit in the last place.
    return np.array([float(text) if text else np.nan for text in texts], dtype=np.float64)


# ------------------------------------------------------------------------------------------------------------ the check


def columns_from(rows: pd.DataFrame) -> PerCaseColumns:
    """The columns of a table that was made here, for :func:`check_per_case`."""
    texts = (*KEYS, *TEXTS)
    return {name: rows[name].tolist() if name in texts else rows[name].to_numpy() for name in rows.columns}


def check_per_case(rows: PerCaseColumns, spec: CellSpec, path: Path) -> None:
    """A table must hold each test case of the specification, with its patient, once per target, and possible values.

    Args:
        rows: the table's columns.
        spec: of the cell.
        path: of the file, for messages.

    Raises:
        InputError: naming the first thing that cannot be.
    """
    fix = "The next mvp_benchmark runs this cell again."
    if (fault := _foreign_rows(rows, spec) or _impossible_numbers(rows, spec.kind)) is None:
        fault = _impossible_classes(rows, spec) if spec.kind == "classification" else None
    if fault is not None:
        found, expected = fault
        raise InputError(path, found=found, expected=expected, fix=fix)


Fault = tuple[str, str] | None
"""(found, expected)."""


def _foreign_rows(rows: PerCaseColumns, spec: CellSpec) -> Fault:
    cases, patients, targets = (list(rows[name]) for name in KEYS)
    regions, tested = set(spec.targets), spec.tested
    if set(targets) != regions:
        return f"rows for {_list(targets)}", f"rows for {_list(spec.targets)}, as in cell.json"
    if set(cases) != tested.keys():
        strangers, absent = sorted(set(cases) - tested.keys()), sorted(tested.keys() - set(cases))
        told = f"cases {_list(strangers)} that are not tested" if strangers else f"no rows for cases {_list(absent)}"
        return told, f"the {len(tested)} test cases in cell.json"
    if [tested[case] for case in cases] != patients:
        return "a case under another patient", "the patients in cell.json"
    if not len(set(zip(cases, targets, strict=True))) == len(cases) == len(tested) * len(regions):
        return f"{len(cases)} rows", f"one for each of {len(tested)} cases and {len(regions)} targets"
    return None


def _impossible_numbers(rows: PerCaseColumns, kind: TaskKind) -> Fault:
    for column in numbers_of(kind):
        if column.name not in rows:
            continue
        values = np.asarray(rows[column.name], np.float64)
        undefined = np.isnan(values)
        if undefined.any() and not column.empty:
            return f"an empty {column.name}", "a number"
        outside = values[~undefined & ((values < column.low) | (values > column.high))]
        if outside.size:
            return f"{column.name} {outside[0]:g}", f"{column.low:g} to {column.high:g}"
    return None


def _impossible_classes(rows: PerCaseColumns, spec: CellSpec) -> Fault:
    """Probabilities that do not sum to 1, or classes that are not the task's, change within a case, or are not the
    most probable."""
    order = {name: index for index, name in enumerate(spec.classes)}
    for name in TEXTS:
        if strangers := set(rows[name]) - order.keys():
            return f"{name} {_list(sorted(strangers))}", f"one of {_list(spec.classes)}"
    number = {case: index for index, case in enumerate(spec.tested)}
    case, target, truth, predicted = (
        np.array([codes[value] for value in rows[name]])
        for name, codes in (("case", number), ("target", order), ("truth", order), ("predicted", order))
    )
    shape = (len(number), len(order))
    probability, true_of, predicted_of = np.empty(shape), np.empty(shape, int), np.empty(shape, int)
    probability[case, target] = rows["probability"]
    true_of[case, target], predicted_of[case, target] = truth, predicted
    if (true_of != true_of[:, :1]).any() or (predicted_of != predicted_of[:, :1]).any():
        return "two classes of one case", "the same in each of its rows"
    sums = probability.sum(axis=1)
    if (np.abs(sums - 1) > SUM_TOLERANCE).any():
        return f"probabilities that sum to {sums[np.abs(sums - 1).argmax()]:g}", "a sum of 1 in each case"
    if (probability.argmax(axis=1) != predicted_of[:, 0]).any():
        return "a predicted class that is not the most probable", "the most probable class"
    return None


def _list(names: Sequence[str] | tuple[str, ...], most: int = 5) -> str:
    """Names for a message, each once."""
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:most]) + (f" and {len(distinct) - most} more" if len(distinct) > most else "")
