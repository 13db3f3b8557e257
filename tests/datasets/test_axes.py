"""Files of a case with their axes in another order, at the same place in space: turned, never resampled."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.datasets.geometry.orientation import axis_codes, brought_to, turn_that_helps, turned_grid
from mvp_bench.datasets.geometry.volumes import Grid, grid_difference, read_volume
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .releases import SHAPE, SRI24, image, own_card, save
from .test_derive import AXIS_CODES, oriented

OBLIQUE = nib.affines.from_matvec(
    nib.eulerangles.euler2mat(0.1, -0.2, 0.15) @ np.diag([-1.0, -1.2, 2.0]), [10, -20, 30]
)


def labelled() -> np.ndarray:
    data = np.zeros(SHAPE, np.uint8)
    data[2:5, 3:5, 4:6] = 1
    return data


@given(codes=AXIS_CODES, seed=st.integers(0, 1000))
@settings(max_examples=48, deadline=None)
def test_every_voxel_stays_where_it_is(codes: str, seed: int) -> None:
    data = np.random.default_rng(seed).uniform(size=SHAPE)
    grid = Grid(SHAPE, OBLIQUE)
    turned, place = brought_to(data, grid, codes)
    assert axis_codes(place) == codes and turned.shape == place.shape
    voxel = np.random.default_rng(seed).integers(0, SHAPE)
    there = np.rint(np.linalg.solve(place.affine, OBLIQUE @ [*voxel, 1]))[:3].astype(int)
    assert turned[tuple(there)] == data[tuple(voxel)]
    back, again = brought_to(turned, place, axis_codes(grid))
    assert np.array_equal(back, data) and np.allclose(again.affine, grid.affine)
    assert turn_that_helps(place, grid, 0.05) == ("" if codes == axis_codes(grid) else axis_codes(grid))


def test_turning_that_is_not_enough() -> None:
    grid = Grid(SHAPE, SRI24)
    moved = SRI24.copy()
    moved[0, 3] += 5
    assert turn_that_helps(turned_grid(Grid(SHAPE, moved), "RAS"), grid, 0.5) == ""
    assert turn_that_helps(turned_grid(Grid((8, 9, 11), SRI24), "RAS"), grid, 0.5) == ""
    assert turn_that_helps(grid, grid, 0.5) == ""


def patients(root: Path, codes: str, modalities: str = "t1 flair", turned: str = "seg", bids: bool = False) -> Path:
    """Five patients; the files named in ``turned`` have their axes along ``codes``."""
    for number in range(5):
        name = f"sub-{number}"
        places = {m: root / f"{name}/anat/{name}_{'T1w' if m == 't1' else 'FLAIR'}.nii.gz" for m in modalities.split()}
        places["seg"] = root / f"derivatives/manual/{name}/anat/{name}_desc-lesion_mask.nii.gz"
        if not bids:
            places = {role: root / f"p{number}/{role}.nii.gz" for role in places}
        for role, path in places.items():
            if role == "seg":
                data: np.ndarray = labelled()
            else:
                data = np.asanyarray(nib.load(image(path)).dataobj)
            affine = SRI24
            if role in turned.split():
                data, affine = oriented(data, SRI24, codes)
            save(path, data, affine)
    return root


GENERIC = own_card(
    "generic",
    images={"t1": r"(?P<patient>p\d+)/t1", "flair": r"(?P<patient>p\d+)/flair"},
    label=r"(?P<patient>p\d+)/seg",
)
BIDS = own_card("bids", label_desc="lesion")


@pytest.mark.parametrize("card", [GENERIC, BIDS], ids=["generic", "bids"])
@pytest.mark.parametrize("turned", ["seg", "flair", "seg flair"])
@pytest.mark.parametrize("codes", ["RAS", "LAI", "SPL"])
def test_turned_files_are_listed_repairs(
    card: Card, turned: str, codes: str, workspace: Workspace, tmp_path: Path
) -> None:
    source = patients(tmp_path / "in", codes, turned=turned, bids=card.converter == "bids")
    block = prepare_dataset(workspace, card, source=source)
    assert len(block.repairs) == 5 * len(turned.split()) and not block.excluded
    assert all(item.repair.startswith(f"axes turned from {codes} to LPS") for item in block.repairs)
    assert all(
        "field of view" in text for case in load_integrity(workspace, card).cases.values() for text in case.warnings
    )
    folder = workspace.dataset(card.dataset_name)
    for case in block.cases.values():
        volumes = {role: read_volume(folder / str(path)) for role, path in {**case.images, "label": case.label}.items()}
        assert not any(grid_difference(volume.grid, Grid(SHAPE, SRI24)) for volume in volumes.values())
        assert np.array_equal(volumes["label"].data, labelled())


def test_masks_elsewhere_stay_faults(workspace: Workspace, tmp_path: Path) -> None:
    source = patients(tmp_path / "in", "RAS")
    for path in source.glob("p*/seg.nii.gz"):
        affine = nib.load(path).affine.copy()
        affine[2, 3] += 40
        save(path, np.asanyarray(nib.load(path).dataobj), affine)
    with pytest.raises(InputError, match="5 faults in 5 of 5 cases"):
        prepare_dataset(workspace, GENERIC, source=source)


def test_brain_masks_with_other_axes_are_turned(workspace: Workspace, tmp_path: Path) -> None:
    source = patients(tmp_path / "in", "RAS", turned="")
    brain = np.zeros(SHAPE, np.uint8)
    brain[1:5, 2:, :7] = 1
    for number in range(5):
        data, affine = oriented(brain, SRI24, "PIR")
        save(source / f"p{number}/brain.nii.gz", data, affine)
    card = own_card("generic", **{**GENERIC.converter_options, "mask": r"(?P<patient>p\d+)/brain"})
    block = prepare_dataset(workspace, card, source=source)
    folder = workspace.dataset(card.dataset_name)
    for name, case in block.cases.items():
        original = read_volume(source / name / "t1.nii.gz").data
        assert np.array_equal(read_volume(folder / str(case.images["t1"])).data, np.where(brain, original, 0))
