"""What is measured on the test cases, and the per-case file that everything else is computed from.

Empty masks follow nnU-Net: where reference and prediction are both empty the Dice score is *undefined* (NaN, an empty
field in CSV): it is left out of means and counted; where only the reference is empty, any predicted voxel gives 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.metrics import accuracy_score, f1_score, recall_score, roc_auc_score

from mvp_bench.errors import InputError
from mvp_bench.io import atomic_path

TaskKind = Literal["segmentation", "classification"]

SEGMENTATION_COLUMNS = ("case", "patient", "target", "dice", "reference_voxels", "predicted_voxels")
"""Per-case columns of a segmentation task: one row per case and target (region)."""
CLASSIFICATION_COLUMNS = ("case", "patient", "class", "predicted")
"""Per-case columns of a classification task, followed by one ``p_<class>`` per class: one row per case."""
PROBABILITY_PREFIX = "p_"
CLASSIFICATION_METRICS = ("accuracy", "balanced_accuracy", "auroc", "f1")

_LARGEST_LABEL_SPAN = 1024  # the joint histogram has span^2 bins; real label maps span a handful


# --------------------------------------------------------------------------------------------------------- segmentation


def joint_histogram(reference: npt.NDArray[np.integer], prediction: npt.NDArray[np.integer]) -> tuple[np.ndarray, int]:
    """Count every pair of label values in one pass.

    Args:
        reference: label volume of any shape.
        prediction: label volume of the same shape.

    Returns:
        counts (span, span): ``counts[a - lowest, b - lowest]`` voxels are ``a`` in the reference and ``b`` in the
        prediction; and ``lowest``, the smallest label value in either.

    Raises:
        ValueError: if shapes differ, a volume is empty or holds no integers, or label values are absurdly far apart.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} are on different grids")
    if reference.size == 0:
        raise ValueError("volumes without voxels")
    for volume in (reference, prediction):
        if not np.issubdtype(volume.dtype, np.integer):
            raise ValueError(f"label volumes hold integers, not {volume.dtype}")
    lowest = int(min(reference.min(), prediction.min()))
    span = int(max(reference.max(), prediction.max())) - lowest + 1
    if span > _LARGEST_LABEL_SPAN:
        raise ValueError(f"label values span {span} integers; is this a label volume?")
    joint = reference.ravel().astype(np.int32)
    joint -= lowest
    joint *= span
    np.add(
        joint, prediction.ravel(), out=joint, casting="unsafe"
    )  # of any integer type; the sum fits by the check above
    joint -= lowest
    return np.bincount(joint, minlength=span * span).reshape(span, span), lowest


def dice_score(overlap: int, reference_voxels: int, predicted_voxels: int) -> float:
    """2 |A and B| / (|A| + |B|); NaN where both masks are empty."""
    total = reference_voxels + predicted_voxels
    return 2 * overlap / total if total else float("nan")


def segmentation_rows(
    case: str,
    patient: str,
    reference: npt.NDArray[np.integer],
    prediction: npt.NDArray[np.integer],
    regions: Mapping[str, Sequence[int]],
) -> pd.DataFrame:
    """Dice of every region of one case.

    Args:
        case: case id.
        patient: its patient.
        reference: label volume, any shape, integers.
        prediction: label volume, the same shape.
        regions: region name -> label values that form it.

    Returns:
        One row per region, :data:`SEGMENTATION_COLUMNS`; ``dice`` in [0, 1] or NaN.

    Raises:
        ValueError: as :func:`joint_histogram`.
    """
    counts, lowest = joint_histogram(reference, prediction)
    rows = []
    for region, values in regions.items():
        inside = [value - lowest for value in set(values) if 0 <= value - lowest < len(counts)]
        reference_voxels = int(counts[inside, :].sum())
        predicted_voxels = int(counts[:, inside].sum())
        dice = dice_score(int(counts[np.ix_(inside, inside)].sum()), reference_voxels, predicted_voxels)
        rows.append((case, patient, region, dice, reference_voxels, predicted_voxels))
    return pd.DataFrame(rows, columns=list(SEGMENTATION_COLUMNS))


def segmentation_metrics(rows: pd.DataFrame) -> dict[str, float | None]:
    """Means over cases: ``dice/region:R`` per region, and ``dice``, the mean of these (None where nothing is defined).

    Beside them ``n_empty_reference/region:R``, the cases whose reference is empty, and ``n_undefined/region:R``, those
    whose prediction is empty too.
    """
    metrics: dict[str, float | None] = {}
    by_target = rows.groupby("target", sort=False)
    means = by_target["dice"].mean()  # skips NaN
    metrics["dice"] = _defined(means.mean())
    metrics |= {f"dice/region:{target}": _defined(mean) for target, mean in means.items()}
    for target, group in by_target:
        metrics[f"n_empty_reference/region:{target}"] = int((group["reference_voxels"] == 0).sum())
        metrics[f"n_undefined/region:{target}"] = int(group["dice"].isna().sum())
    return metrics


