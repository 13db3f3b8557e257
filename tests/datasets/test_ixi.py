"""IXI: flat archives in folders of any kind, three grids per subject, subjects without some images."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import PreparationConfig
from mvp_bench.datasets.geometry.derive import write_derived
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.workspace import Workspace

from .layouts.ixi import NAMES, TREES, ixi, small_subject
from .layouts.scans import QUICK, head, likeness, moved, movement, undone
from .releases import convert, reasons, shipped

CARD = shipped(525)
SUBJECTS = {
    "IXI002-Guys-0828": small_subject(2, "t1 t2 pd"),
    "IXI012-HH-1211": small_subject(12),
    "IXI035-IOP-0873": small_subject(35, "mra"),
    "IXI580-IOP-1157": small_subject(580, "t2 pd mra"),
}


@pytest.mark.parametrize("tree", TREES)
def test_every_tree_gives_the_same_subjects(tmp_path: Path, tree: str) -> None:
    source = ixi(tmp_path, tree, SUBJECTS)
    conversion = convert(CARD, source, tmp_path / "output")
    assert {c: (case.patient, case.site, case.modalities) for c, case in conversion.cases.items()} == {
        "IXI002-Guys-0828": ("IXI002", "Guys", ["t1", "t2", "pd"]),
        "IXI012-HH-1211": ("IXI012", "HH", ["t1", "t2", "pd", "mra"]),
        "IXI035-IOP-0873": ("IXI035", "IOP", ["mra"]),
        "IXI580-IOP-1157": ("IXI580", "IOP", ["t2", "pd", "mra"]),
    }
    assert all(case.label is None and case.session is None for case in conversion.cases.values())
    assert [e.reason for e in conversion.excluded] == ["diffusion direction"]
    assert conversion.excluded[0].what.startswith("4 files such as ixi/")
    names = {item.source.name: item for item in conversion.derived}
    assert sorted(names) == [
        "IXI002-Guys-0828-T2.nii.gz",
        "IXI012-HH-1211-MRA.nii.gz",
        "IXI012-HH-1211-T2.nii.gz",
        "IXI580-IOP-1157-MRA.nii.gz",
    ]
    t2 = names["IXI012-HH-1211-T2.nii.gz"]
    case = conversion.cases["IXI012-HH-1211"]
    assert t2.align == "rigid" and t2.grid == Path(str(case.images["t1"]))
    assert [(one.name, str(target)) for one, target in t2.companions] == [
        ("IXI012-HH-1211-PD.nii.gz", case.images["pd"])
    ]
    assert str(t2.target) == case.images["t2"] and not names["IXI012-HH-1211-MRA.nii.gz"].companions
    # without a T1 the first image there is gives the grid; PD lies on it already
    assert names["IXI580-IOP-1157-MRA.nii.gz"].grid == Path(str(conversion.cases["IXI580-IOP-1157"].images["t2"]))


def test_one_folder_per_subject_can_be_pointed_at(tmp_path: Path) -> None:
    source = ixi(tmp_path, "subjects", SUBJECTS) / "IXI012-HH-1211"
    assert list(convert(CARD, source, tmp_path / "output").cases) == ["IXI012-HH-1211"]


def test_names_that_are_no_subjects(tmp_path: Path) -> None:
    source = ixi(tmp_path, "flat", {"IXI012-HH-1211": small_subject(12)})
    for name in ("IXI012-HH-1211-T1_masked", "xIXI013-HH-1211-T1", "IXI014-Leeds-1211-T1"):
        nib.save(small_subject(1, "t1")["t1"], source / f"{name}.nii.gz")
    conversion = convert(CARD, source, tmp_path / "output")
    assert list(conversion.cases) == ["IXI012-HH-1211"]
    assert sum(reason == "fits no pattern of the card" for reason in reasons(conversion).values()) == 3


def test_t2_and_pd_are_moved_together_and_mra_by_itself(tmp_path: Path) -> None:
    still = head(525, index=0)
    assert set(still) == set(NAMES)
    one, other = movement((5, 6, -7), (6, 4, -5)), movement((-4, 3, 5), (-3, 6, 4))
    images = {
        "t1": still["t1"],
        "t2": moved(still["t2"], one, (5.0, 5.0, 6.0), "LPS"),
        "pd": moved(still["pd"], one, (5.0, 5.0, 6.0), "LPS"),
        "mra": moved(still["mra"], other, (4.0, 4.0, 5.0), "RAS"),
    }
    source = ixi(tmp_path, "archives", {"IXI012-HH-1211": images})
    conversion = convert(CARD, source, tmp_path / "output")
    outcomes = {o.target: o for item in conversion.derived for o in write_derived(item, registration=QUICK)}
    case = conversion.cases["IXI012-HH-1211"]
    for modality in ("t2", "pd", "mra"):
        outcome = outcomes[str(case.images[modality])]
        assert not outcome.refused and "after rigid registration" in outcome.repair
        written = nib.load(str(outcome.path))
        assert written.shape == still["t1"].shape and np.allclose(written.affine, still["t1"].affine)
        expected = undone(images[modality], other if modality == "mra" else one, still["t1"])
        assert likeness(written.dataobj, expected) > 0.99
    together = [outcomes[str(case.images[m])].repair.split("(moved")[1] for m in ("t2", "pd")]
    assert together[0] == together[1]


def test_a_release_from_end_to_end(workspace: Workspace, tmp_path: Path) -> None:
    """One subject with all four, one without MRA, and one whose T2 has nothing in common with its T1: a refused
    registration leaves it where its header says, with a warning."""
    subjects = {}
    for number, modalities in ((2, "t1 t2 pd"), (12, "t1 t2 pd mra"), (35, "t1")):
        still, move = head(525, number % 5), movement((4, -3, 5), (3, 4, -5))
        subjects[f"IXI{number:03d}-HH-1211"] = {
            m: still[m] if m == "t1" else moved(still[m], move) for m in modalities.split()
        }
    noise = np.random.default_rng(0).uniform(1, 9, np.array(still["t1"].shape) + 1).astype(np.float32)
    subjects["IXI035-HH-1211"]["t2"] = nib.Nifti1Image(noise, still["t1"].affine)
    source = ixi(tmp_path, "archives", subjects)
    block = prepare_dataset(workspace, CARD, source=source, preparation=PreparationConfig(registration=QUICK))
    assert {name: case.modalities for name, case in block.cases.items()} == {
        "IXI002-HH-1211": ["t1", "t2", "pd"],
        "IXI012-HH-1211": ["t1", "t2", "pd", "mra"],
        "IXI035-HH-1211": ["t1", "t2"],
    }
    assert block.cases["IXI002-HH-1211"].images["mra"] is None
    assert [one.reason for one in block.excluded] == ["diffusion direction"]
    repairs = {one.what: one.repair for one in block.repairs}
    noisy = repairs.pop("IXI-T2/IXI035-HH-1211-T2.nii.gz")
    assert noisy.endswith("by the headers, as the registration was refused")
    assert sorted(repairs) == [
        f"IXI-{name}/IXI{n}-HH-1211-{name}.nii.gz"
        for name, n in (("MRA", "012"), ("PD", "002"), ("PD", "012"), ("T2", "002"), ("T2", "012"))
    ]
    assert all("after rigid registration" in repair for repair in repairs.values())
    facts = load_integrity(workspace, CARD).cases
    assert any("nothing in common" in warning for warning in facts["IXI035-HH-1211"].warnings)
    assert not any("refused" in warning for warning in facts["IXI012-HH-1211"].warnings)
