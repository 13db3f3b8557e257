"""From a release to dataset.json, and every way in which it must stop without leaving anything half-written."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.config.groups import PhantomConfig
from mvp_bench.datasets.prepare import prepare_dataset, prepare_many, release_folder
from mvp_bench.datasets.prepared import is_prepared, load_block, load_splits, splits_hash
from mvp_bench.datasets.schema import Card, resolve_path
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.sealed import write_sealed
from mvp_bench.workspace import Workspace

from .layouts.mrbrains13 import mrbrains13
from .releases import SHAPE, brats_case, brats_release, image, mask, save, shipped, truncate, with_options

SIZE = PhantomConfig(spacing_mm=5, segmentation_patients=6, classification_patients=6, pretraining_patients=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dataset_files(workspace: Workspace) -> dict[str, bytes]:
    return contents(workspace.datasets)


def upenn(root: Path) -> Path:
    """Four scans whose masks are in the old convention, so that each is written anew."""
    top = root / "PKG - UPENN-GBM-NIfTI" / "UPENN-GBM" / "NIfTI-files"
    for number in (2, 3, 4, 5):
        scan = f"UPENN-GBM-0000{number}_11"
        brats_case(top / "images_structural", scan, "_T1 _T1GD _T2 _FLAIR", None)
        mask(top / "images_segm" / f"{scan}_segm.nii.gz", (1, 2, 4))
    return top


@pytest.fixture
def phantom_writer(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands for the generator; the list says which releases it made."""
    made: list[str] = []

    def write(card: Card, destination: Path, config: PhantomConfig, seed: int, workers: int) -> Path:
        made.append(f"{card.name} {seed}")
        top = brats_release(destination, card.name.split("-")[1], config.segmentation_patients)
        save(top / "BraTS-PED-00000-000" / "BraTS-PED-00000-000-t1n.nii.gz", np.arange(720.0).reshape(SHAPE) + seed)
        return top

    monkeypatch.setattr("mvp_bench.datasets.phantom.release.write_phantom_release", write)
    return made


def test_a_release_is_prepared(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path, cases=10)
    block = prepare_dataset(workspace, shipped(501), source=source, seed=1)
    folder = workspace.dataset("Dataset501_BraTS2023-PED")
    assert names(folder) == ["dataset.json", "integrity.json", "sources.json", "splits.json"]
    content = read_json(folder / "dataset.json")
    assert content["channel_names"] == {"0": "t1", "1": "t1c", "2": "t2", "3": "flair"}
    assert content["regions_class_order"] == [2, 1, 3] and content["numTraining"] == 10
    assert content["file_ending"] == ".nii.gz" and content["overwrite_image_reader_writer"] == "NibabelIOWithReorient"
    entry = content["dataset"]["BraTS-PED-00003-000"]
    assert [Path(path).name[-10:] for path in entry["images"]] == [f"{s}.nii.gz" for s in ("t1n", "t1c", "t2w", "t2f")]
    assert all(Path(path).is_file() for path in [*entry["images"], entry["label"]])
    assert block == load_block(workspace, shipped(501))
    assert block.source == "real" and block.release == str(source) and len(block.cases) == 10
    splits = load_splits(workspace, shipped(501))
    fold = splits.folds[0]
    assert (len(fold.train), len(fold.val), len(fold.test)) == (6, 1, 3) and splits.seed == 1