# ------------------------------------------------------------------------------------------------------- classification


def classification_rows(
    cases: Sequence[str],
    patients: Sequence[str],
    truth: Sequence[str],
    probabilities: npt.NDArray[np.floating],
    classes: Sequence[str],
) -> pd.DataFrame:
    """The per-case table of a classification task.

    Args:
        cases: n case ids.
        patients: their patients.
        truth: their class names.
        probabilities: (n, len(classes)), in the order of ``classes``; the largest one is the prediction.
        classes: class names.

    Returns:
        One row per case: :data:`CLASSIFICATION_COLUMNS`, then ``p_<class>`` per class.

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
    predicted = [classes[index] for index in values.argmax(axis=1)]
    table = pd.DataFrame(
        {"case": list(cases), "patient": list(patients), "class": list(truth), "predicted": predicted},
        columns=list(CLASSIFICATION_COLUMNS),
    )
    for index, name in enumerate(classes):
        table[PROBABILITY_PREFIX + name] = values[:, index]
    return table


def class_names(rows: pd.DataFrame) -> list[str]:
    """The classes of a classification per-case table, from its ``p_<class>`` columns, in order."""
    return [name.removeprefix(PROBABILITY_PREFIX) for name in rows.columns if name.startswith(PROBABILITY_PREFIX)]


def classification_metrics(rows: pd.DataFrame) -> dict[str, float | None]:
    """Accuracy, balanced accuracy, AUROC and F1 of a classification per-case table.

    *Balanced accuracy* is the mean recall over the classes that occur in the reference; *F1* the mean over the classes
    that occur in reference or prediction; *AUROC* that of the second class' probability for two classes, else the mean
    of one-versus-rest over all classes. AUROC is None if a class does not occur in the reference.
    """
    classes = class_names(rows)
    truth, predicted = rows["class"].to_numpy(dtype=object), rows["predicted"].to_numpy(dtype=object)
    present = [name for name in classes if (truth == name).any()]
    auroc = None
    if len(present) == len(classes):
        scored = classes[1:] if len(classes) == 2 else classes
        auroc = float(np.mean([roc_auc_score(truth == name, rows[PROBABILITY_PREFIX + name]) for name in scored]))
    return {
        "accuracy": float(accuracy_score(truth, predicted)),
        "balanced_accuracy": float(recall_score(truth, predicted, labels=present, average="macro", zero_division=0)),
        "auroc": auroc,
        "f1": float(f1_score(truth, predicted, average="macro", zero_division=0)),
    }


def aggregate(rows: pd.DataFrame, kind: TaskKind) -> dict[str, float | None]:
    """Per-case rows -> the flat content of ``metrics.json`` (None stands for *undefined*, since JSON has no NaN)."""
    return segmentation_metrics(rows) if kind == "segmentation" else classification_metrics(rows)


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


# ---------------------------------------------------------------------------------------------------- the per-case file


def write_per_case(path: Path, rows: pd.DataFrame) -> None:
    """Write a per-case table atomically: UTF-8, line feeds, shortest decimals that read back to the same bits."""
    with atomic_path(path) as temporary:
        rows.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")


def read_per_case(path: Path, kind: TaskKind) -> pd.DataFrame:
    """Read what :func:`write_per_case` wrote, bit by bit; ids stay text ("007"), an empty Dice becomes NaN.

    Raises:
        InputError: if the file is missing, is no such table, or a number in it is none.
    """
    columns = SEGMENTATION_COLUMNS if kind == "segmentation" else CLASSIFICATION_COLUMNS
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8")
        if tuple(rows.columns[: len(columns)]) != columns:
            raise InputError(path, found=f"columns {', '.join(rows.columns)}", expected=f"{', '.join(columns)} first")
        for name in columns if kind == "segmentation" else ():
            if name.endswith("_voxels"):
                rows[name] = rows[name].astype(np.int64)
        for name in ["dice"] if kind == "segmentation" else [PROBABILITY_PREFIX + c for c in class_names(rows)]:
            # Python's float() rounds correctly; pandas' default parser may be off by one unit in the last place.
            rows[name] = [float(text) if text else float("nan") for text in rows[name]]
    except FileNotFoundError as error:
        raise InputError(path, found="no such file", expected="a per-case table") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, ValueError) as error:
        raise InputError(path, found=f"no readable table ({error})", expected="a per-case table") from error
    return rows
