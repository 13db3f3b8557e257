"""The MRBrainS13 converter."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from mvp_bench.datasets.derive import write_derived

from .releases import convert, image, mask, reasons, shipped


def release(root: Path, training_only: bool = False) -> Path:
    top = root / "MRBrainS13DataNii"
    for group, number in (("TrainingData", 1), ("TrainingData", 2), ("TestData", 1), ("TestData", 15)):
        folder = top / group / str(number)
        for name in ("T1", "T1_IR", "T2_FLAIR"):
            image(folder / f"{name}.nii")
        image(folder / "T1_1mm.nii", shape=(16, 16, 16))
        if group == "TrainingData":
            mask(folder / "LabelsForTraining.nii", (1, 2, 3, 4, 5))
            if not training_only:
                mask(folder / "LabelsForTesting.nii")
    return top


def test_the_id_carries_the_set(tmp_path: Path) -> None:
    conversion = convert(shipped(504), release(tmp_path))
    assert {name: case.patient for name, case in conversion.cases.items()} == {
        "training_01": "training_01",
        "training_02": "training_02",
    }
    assert Path(str(conversion.cases["training_01"].label)).name == "LabelsForTesting.nii"
    assert Path(str(conversion.cases["training_01"].images["t1ir"])).name == "T1_IR.nii"
    found = reasons(conversion)
    assert "no mask" in found["test_01"] and "no mask" in found["test_15"]
    assert any("another grid" in reason for reason in found.values())
    assert not conversion.derived


def test_training_labels_are_merged(tmp_path: Path) -> None:
    conversion = convert(shipped(504), release(tmp_path, training_only=True), tmp_path / "output")
    for item in conversion.derived:
        write_derived(item)
    written = np.asanyarray(nib.load(str(conversion.cases["training_01"].label)).dataobj)
    original = np.asanyarray(nib.load(conversion.derived[0].source).dataobj)
    merged = {0: 0, 1: 2, 2: 2, 3: 3, 4: 3, 5: 1}
    assert np.array_equal(written, np.vectorize(merged.get)(original))
    assert len(conversion.repairs) == 2