def test_the_same_again_returns_at_once(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = brats_release(tmp_path)
    block = prepare_dataset(workspace, shipped(501), source=source, seed=1)
    before = dataset_files(workspace)
    monkeypatch.setattr("mvp_bench.datasets.prepare._prepare", None)  # would fail if called
    assert prepare_dataset(workspace, shipped(501), source=source, seed=1) == block
    assert prepare_dataset(workspace, shipped(501)) == block
    assert dataset_files(workspace) == before


def test_same_input_same_bytes(tmp_path: Path) -> None:
    source = brats_release(tmp_path)
    spaces = [Workspace(tmp_path / name).open() for name in ("a", "b")]
    for workers, workspace in enumerate(spaces, start=1):
        prepare_dataset(workspace, shipped(501), source=source, workers=workers)
    assert dataset_files(spaces[0]) == dataset_files(spaces[1])


def test_another_seed_or_card_prepares_again(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path, cases=12)
    first = prepare_dataset(workspace, shipped(501), source=source, seed=1)
    hashes = [splits_hash(load_splits(workspace, shipped(501)))]
    second = prepare_dataset(workspace, shipped(501), source=source, seed=2)
    hashes.append(splits_hash(load_splits(workspace, shipped(501))))
    assert first.data_hash == second.data_hash and hashes[0] != hashes[1]
    card = with_options(shipped(501), exclude={"BraTS-PED-00001-000": "test"})
    assert len(prepare_dataset(workspace, card, source=source, seed=2).cases) == 11


def test_derived_files_are_moved_in_and_replaced(workspace: Workspace, tmp_path: Path) -> None:
    top = upenn(tmp_path)
    block = prepare_dataset(workspace, shipped(505), source=top)
    folder = workspace.dataset("Dataset505_UPENN-GBM")
    assert names(folder) == ["dataset.json", "integrity.json", "labels", "sources.json", "splits.json"]
    case = block.cases["UPENN-GBM-00003_11"]
    assert case.label == "labels/UPENN-GBM-00003_11.nii.gz" and len(block.repairs) == 4
    data = np.asanyarray(nib.load(resolve_path(folder, case.label)).dataobj)
    assert np.unique(data).tolist() == [0, 1, 2, 3]
    card = with_options(shipped(505), exclude={"UPENN-GBM-00003_11": "test"})
    prepare_dataset(workspace, card, source=top)
    assert len(names(folder / "labels")) == 3


def test_nnunet_accepts_the_dataset(workspace: Workspace, tmp_path: Path) -> None:
    """nnU-Net's own check opens every file through dataset.json and compares grids and labels."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    prepare_dataset(workspace, shipped(501), source=brats_release(tmp_path, cases=4))
    card = shipped(504)
    top = mrbrains13(tmp_path)
    prepare_dataset(
        workspace, Card.model_validate({**card.model_dump(), "split": {"scheme": "k_fold", "k": 2}}), source=top
    )
    for name in ("Dataset501_BraTS2023-PED", "Dataset504_MRBrainS13"):
        verify_dataset_integrity(str(workspace.dataset(name)), num_processes=1)


def test_rounded_labels_are_written_as_integers(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path)
    label = source / "BraTS-PED-00002-000" / "BraTS-PED-00002-000-seg.nii.gz"
    mask(label, (0.9999, 1.9999, 3), dtype=np.float32)
    block = prepare_dataset(workspace, shipped(501), source=source)
    case = block.cases["BraTS-PED-00002-000"]
    assert case.label == "labels/BraTS-PED-00002-000.nii.gz"
    assert [item.what for item in block.repairs] == [label.relative_to(source).as_posix()] and "whole" in block.repairs[
        0
    ].repair
    folder = workspace.dataset("Dataset501_BraTS2023-PED")
    written = nib.load(resolve_path(folder, case.label))
    assert written.get_data_dtype() == np.uint8 and np.unique(np.asanyarray(written.dataobj)).tolist() == [0, 1, 2, 3]


def test_a_fourth_dimension_of_one_is_dropped(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path)
    path = source / "BraTS-PED-00002-000" / "BraTS-PED-00002-000-t2w.nii.gz"
    image(path, shape=(*SHAPE, 1))
    before = np.asanyarray(nib.load(path).dataobj)[..., 0]
    block = prepare_dataset(workspace, shipped(501), source=source)
    stored = block.cases["BraTS-PED-00002-000"].images["t2"]
    assert stored == "images/BraTS-PED-00002-000_t2.nii.gz" and len(block.repairs) == 1
    written = nib.load(resolve_path(workspace.dataset("Dataset501_BraTS2023-PED"), stored))
    assert written.shape == SHAPE and np.array_equal(np.asanyarray(written.dataobj), before)


def test_a_description_may_change(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = brats_release(tmp_path)
    prepare_dataset(workspace, shipped(501), source=source)
    monkeypatch.setattr("mvp_bench.datasets.prepare._prepare", None)  # would fail if called
    prepare_dataset(workspace, shipped(501, traps=["another"], citation="another"), source=source)


def test_a_release_inside_the_workspace(workspace: Workspace, tmp_path: Path) -> None:
    card = shipped(501)
    brats_release(release_folder(workspace, card))
    block = prepare_dataset(workspace, card)
    assert block.cases["BraTS-PED-00000-000"].images["t1"].startswith("release/ASNR")


def test_a_linked_release(workspace: Workspace, tmp_path: Path) -> None:
    card = shipped(501)
    source = brats_release(tmp_path / "downloads")
    release_folder(workspace, card).parent.mkdir(parents=True)
    release_folder(workspace, card).symlink_to(source)
    assert prepare_many(workspace, [card, shipped(502)])[card.dataset_name].release == str(source)


# ---------------------------------------------------------------------------------------------------------- phantom


def test_phantom(workspace: Workspace, phantom_writer: list[str]) -> None:
    block = prepare_dataset(workspace, shipped(501), phantom=SIZE, seed=3)
    folder = workspace.dataset("Dataset501_BraTS2023-PED")
    top = "phantom/ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData"
    assert block.source == "phantom" and block.release == top and (folder / top).is_dir()
    assert block.cases["BraTS-PED-00000-000"].images["t1"].startswith(top)
    assert block.provenance["request"]["phantom"]["segmentation_patients"] == 6
    assert prepare_dataset(workspace, shipped(501), phantom=SIZE, seed=3) == block
    assert phantom_writer == ["BraTS2023-PED 3"]
    prepare_dataset(workspace, shipped(501), phantom=SIZE, seed=4)
    assert phantom_writer == ["BraTS2023-PED 3", "BraTS2023-PED 4"]


def test_a_phantom_is_not_taken_for_real(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path)
    for folder in (source, source.parent, source / "BraTS-PED-00000-000"):
        (folder / "PHANTOM.json").touch()
        with pytest.raises(InputError, match="--phantom"):
            prepare_dataset(workspace, shipped(501), source=source)
        (folder / "PHANTOM.json").unlink()


def test_phantom_is_independent_of_the_root(tmp_path: Path, phantom_writer: list[str]) -> None:
    spaces = [Workspace(tmp_path / name).open() for name in ("a", "b")]
    for workspace in spaces:
        prepare_dataset(workspace, shipped(501), phantom=SIZE)
    files = ("dataset.json", "splits.json")
    a, b = ([read_json(w.dataset("Dataset501_BraTS2023-PED") / n) for n in files] for w in spaces)
    for content in (a[0]["mvp_bench"], b[0]["mvp_bench"]):
        del content["data_hash"], content["key"]  # the fixture's images depend on their paths
    for content in (*a, *b):
        content.pop("key", None), content.pop("checksum")
    assert a == b


def test_real_and_phantom_are_never_mixed(workspace: Workspace, tmp_path: Path, phantom_writer: list[str]) -> None:
    source = brats_release(tmp_path)
    prepare_dataset(workspace, shipped(501), source=source)
    before = dataset_files(workspace)
    with pytest.raises(InputError, match=r"real data.*another --root, or delete"):
        prepare_dataset(workspace, shipped(501), phantom=SIZE)
    assert dataset_files(workspace) == before and not phantom_writer
    prepare_dataset(workspace, shipped(502), phantom=SIZE)
    with pytest.raises(InputError, match="phantom data"):
        prepare_dataset(workspace, shipped(502), source=source)
    with pytest.raises(InputError, match="--phantom"):
        prepare_dataset(workspace, shipped(503), source=source, phantom=SIZE)


def test_prepare_many_goes_on_after_an_error(workspace: Workspace, phantom_writer: list[str], tmp_path: Path) -> None:
    prepare_dataset(workspace, shipped(501), source=brats_release(tmp_path))
    results = prepare_many(workspace, [shipped(501), shipped(502), shipped(520)], phantom=SIZE)
    assert isinstance(results["Dataset501_BraTS2023-PED"], InputError)
    assert not isinstance(results["Dataset502_BraTS2023-MET"], InputError) and len(results) == 2


# -------------------------------------------------------------------------------------------------------- bad input


def broken(kind: str, source: Path) -> str:
    """Damage one file of a release; returns what the message must hold."""
    case = source / "BraTS-PED-00002-000"
    t2, seg = case / "BraTS-PED-00002-000-t2w.nii.gz", case / "BraTS-PED-00002-000-seg.nii.gz"
    if kind == "truncated":
        truncate(t2)
        return f"{t2}.*truncated"
    if kind == "nan":
        save(t2, np.full(SHAPE, np.nan, np.float32))
        return f"{t2}.*NaN"
    if kind == "grid":
        image(t2, np.eye(4) * [2, 2, 2, 1])
        return f"{t2}.*voxels of"
    if kind == "label":
        mask(seg, (1, 2, 4))
        return f"{seg}.*label 4"
    if kind == "region":
        for path in source.rglob("*-seg.nii.gz"):
            mask(path, (1, 2))
        return "region ET"
    for path in sorted(source.iterdir())[2:]:
        path.rename(source.parent / path.name)
    return "2 patients.*at least 3"


@pytest.mark.parametrize("kind", ["truncated", "nan", "grid", "label", "region", "patients"])
@pytest.mark.parametrize("prepared_before", [False, True])
def test_faults_leave_nothing_half_written(
    workspace: Workspace, tmp_path: Path, kind: str, prepared_before: bool
) -> None:
    source = brats_release(tmp_path, cases=5)
    if prepared_before:
        prepare_dataset(workspace, shipped(501), source=source, seed=1)
    before = dataset_files(workspace)
    folders = names(workspace.datasets)
    message = broken(kind, source)
    with pytest.raises(InputError, match=message):
        prepare_dataset(workspace, shipped(501), source=source, seed=2)
    assert dataset_files(workspace) == before and names(workspace.datasets) == folders
    assert is_prepared(workspace, shipped(501)) == prepared_before


@pytest.mark.parametrize(
    "moment",
    [
        "preparation.making.write_derived",
        "preparation.acceptance.check_cases",
        "preparation.acceptance.find_duplicates",
        "prepare._move_in",
        "prepare.write_sealed",
        "prepare._tell",
    ],
)
def test_killed_and_started_again(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Whatever a killed run leaves behind, the same command gives what an undisturbed run gives."""

    class Killed(BaseException):
        pass

    def die(*_: object, **__: object) -> None:
        raise Killed

    source = upenn(tmp_path)
    undisturbed = Workspace(tmp_path / "other").open()
    prepare_dataset(undisturbed, shipped(505), source=source)
    folder = workspace.dataset("Dataset505_UPENN-GBM")
    with monkeypatch.context() as patch:
        patch.setattr(f"mvp_bench.datasets.{moment}", die)
        patch.setattr("mvp_bench.datasets.prepare.shutil.rmtree", lambda *_, **__: None)  # as after kill -9
        with pytest.raises(Killed):
            prepare_dataset(workspace, shipped(505), source=source)
    assert is_prepared(workspace, shipped(505)) == (moment == "prepare._tell")
    (folder / "labels").mkdir(exist_ok=True)
    (folder / "labels" / "left_over.nii.gz").touch()
    if moment != "prepare._tell":
        prepare_dataset(workspace, shipped(505), source=source)
        assert contents(workspace.datasets) == contents(undisturbed.datasets)


def test_going_on_without_the_faulty_case(workspace: Workspace, tmp_path: Path) -> None:
    source = brats_release(tmp_path, cases=5)
    broken("truncated", source)
    card = with_options(shipped(501), exclude={"BraTS-PED-00002-000": "truncated t2w"})
    block = prepare_dataset(workspace, card, source=source)
    assert len(block.cases) == 4
    assert [(item.what, item.reason) for item in block.excluded] == [
        ("BraTS-PED-00002-000", "excluded by the card: truncated t2w")
    ]


def test_a_source_around_the_workspace(workspace: Workspace, tmp_path: Path) -> None:
    brats_release(tmp_path)
    with pytest.raises(InputError, match="workspace's own"):
        prepare_dataset(workspace, shipped(501), source=tmp_path)
    assert not names(workspace.datasets)


def test_not_prepared(workspace: Workspace) -> None:
    for call in (prepare_dataset, load_block, load_splits):
        with pytest.raises(InputError, match=r"not prepared.*--source FOLDER.*--phantom"):
            call(workspace, shipped(501))
    with pytest.raises(InputError, match="collection"):
        prepare_dataset(workspace, shipped(520))
    assert not dataset_files(workspace)


def test_a_source_without_the_release(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"BraTS 2023 paediatric.*syn51514108"):
        prepare_dataset(workspace, shipped(501), source=tmp_path / "empty")
    assert not names(workspace.datasets)


def test_a_damaged_dataset_json(workspace: Workspace, tmp_path: Path) -> None:
    prepare_dataset(workspace, shipped(501), source=brats_release(tmp_path))
    path = workspace.dataset("Dataset501_BraTS2023-PED") / "dataset.json"
    content = read_json(path)
    content["mvp_bench"]["kind"] = "x"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"dataset\.json: found content that is not what was written.*again"):
        load_block(workspace, shipped(501))
    write_sealed(path, content)
    with pytest.raises(InputError, match=r"dataset\.json: field kind"):
        load_block(workspace, shipped(501))
    path.write_text("{}")
    with pytest.raises(InputError, match="no block"):
        load_block(workspace, shipped(501))


def test_a_patient_in_two_parts_of_splits_json(workspace: Workspace, tmp_path: Path) -> None:
    prepare_dataset(workspace, shipped(501), source=brats_release(tmp_path))
    path = workspace.dataset("Dataset501_BraTS2023-PED") / "splits.json"
    content = read_json(path)
    content["patients"] = dict.fromkeys(content["patients"], "one")
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"splits\.json: found content that is not what was written.*again"):
        load_splits(workspace, shipped(501))
    write_sealed(path, content)
    with pytest.raises(InputError, match=r"splits\.json.*patient one is in train and in"):
        load_splits(workspace, shipped(501))


def test_fewer_cases_than_the_release_has_is_said(
    workspace: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logging.getLogger("mvp_bench").propagate = True
    with caplog.at_level("WARNING", "mvp_bench"):
        prepare_dataset(workspace, shipped(501), source=brats_release(tmp_path))
    assert "99 cases, 6 are usable" in caplog.text
