"""The per-case file: bit by bit what was written, in long form, whatever classes and regions are called."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mvp_bench.cells.files import read_result, write_result
from mvp_bench.cells.per_case import (
    KEYS,
    check_per_case,
    classification_rows,
    columns_from,
    columns_of,
    read_per_case,
    segmentation_rows,
    write_per_case,
)
from mvp_bench.errors import InputError

ADNI = "Dataset512_ADNI"
AWKWARD = ["patient", "case", "class", "predicted", "probability", "target", "p_class", 'a "quoted", one\n', " ", "NA"]


def three_class_rows(n: int = 60, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet([1, 1, 1], n).astype(np.float32)
    truth = rng.choice(["AD", "MCI", "CN"], n, p=[0.2, 0.3, 0.5])
    cases = [f"{i:03d}" for i in range(n)]
    return classification_rows(cases, cases, truth, probabilities, ["AD", "MCI", "CN"])


def test_segmentation_file_round_trips_to_the_bit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame(
        {
            "case": [f"{i:03d}" for i in range(200)],
            "patient": ["NA", "None", *(f"1e{i}" for i in range(198))],
            "target": "ET, or so",
            "dice": np.where(rng.random(200) < 0.1, np.nan, rng.random(200) ** 9),
            "reference_voxels": rng.integers(0, 2**40, 200),
            "predicted_voxels": rng.integers(0, 9, 200),
        }
    )
    write_per_case(tmp_path / "a.csv", rows)
    back = read_per_case(tmp_path / "a.csv", "segmentation")
    assert back["dice"].to_numpy().tobytes() == rows["dice"].to_numpy().tobytes()
    for name in rows.columns.drop("dice"):
        assert back[name].tolist() == rows[name].tolist()
    write_per_case(tmp_path / "b.csv", back)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    assert b"\r" not in (tmp_path / "a.csv").read_bytes()


def test_classification_file_round_trips_to_the_bit(tmp_path: Path) -> None:
    rows = three_class_rows()
    write_per_case(tmp_path / "a.csv", rows)
    back = read_per_case(tmp_path / "a.csv", "classification")
    assert back.equals(rows)
    assert list(back) == list(columns_of("classification"))
    assert list(back["target"][:3]) == ["AD", "MCI", "CN"]


def test_rows_are_one_per_case_and_class() -> None:
    rows = classification_rows(["c1", "c2"], ["p1", "p2"], ["b", "a"], np.array([[0.25, 0.75], [0.5, 0.5]]), ["a", "b"])
    assert rows.to_dict("list") == {
        "case": ["c1", "c1", "c2", "c2"],
        "patient": ["p1", "p1", "p2", "p2"],
        "target": ["a", "b", "a", "b"],
        "truth": ["b", "b", "a", "a"],
        "predicted": ["b", "b", "a", "a"],
        "probability": [0.25, 0.75, 0.5, 0.5],
    }


@pytest.mark.parametrize("first", AWKWARD)
def test_no_class_name_can_be_taken_for_a_column(cells, first: str) -> None:
    classes = [first, *(name for name in AWKWARD if name != first)]
    record = cells.record(ADNI, "scratch", classes=classes)
    rows = cells.rows(record.spec)
    folder = record.spec.folder(cells.workspace)
    write_result(folder, record, rows)
    assert read_result(folder).rows.equals(rows)


def test_no_region_name_can_be_taken_for_a_column(tmp_path: Path) -> None:
    volume = np.arange(4, dtype=np.uint8).reshape(1, 2, 2)
    regions = {name: [index % 4] for index, name in enumerate([*AWKWARD, *columns_of("segmentation")[3:]])}
    rows = segmentation_rows("c", "p", volume, volume, regions)
    write_per_case(tmp_path / "a.csv", rows)
    assert read_per_case(tmp_path / "a.csv", "segmentation").equals(rows)


def test_columns_that_are_not_known_are_left_out(tmp_path: Path) -> None:
    text = "case,patient,target,dice,reference_voxels,predicted_voxels,hd96\na,a,WT,0.5,1,1,2.5\n"
    (tmp_path / "a.csv").write_text(text)
    assert list(read_per_case(tmp_path / "a.csv", "segmentation")) == list(columns_of("segmentation"))


def test_a_table_may_lack_what_a_newer_metric_needs(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("case,patient,target\na,a,WT\n")
    assert list(read_per_case(tmp_path / "a.csv", "segmentation")) == list(KEYS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "case,dice\na,0.5\n",
        "case,patient,target,dice,reference_voxels,predicted_voxels\na,a,WT,half,1,1\n",
        "case,patient,target,dice,reference_voxels,predicted_voxels\na,a,WT,0.5,,1\n",
        "case,patient,target,dice,reference_voxels,predicted_voxels\na,a,WT,0.5,1\n",
        "case,patient,target,dice,reference_voxels,predicted_voxels\na,a,WT,0.5,1e999,1\n",
        f"case,patient,target,dice,reference_voxels,predicted_voxels\na,a,WT,0.5,{2**70},1\n",
        "case,patient,target,dice,dice,predicted_voxels\na,a,WT,0.5,1,1\n",
        'case,patient,target,dice\n"a,a,WT,0.5\n',
        b"case,patient,target,dice\n\xe4,a,WT,0.5\n",
        b"case,patient,target,dice\n\x00,a,WT,0.5,1\n",
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str | bytes) -> None:
    (tmp_path / "per_case.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"per_case\.csv"):
        read_per_case(tmp_path / "per_case.csv", "segmentation")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_per_case(tmp_path / "per_case.csv", "segmentation")


@pytest.mark.parametrize(
    ("truth", "probabilities", "message"),
    [
        (["x"], [[0.5, 0.5]], "not among"),
        (["LGG"], [[np.nan, 0.5]], "not finite"),
        (["LGG"], [[0.5]], "for 1 cases and 2 classes"),
    ],
)
def test_bad_predictions_are_refused(truth: list[str], probabilities: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        classification_rows(["a"], ["a"], truth, np.array(probabilities), ["LGG", "HGG"])


def test_messages_name_a_few_of_many(cells) -> None:
    spec = cells.spec(ADNI, "mae")
    rows = cells.rows(spec)
    rows["case"] = [f"stranger{index // 3}" for index in range(len(rows))]
    with pytest.raises(InputError, match=r"stranger0, .* and 13 more.*18 test cases"):
        check_per_case(columns_from(rows), spec, Path("per_case.csv"))
