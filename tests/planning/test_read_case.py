"""Cases as planning reads them: nnU-Net's voxels and axes, with the spacing of the affine."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nnunetv2.imageio.nibabel_reader_writer import NibabelIOWithReorient

from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.errors import InputError
from mvp_bench.planning.fingerprint import CaseFiles, analyse_case, read_case
from mvp_bench.workspace import Workspace
from tests.datasets.releases import image, own_card, save
from tests.datasets.test_nifti import NO_QFORM, both, field, header_of

OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(0.1, -0.2, 0.15) @ np.diag([-0.9, 1.2, 2.0]), [10, -20, 30])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL", "IRP"])
def test_voxels_and_axes_are_those_of_nnunets_reader(codes: str, tmp_path: Path) -> None:
    places = []
    for name in ("t1", "t2", "seg"):
        data = np.random.default_rng(len(name)).integers(0, 99, (8, 9, 10)).astype(np.int16)
        stored = nib.Nifti1Image(data, OBLIQUE)
        change = nib.orientations.ornt_transform(
            nib.io_orientation(OBLIQUE), nib.orientations.axcodes2ornt(tuple(codes))
        )
        places.append(str(tmp_path / f"{name}.nii.gz"))
        nib.save(stored.as_reoriented(change), places[-1])
    images, label, properties = read_case(CaseFiles((places[0], None, places[1]), places[2]))
    reader = NibabelIOWithReorient()
    expected, theirs = reader.read_images(places[:2])
    assert images.dtype == np.float32 and np.array_equal(images[[0, 2]], expected) and not images[1].any()
    assert label is not None and label.dtype == np.float32
    assert np.array_equal(label, reader.read_seg(places[2])[0])
    assert np.allclose(properties["spacing"], theirs["spacing"], rtol=1e-6)
    for name, affine in theirs["nibabel_stuff"].items():
        assert np.allclose(properties["nibabel_stuff"][name], affine, atol=1e-5)


@pytest.mark.parametrize("stated", [1.0, 0.0])
def test_check_file_and_plan_agree_where_the_header_does_not(
    stated: float, workspace: Workspace, tmp_path: Path
) -> None:
    """The sform says 2 x 2 x 4 mm, pixdim something else."""
    source = tmp_path / "in"
    for number in range(5):
        (source / f"p{number}").mkdir(parents=True)
        header_of(source / f"p{number}/t1.nii.gz", both(field("pixdim", [1] + [stated] * 7), NO_QFORM))
    card = own_card("generic", "pretraining", "t1", images={"t1": r"(?P<patient>p\d+)/t1"})
    raw = read_case(CaseFiles((str(source / "p0/t1.nii.gz"),), None))[2]["spacing"]
    block = prepare_dataset(workspace, card, source=source)
    assert len(block.repairs) == 5 and all("pixdim said" in item.repair for item in block.repairs)
    facts = load_integrity(workspace, card).cases["p0"].files["t1"].spacing
    prepared = str(workspace.dataset(card.dataset_name) / str(block.cases["p0"].images["t1"]))
    planned = analyse_case((CaseFiles((prepared,), None), 100))["spacing"]
    stock = NibabelIOWithReorient().read_images([prepared])[1]["spacing"]
    assert raw == list(planned) == stock == [4, 2, 2] and facts == (2, 2, 4)


def test_grids_that_differ_are_refused(tmp_path: Path) -> None:
    one, other = image(tmp_path / "a.nii.gz"), save(tmp_path / "b.nii.gz", np.ones((8, 9, 11), np.float32))
    with pytest.raises(InputError, match=r"8 x 9 x 11 voxels instead of 8 x 9 x 10"):
        read_case(CaseFiles((str(one), str(other)), None))
