"""nnU-Net's and the decathlon's dataset.json as sources."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from mvp_bench.datasets.converters import msd, nnunet
from mvp_bench.datasets.geometry.resampling import to_itk
from mvp_bench.datasets.geometry.volumes import Grid
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import load_block
from mvp_bench.datasets.reading.conversion import parse_options
from mvp_bench.datasets.reading.itk_files import read_itk
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .releases import (
    SHAPE,
    SRI24,
    convert,
    documented_card,
    image,
    make,
    mask,
    own_card,
    reasons,
    save,
    voxels,
)

OBLIQUE = np.array([[0.9, -0.1, 0, 3], [0.1, 0.9, 0, -5], [0, 0, 2.0, 7], [0, 0, 0, 1]])


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def raw_folder(top: Path, ending: str = ".nii.gz", **changes: object) -> Path:
    """Two training cases and a test case."""
    for case, folder in (("pat1_0", "Tr"), ("pat1_1", "Tr"), ("pat2_0", "Ts")):
        for channel in (0, 1):
            image(top / f"images{folder}" / f"{case}_{channel:04d}{ending}")
        if folder == "Tr":
            mask(top / "labelsTr" / f"{case}{ending}", (1,))
    content = {
        "channel_names": {"0": "FLAIR", "1": "T1w"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 2,
        "file_ending": ending,
    }
    write(top / "dataset.json", {**content, **changes})
    return top


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
@pytest.mark.parametrize("point_at", [".", "..", "dataset.json"])
def test_nnunet_folders(tmp_path: Path, ending: str, point_at: str, caplog: pytest.LogCaptureFixture) -> None:
    top = raw_folder(tmp_path / "raw/Dataset007_X", ending)
    image(top / "imagesTr" / f"odd{ending}")
    with caplog.at_level(logging.WARNING):
        conversion = convert(own_card("nnunet"), top / point_at, tmp_path / "output")
    assert list(conversion.cases) == ["pat1_0", "pat1_1"] and not conversion.derived
    case = conversion.cases["pat1_1"]
    assert case.patient == "pat1_1" and "every case counts as a patient" in caplog.text
    assert case.images == {"t1": f"{top}/imagesTr/pat1_1_0001{ending}", "flair": f"{top}/imagesTr/pat1_1_0000{ending}"}
    assert case.label == f"{top}/labelsTr/pat1_1{ending}"
    assert reasons(conversion) == {
        "Dataset007_X/imagesTr/odd": f"not called as nnU-Net calls files with the ending {ending}",
        "pat2_0": "no mask (validation or test set, or not annotated)",
    }


def test_nnunet_patients_and_test_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    top = raw_folder(tmp_path / "Dataset007_X", numTraining=5)
    rule = "(?P<patient>pat\\d)_(?P<session>\\d)"
    with caplog.at_level(logging.WARNING):
        conversion = convert(own_card("nnunet", "pretraining", "t1", patient=rule), top)
        assert not caplog.text
        convert(own_card("nnunet", patient=rule), top)
    assert "declares 5 training cases, 2 masks are there" in caplog.text
    assert {name: (c.patient, c.session) for name, c in conversion.cases.items()} == {
        "pat1_0": ("pat1", "0"),
        "pat1_1": ("pat1", "1"),
        "pat2_0": ("pat2", "0"),
    }
    what = "3 files such as Dataset007_X/imagesTr/pat1_0_0000"
    assert reasons(conversion) == {what: "channel 0 (FLAIR) is not in the card"}
    with pytest.raises(InputError, match=r"options\.patient: found a rule that the case pat1_0 does not fit"):
        convert(own_card("nnunet", patient="(?P<patient>p\\d)"), top)
    with pytest.raises(InputError, match=r"the case pat1_0 does not fit"):
        convert(own_card("nnunet", patient="(?P<patient>x)?.*"), top)
    with pytest.raises(InputError, match=r"no group \(\?P<patient>"):
        convert(own_card("nnunet", patient="pat"), top)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_nnunet_files_that_are_not_nifti(tmp_path: Path, ending: str) -> None:
    """They are brought to NIfTI at the same place in the world; label_map sees their values."""
    top = raw_folder(tmp_path / "Dataset007_X", ".nii", file_ending=ending, labels={"background": 0, "lesion": 4})
    for path in list(top.rglob("*.nii")):
        data = (voxels(path) * (4 if "labels" in str(path) else 1)).astype(np.float32)
        sitk.WriteImage(to_itk(data, Grid(SHAPE, OBLIQUE)), str(path.with_suffix(ending)))
        path.unlink()
    conversion = convert(own_card("nnunet", label_map={4: 1}), top, tmp_path / "output")
    assert len(conversion.derived) == 6 and {item.done for item in conversion.derived} == {"brought to NIfTI"}
    make(conversion.derived)
    case = conversion.cases["pat1_0"]
    for path, name in ((case.images["t1"], "imagesTr/pat1_0_0001"), (case.label, "labelsTr/pat1_0")):
        written = nib.load(str(path))
        original = sitk.GetArrayFromImage(sitk.ReadImage(str(top / f"{name}{ending}"))).T
        assert np.allclose(written.affine, OBLIQUE, atol=1e-5)
        assert np.array_equal(voxels(path), original // 4 if "labels" in name else original)


def test_nnunet_damaged_nrrd(tmp_path: Path) -> None:
    top = raw_folder(tmp_path / "Dataset007_X", ".nii", file_ending=".nrrd")
    for path in list(top.rglob("*.nii")):
        sitk.WriteImage(to_itk(voxels(path), Grid(SHAPE, SRI24)), str(path.with_suffix(".nrrd")))
    (top / "imagesTr/pat1_0_0000.nrrd").write_bytes(b"NRRD0004\n")
    conversion = convert(own_card("nnunet"), top, tmp_path / "output")
    assert len(conversion.cases) == 2
    with pytest.raises(InputError, match=r"pat1_0_0000\.nrrd: found a file that cannot be read"):
        make(conversion.derived)
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((2, 3, 4, 3), np.float32), True), str(top / "vector.nrrd"))
    with pytest.raises(InputError, match="3 values per voxel"):
        read_itk(top / "vector.nrrd")


def test_nnunet_dataset_key(tmp_path: Path) -> None:
    """Files elsewhere, relative or absolute; a missing modality is an empty string."""
    a, b = image(tmp_path / "scans/a.nii.gz"), image(tmp_path / "Dataset007_X/b.nii.gz")
    label = mask(tmp_path / "scans/m.nii.gz", (1,))
    entry = {"images": [str(a), "b.nii.gz"], "label": "../scans/m.nii.gz"}
    content = {"channel_names": {"0": "t1", "1": "flair"}, "labels": {"background": 0, "lesion": [1]}}
    cases = {"c1": entry, "c2": {"images": ["", "b.nii.gz"], "label": ""}}
    path = write(tmp_path / "Dataset007_X/dataset.json", {**content, "dataset": cases})
    conversion = convert(own_card("nnunet", "pretraining"), path)
    assert conversion.cases["c1"].images == {"t1": str(a), "flair": str(b)}
    assert conversion.cases["c2"].images == {"t1": None, "flair": str(b)}
    case = convert(own_card("nnunet"), path).cases["c1"]
    assert Path(str(case.label)).resolve() == label
    write(path, {**content, "dataset": {"c1": {**entry, "label": "gone.nii.gz"}}})
    with pytest.raises(InputError, match=r"dataset\.c1: found no file .*gone"):
        convert(own_card("nnunet"), path)
    write(path, {**content, "dataset": {"c1": {"label": "gone.nii.gz"}}})
    with pytest.raises(InputError, match=r"dataset\.c1: .*expected images and label"):
        convert(own_card("nnunet"), path)


def test_nnunet_reads_what_this_package_writes(workspace: Workspace, tmp_path: Path) -> None:
    card = own_card("nnunet")
    card = Card.model_validate({**card.model_dump(), "split": {"scheme": "leave_one_out"}})
    prepare_dataset(workspace, card, source=raw_folder(tmp_path / "Dataset007_X"))
    folder = workspace.dataset(card.dataset_name)
    again = convert(card, folder)
    assert {n: c.patient for n, c in again.cases.items()} == {
        n: c.patient for n, c in load_block(workspace, card).cases.items()
    }


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"channel_names": {"0": "FLAIR", "1": "CT"}}, {}, r"channel_names\.1: found 'CT'.*modality_names"),
        ({"channel_names": None}, {}, "no channel_names"),
        ({"labels": {"background": 0, "lesion": 2}}, {}, r"labels\.lesion: found 2"),
        ({"labels": {"background": 0, "ignore": 2}}, {}, r"labels\.ignore: found 2"),
        ({"labels": {"background": 0, "all": [1, 2]}}, {}, r"labels\.all: found \[1, 2\]"),
        ({"labels": {"background": 0, "Lesion": [0]}}, {}, r"labels\.Lesion: found \[0\]; .*regions {'lesion': \[1\]}"),
        (
            {"labels": {"background": 0, "lesion": 1}},
            {"label_map": {1: 0}},
            r"labels\.lesion: found 1, which label_map",
        ),
        ({"file_ending": ".png"}, {}, r"file_ending: found '\.png'"),
    ],
)
def test_nnunet_faults(tmp_path: Path, changes: dict, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(own_card("nnunet", **options), raw_folder(tmp_path / "Dataset007_X", **changes))


def test_which_dataset_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"0 files dataset\.json"):
        convert(own_card("nnunet"), tmp_path)
    with pytest.raises(InputError, match="no such file or folder"):
        convert(own_card("nnunet"), tmp_path / "none")
    raw_folder(tmp_path / "Dataset007_X")
    raw_folder(tmp_path / "Dataset008_Y")
    with pytest.raises(InputError, match=r"2 files dataset\.json.*Dataset007_X, .*Dataset008_Y"):
        convert(own_card("nnunet"), tmp_path)


# ------------------------------------------------------------------------------------------------------- decathlon


def decathlon(top: Path, channels: int = 2, **changes: object) -> Path:
    """Three cases; the channels of case n hold 10 n + channel."""
    names = ["FLAIR", "T1w", "t1gd", "T2w"][:channels]
    for number in (1, 2, 3):
        volume = np.stack([np.full(SHAPE, 10.0 * number + c, np.float32) for c in range(channels)], axis=-1)
        save(top / f"imagesTr/BRATS_{number:03d}.nii.gz", volume if channels > 1 else volume[..., 0])
        mask(top / f"labelsTr/BRATS_{number:03d}.nii.gz", (1, 2, 3))
    content = {
        "tensorImageSize": "4D",
        "modality": {str(i): name for i, name in enumerate(names)},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "training": [
            {"image": f"./imagesTr/BRATS_{n:03d}.nii.gz", "label": f"./labelsTr/BRATS_{n:03d}.nii.gz"} for n in (1, 2)
        ],
        "test": ["./imagesTr/BRATS_003.nii.gz"],
    }
    write(top / "dataset.json", {**content, **changes})
    return top


def tumours(**options: object) -> Card:
    labels = {"background": 0, "necrosis": 1, "edema": 2, "enhancing": 3}
    card = own_card("msd", label_map={1: 2, 2: 1}, **options)
    return Card.model_validate({**card.model_dump(), "labels": labels, "regions": {"WT": [1, 2, 3]}})


def test_msd_channels_become_files(tmp_path: Path) -> None:
    conversion = convert(tumours(), decathlon(tmp_path / "Task01", 4), tmp_path / "output")
    assert list(conversion.cases) == ["BRATS_001", "BRATS_002"]
    assert reasons(conversion)["BRATS_003"].startswith("no mask")
    assert {item.reason for item in conversion.excluded} >= {"t1gd is not in the card", "T2w is not in the card"}
    make(conversion.derived)
    for number, case in enumerate(conversion.cases.values(), 1):
        assert np.all(voxels(case.images["flair"]) == 10 * number) and np.all(
            voxels(case.images["t1"]) == 10 * number + 1
        )
        assert voxels(case.images["t1"]).shape == SHAPE and case.patient == f"BRATS_{number:03d}"
        assert np.array_equal(nib.load(str(case.images["t1"])).affine, SRI24)
        assert (
            voxels(case.label)[2, 2, 2] == 2 and voxels(case.label)[3, 2, 2] == 1 and voxels(case.label)[4, 2, 2] == 3
        )
    assert {item.done for item in conversion.derived if item.kind == "image"} == {
        "volume 0 of a four-dimensional file", "volume 1 of a four-dimensional file",
    }  # fmt: skip


def test_msd_prepared(workspace: Workspace, tmp_path: Path) -> None:
    card = Card.model_validate({**tumours().model_dump(), "split": {"scheme": "leave_one_out"}})
    top = decathlon(tmp_path / "Task01")
    for path in (top / "imagesTr").iterdir():  # constant images are faults
        data = voxels(path)
        data = data + np.random.default_rng(int(path.name[6:9])).normal(size=data.shape)
        save(path, data)
    block = prepare_dataset(workspace, card, source=top / "dataset.json")
    assert len(block.cases) == 2 and block.cases["BRATS_001"].images["t1"] == "images/BRATS_001_t1.nii.gz"
    assert {"volume 1 of a four-dimensional file"} <= {repair.repair for repair in block.repairs}


def test_msd_of_one_modality_is_used_as_it_is(tmp_path: Path) -> None:
    top = decathlon(tmp_path / "Task", 1)
    conversion = convert(own_card("msd", "pretraining", "flair"), top)
    assert len(conversion.cases) == 3 and not conversion.derived
    assert str(conversion.cases["BRATS_003"].images["flair"]) == str(top / "imagesTr/BRATS_003.nii.gz")


def test_msd_lists_of_files(tmp_path: Path) -> None:
    top = decathlon(tmp_path / "Task", training=[], test=[], validation=[{"image": ["a/x_0.nii.gz", "a/x_1.nii.gz"]}])
    paths = [image(top / f"a/x_{n}.nii.gz") for n in (0, 1)]
    conversion = convert(own_card("msd", "pretraining"), top)
    assert [c.images for c in conversion.cases.values()] == [{"t1": str(paths[1]), "flair": str(paths[0])}]


def test_msd_file_with_fewer_channels_than_declared(tmp_path: Path) -> None:
    """A fault of the file, not of the conversion: reported with all others when the file is made."""
    top = decathlon(tmp_path / "Task01")
    image(top / "imagesTr/BRATS_002.nii.gz")
    conversion = convert(tumours(), top, tmp_path / "output")
    assert len(conversion.cases) == 2
    with pytest.raises(InputError, match=r"BRATS_002.*found the shape 8 x 9 x 10; expected 2 or more volumes"):
        make(conversion.derived)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": {"0": "FLAIR", "1": "XX"}}, r"modality\.1: found 'XX'"),
        ({"modality": None}, "no modality"),
        ({"labels": {"0": "background", "1": "cyst", "4": "edema"}}, r"labels\.edema: found 4"),
        ({"training": [{"image": "gone.nii.gz"}]}, r"training\[0\]: found no file"),
        ({"training": [{"image": ["a", "b", "c"]}]}, r"training\[0\]: .*one path, or 2 paths"),
        ({"training": [{"img": "a"}]}, r"training\[0\]: "),
    ],
)
def test_msd_faults(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        convert(tumours(), decathlon(tmp_path / "Task01", **changes))


def test_the_documented_cards(tmp_path: Path) -> None:
    card = documented_card(nnunet)
    assert parse_options(nnunet.NnunetOptions, card).label_map == {1: 2, 2: 1}
    labels = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}  # nnU-Net's BraTS numbers
    top = raw_folder(tmp_path / "Dataset007_X", channel_names={"0": "FLAIR", "1": "contrast"}, labels=labels)
    pretrain = Card.model_validate({**card.model_dump(), "kind": "pretraining"})
    assert {case.patient for case in convert(pretrain, top).cases.values()} == {"pat1", "pat2"}
    case = convert(documented_card(msd), decathlon(tmp_path / "Task01", 4), tmp_path / "output").cases["BRATS_001"]
    assert case.modalities == ["t1", "t1c", "t2", "flair"]
