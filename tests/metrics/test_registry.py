"""Metrics as a registry: a new one is a file, and nothing else knows of it."""

from __future__ import annotations

import re

import numpy as np
import pytest

from mvp_bench.cells.files import read_result, write_result
from mvp_bench.cells.per_case import columns_of, segmentation_rows
from mvp_bench.errors import InputError
from mvp_bench.metrics.registry import METRICS, aggregate, metrics_of, ranking_metric

PED = "Dataset501_BraTS2023-PED"


def test_every_metric_is_described() -> None:
    assert {"dice", "accuracy", "balanced_accuracy", "auroc", "f1"} <= set(METRICS)
    for name in METRICS:
        one = METRICS[name]
        assert one.name == name and re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert one.label and METRICS.summary(name) == one.summary != ""
        assert one.direction in ("higher", "lower") and one.kinds and one.needs
        for kind in one.kinds:
            assert set(one.needs) <= set(columns_of(kind))


def test_each_kind_has_one_default() -> None:
    for kind, default in (("segmentation", "dice"), ("classification", "accuracy")):
        assert [m.name for m in metrics_of(kind) if m.ranks] == [default]
        assert ranking_metric(kind, []) == default == metrics_of(kind)[0].name


def test_a_metric_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"acuracy.*accuracy.*Did you mean"):
        ranking_metric("classification", ["acuracy"])
    with pytest.raises(InputError, match=r"segmentation.*'accuracy'.*dice"):
        ranking_metric("segmentation", ["accuracy"])


def test_a_metric_more_is_a_column_more(volume_error: str) -> None:
    reference, predicted = np.array([[1, 1, 2, 0]]), np.array([[1, 0, 2, 2]])
    rows = segmentation_rows("c", "p", reference, predicted, {"one": [1], "two": [2]})
    assert list(rows)[-1] == volume_error and rows[volume_error].tolist() == [0.5, 1.0]
    assert aggregate(rows, "segmentation", ["one", "two"])[volume_error] == 0.75


def test_a_table_written_before_a_metric_lacks_it_and_is_whole(cells, request: pytest.FixtureRequest) -> None:
    record = cells.record(PED, "mae")
    rows, folder = cells.rows(record.spec), record.spec.folder(cells.workspace)
    write_result(folder, record, rows)
    request.getfixturevalue("volume_error")
    result = read_result(folder)
    assert result.rows.equals(rows)
    assert [m.name for m in metrics_of("segmentation", result.rows.columns)] == ["dice"]
    assert "volume_error" not in aggregate(result.rows, "segmentation", record.spec.targets)


def test_the_parts_of_a_metric() -> None:
    assert METRICS["dice"].parts(["a", "b"]) == ("mean", "a", "b")
    assert METRICS["auroc"].parts(["a", "b"]) == ("",)
