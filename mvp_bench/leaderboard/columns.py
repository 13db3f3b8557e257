"""The columns of the result tables; every one is explained in ``results/README.md``."""

from __future__ import annotations

from mvp_bench.cells.per_case import KEYS, TEXTS, columns_of
from mvp_bench.cells.record import CellCost

CONDITION = ("source", "profile", "mode", "label_budget")
"""What must be equal for rows to be put together at all."""
ENTRY = ("task", "method", "encoder", "mode", "schedule", "label_budget", "stem", "filled")
MACHINE = ("device", "precision", "threads", "processor")
CONTESTANT = ("method", "encoder", "schedule", "stem", "filled", "device", "precision", "threads", "recipe_key")
"""What an entry is called over all tasks; plans, splits and settings are each task's own."""
PROVENANCE = (
    "code_version",
    *MACHINE,
    "dataset_key",
    "splits_key",
    "plan_key",
    "arrays_key",
    "comparison_key",
    "recipe_key",
    "encoder_key",
    "weights",
)
_SCORES = ("mean", "ci_low", "ci_high", "difference_to_scratch", "diff_ci_low", "diff_ci_high", "p_holm")
_COUNTS = ("n_cases", "n_patients", "n_seeds", "n_pretrain_seeds", "n_folds", "n_missing")
_LEAK = ("leak_percent", "leak_note")
_CALL = ("rank", "tied_with_best", "verdict", "source", "profile")

SEGMENTATION_COLUMNS = (
    *(*ENTRY, "metric", "target", "ranking"),
    *(*_SCORES, *_COUNTS, "n_empty", *_LEAK, *_CALL, *PROVENANCE),
)
CLASSIFICATION_COLUMNS = (*ENTRY, "metric", "ranking", *_SCORES, *_COUNTS, *_LEAK, *_CALL, *PROVENANCE)
OVERALL_COLUMNS = (
    *(*ENTRY, "mean_rank", "mean_difference_to_scratch"),
    *("n_tasks", "n_tasks_missing", "n_better", "n_worse", "n_cases", "n_seeds"),
    *("note", "source", "profile", *MACHINE, "recipe_key"),
)
CELL_COLUMNS = (*ENTRY, "source", "profile", "fold", "seed", "pretrain_seed", "cell")
COST_COLUMNS = (
    *(*CELL_COLUMNS, "status", *CellCost.model_fields, "n_train", "n_val", "n_test", *MACHINE),
    *("error_type", "error"),
)
METHOD_COLUMNS = (
    *("method", "title", "what", "intensity", "modalities", "views", "heads", "transferred"),
    *("deviations", "budget", "citation", "licence_note"),
)


def per_case_columns() -> tuple[str, ...]:
    """Columns of ``results/per_case.csv``: what the metrics that are filed add stands among them."""
    measured = [name for name in columns_of("segmentation") if name not in KEYS]
    return (*CELL_COLUMNS, *KEYS, *measured, *TEXTS, "probability")


def table_columns() -> dict[str, tuple[str, ...]]:
    """File in results/ -> its columns."""
    return {
        "leaderboard.csv": OVERALL_COLUMNS,
        "leaderboard_segmentation.csv": SEGMENTATION_COLUMNS,
        "leaderboard_classification.csv": CLASSIFICATION_COLUMNS,
        "per_case.csv": per_case_columns(),
        "cost.csv": COST_COLUMNS,
        "methods.csv": METHOD_COLUMNS,
    }
