"""MRBrainS13 as released: two sets, two kinds of labels, three kinds of files."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.datasets.geometry.derive import write_derived
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .layouts.mrbrains13 import GRID, labels, mrbrains13
from .releases import convert, reasons, shipped, with_options

WITHOUT_MASK = "no mask (validation or test set, or not annotated)"
MERGED = {0: 0, 1: 2, 2: 2, 3: 3, 4: 3, 5: 1, 6: 1, 7: 0, 8: 0}


def written(path: str | None) -> np.ndarray:
    return np.asanyarray(nib.load(str(path)).dataobj)


@pytest.mark.parametrize("top", ["MRBrainS13DataNii", "."])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_the_id_carries_the_set(tmp_path: Path, top: str, ending: str) -> None:
    source = mrbrains13(tmp_path / "in", top, ending)
    conversion = convert(shipped(504), source)
    assert list(conversion.cases) == ["training_01", "training_02"]
    for case_id, case in conversion.cases.items():
        folder = source / "TrainingData" / case_id[-1]
        assert case.patient == case_id and case.label == str(folder / f"LabelsForTesting{ending}")
        names = {"t1": "T1", "t1ir": "T1_IR", "flair": "T2_FLAIR"}
        assert case.images == {m: str(folder / f"{name}{ending}") for m, name in names.items()}
    assert not conversion.derived
    key = source.resolve().name
    training = {
        f"{key}/TrainingData/{n}/LabelsForTraining": f"training_0{n} has another file for label: "
        f"{key}/TrainingData/{n}/LabelsForTesting"
        for n in (1, 2)
    }
    assert reasons(conversion) == {
        f"4 files such as {key}/TestData/1/T1_1mm": "another grid than the other images",
        "test_01": WITHOUT_MASK,
        "test_15": WITHOUT_MASK,
        **training,
    }


def test_training_labels_are_merged_where_there_are_no_others(tmp_path: Path) -> None:
    source = mrbrains13(tmp_path, testing_labels=("TrainingData/2",))
    conversion = convert(shipped(504), source, tmp_path / "output")
    assert [item.source for item in conversion.derived] == [source / "TrainingData/1/LabelsForTraining.nii"]
    (outcome,) = write_derived(conversion.derived[0])
    assert outcome.repair == "label values 1 to 2, 4 to 3, 5 to 1, 6 to 1, 7 to 0, 8 to 0 changed"
    assert np.array_equal(written(conversion.cases["training_01"].label), np.vectorize(MERGED.get)(labels(8)))


def test_test_subjects_with_labels_are_cases(tmp_path: Path) -> None:
    source = mrbrains13(tmp_path, testing_labels=("TrainingData/1", "TestData/1"))
    assert list(convert(shipped(504), source).cases) == ["test_01", "training_01", "training_02"]


def test_metaimages_are_written_as_nifti(tmp_path: Path) -> None:
    source = mrbrains13(tmp_path / "mhd", ending=".mhd", testing_labels=("TrainingData/2",))
    same = convert(shipped(504), mrbrains13(tmp_path / "nii", testing_labels=("TrainingData/2",)), tmp_path / "other")
    conversion = convert(shipped(504), source, tmp_path / "output")
    assert list(conversion.cases) == list(same.cases)
    outcomes = [outcome for item in conversion.derived for outcome in write_derived(item)]
    assert {Path(outcome.source).suffix for outcome in outcomes} == {".mhd"} and len(outcomes) == 8
    assert all("MetaImage written as NIfTI" in outcome.repair for outcome in outcomes)
    for item in same.derived:
        write_derived(item)
    for case_id, case in conversion.cases.items():
        for modality, path in {**case.images, "label": case.label}.items():
            image = nib.load(str(path))
            other = same.cases[case_id].label if modality == "label" else same.cases[case_id].images[modality]
            assert np.array_equal(np.asanyarray(image.dataobj), written(other))
            assert np.allclose(image.affine, GRID, atol=1e-5)
    assert set(reasons(conversion).values()) >= {"another grid than the other images", WITHOUT_MASK}


def test_nifti_files_win_over_metaimages(tmp_path: Path) -> None:
    source = mrbrains13(tmp_path)
    mrbrains13(tmp_path, ending=".mhd")
    conversion = convert(shipped(504), source)
    assert not conversion.derived and list(conversion.cases) == ["training_01", "training_02"]


def test_a_metaimage_without_its_data(tmp_path: Path) -> None:
    source = mrbrains13(tmp_path, ending=".mhd")
    (source / "TrainingData/1/T1.raw").unlink()
    conversion = convert(shipped(504), source, tmp_path / "output")
    broken = next(item for item in conversion.derived if item.source == source / "TrainingData/1/T1.mhd")
    with pytest.raises(InputError, match=r"T1\.mhd.*MetaImage"):
        write_derived(broken)


def test_exclusion_by_the_card(tmp_path: Path) -> None:
    card = with_options(shipped(504), exclude={"training_01": "looks odd"})
    conversion = convert(card, mrbrains13(tmp_path))
    assert list(conversion.cases) == ["training_02"]
    assert reasons(conversion)["training_01"] == "excluded by the card: looks odd"


def test_another_release(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(InputError, match="MRBrainS13"):
        convert(shipped(504), tmp_path / "in")


def test_a_release_from_end_to_end(workspace: Workspace, tmp_path: Path) -> None:
    labelled = ("TrainingData/1", "TrainingData/2", "TestData/15")
    source = mrbrains13(tmp_path, ending=".mhd", testing_labels=labelled[1:], training_labels=labelled)
    block = prepare_dataset(workspace, shipped(504), source=source)
    assert list(block.cases) == ["test_15", "training_01", "training_02"]
    assert {case.patient for case in block.cases.values()} == set(block.cases)
    assert len(block.repairs) == 12 and all("MetaImage written as NIfTI" in one.repair for one in block.repairs)
    merged = [one.what for one in block.repairs if "label values 1 to 2" in one.repair]
    assert merged == ["TrainingData/1/LabelsForTraining.mhd"]
    facts = load_integrity(workspace, shipped(504)).cases
    assert facts["training_02"].label_voxels == {1: 4, 2: 4, 3: 4}
    assert facts["training_01"].label_voxels == {1: 8, 2: 8, 3: 8}
