"""Planning: patches follow the fingerprint, plans are nnU-Net's, fingerprints agree with nnU-Net's extractor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mvp_bench.config.profiles import SMOKE
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.parallel import Inline
from mvp_bench.planning import preprocess
from mvp_bench.planning.nnunet_dataset import VerifiedDataset
from mvp_bench.planning.plan import plan_dataset, preprocess_for_pretraining
from mvp_bench.planning.store import CaseStore
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace
from tests.stock import preprocess_with_stock_nnunet
from tests.toy import toy_card, toy_dataset

PLANNING = SMOKE.planning
SPEC = ENCODERS["resenc-smoke"]


def planned(workspace: Workspace, number: int = 901, config=PLANNING, kind: str = "segmentation", **options):
    card = toy_card(kind, number)
    toy_dataset(workspace, card, **options)
    return plan_dataset(workspace, card, SPEC, config, Inline())


def test_patch_follows_the_fingerprint(workspace: Workspace) -> None:
    config = replace(PLANNING, memory_gb=0.05, max_patch_edge=64)
    anisotropic = planned(workspace, 901, config, shape=(32, 36, 9), spacing=(1, 1, 4))
    small = planned(workspace, 902, config, shape=(14, 15, 12))
    large = planned(workspace, 903, config, shape=(56, 60, 52))
    patches = [tuple(p.configuration["patch_size"]) for p in (anisotropic, small, large)]
    assert len(set(patches)) == 3
    for patch in patches:
        assert all(edge % SPEC.stride == 0 for edge in patch)
    assert patches[0][0] < patches[0][1], "few thick slices give a flat patch"
    assert np.prod(patches[1]) < np.prod(patches[2])
    assert all(edge <= 64 for edge in patches[2])


def test_memory_budget_shrinks_the_patch(workspace: Workspace) -> None:
    small = planned(workspace, 901, replace(PLANNING, memory_gb=0.01), shape=(48, 48, 48)).configuration
    large = planned(workspace, 902, replace(PLANNING, memory_gb=0.08, max_patch_edge=48), shape=(48, 48, 48))
    assert np.prod(small["patch_size"]) < np.prod(large.configuration["patch_size"])
    assert small["batch_size"] >= 2
    with pytest.raises(InputError, match="memory-gb"):
        planned(workspace, 903, replace(PLANNING, memory_gb=1e-6))


def test_classification_patch_holds_the_whole_case(workspace: Workspace) -> None:
    config = replace(PLANNING, memory_gb=0.01)
    result = planned(workspace, 901, config, kind="classification", shape=(48, 48, 48))
    assert all(
        patch >= size
        for patch, size in zip(
            result.configuration["patch_size"], result.configuration["median_image_size_in_voxels"], strict=True
        )
    )
    assert min(result.configuration["spacing"]) > 1


def test_fingerprint_agrees_with_nnunet(workspace: Workspace) -> None:
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor

    ours = planned(workspace, 901, shape=(20, 24, 18), spacing=(1, 1.5, 2)).fingerprint
    folder = workspace.plan("Dataset901_Toy901")
    (folder / "dataset_fingerprint.json").unlink()
    extractor = DatasetFingerprintExtractor("Dataset901_Toy901", num_processes=1)
    extractor.show_progress_bar = False
    extractor.num_foreground_voxels_for_intensitystats = PLANNING.foreground_samples
    theirs = extractor.run(overwrite_existing=True)
    assert [list(s) for s in theirs["shapes_after_crop"]] == ours["shapes_after_crop"]
    np.testing.assert_allclose(theirs["spacings"], ours["spacings"])
    assert theirs["median_relative_size_after_cropping"] == pytest.approx(ours["median_relative_size_after_cropping"])
    for channel, statistics in theirs["foreground_intensity_properties_per_channel"].items():
        mine = ours["foreground_intensity_properties_per_channel"][str(channel)]
        assert mine == pytest.approx(statistics, rel=1e-6)


def test_fingerprint_counts_modalities_and_classes(workspace: Workspace) -> None:
    found = planned(workspace, 901, kind="classification", missing={1: "flair", 3: "t1"}).fingerprint["mvp_bench"]
    assert found["modality_cooccurrence"] == {"t1": {"t1": 5, "flair": 4}, "flair": {"t1": 4, "flair": 5}}
    assert found["class_counts"] == {"large": 3, "small": 3}


def test_stock_nnunet_trains_one_step_from_the_plan(workspace: Workspace) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    result = planned(workspace)
    manager = PlansManager(str(result.folder / "plan.json"))
    assert manager.get_configuration("3d_fullres").patch_size == result.configuration["patch_size"]
    preprocess_with_stock_nnunet(workspace, result)
    assert CaseStore(result.cases).cases == result.store.cases, "stock preprocessing leaves ours alone"
    plans = {**read_json(result.folder / "plan.json"), "continue_training": False}
    trainer = nnUNetTrainer(
        plans, "3d_fullres", 0, read_json(result.folder / "dataset.json"), device=torch.device("cpu")
    )
    trainer.initialize()
    train, _ = trainer.get_dataloaders()
    before = trainer.network.encoder.stem.convs[0].conv.weight.detach().clone()
    loss = trainer.train_step(next(train))["loss"]
    assert np.isfinite(loss)
    assert not torch.equal(before, trainer.network.encoder.stem.convs[0].conv.weight)


def test_intensities_are_z_scored_inside_the_brain(workspace: Workspace) -> None:
    result = planned(workspace, missing={2: "flair"})
    store = result.store
    info = store.info("case00")
    data = store.read("case00", [0, 1], (0, 0, 0), info.shape)
    brain = store.read_seg("case00", (0, 0, 0), info.shape) >= 0
    assert data[0][brain].mean() == pytest.approx(0, abs=1e-4)
    assert data[0][brain].std() == pytest.approx(1, abs=1e-3)
    assert (data[:, ~brain] == 0).all()
    assert store.info("case02").present == ("t1",)
    assert (store.read("case02", [1], (0, 0, 0), store.info("case02").shape) == 0).all()


def test_planning_again_changes_nothing(workspace: Workspace) -> None:
    first = planned(workspace)
    base = workspace.plan(first.card.dataset_name)
    stamps = {p: p.stat().st_mtime_ns for p in base.rglob("*") if p.is_file() and p.name != "current"}
    second = plan_dataset(workspace, first.card, SPEC, PLANNING, Inline())
    assert second.plan == first.plan
    assert {p: p.stat().st_mtime_ns for p in base.rglob("*") if p.is_file() and p in stamps} == stamps


def test_interrupted_preprocessing_goes_on(workspace: Workspace) -> None:
    first = planned(workspace)
    index = first.cases / "index" / "index.json"
    content = read_json(index)
    index.unlink()
    (first.cases / "entries" / "case03.json").unlink()  # as if killed while case03 was written
    (first.cases / "properties" / "case03.msgpack").unlink()
    kept = (first.cases / "case01.b2nd").stat().st_mtime_ns
    second = plan_dataset(workspace, first.card, SPEC, PLANNING, Inline())
    assert read_json(index) == content
    assert (second.cases / "properties" / "case03.msgpack").is_file()
    assert (second.cases / "case01.b2nd").stat().st_mtime_ns == kept


def test_pretraining_spacing_gets_arrays_of_its_own(workspace: Workspace) -> None:
    result = planned(workspace, spacing=(1, 1, 1))
    assert preprocess_for_pretraining(workspace, result, (1.0, 1.0, 1.0), Inline()).folder == result.cases
    coarse = preprocess_for_pretraining(workspace, result, (2.0, 2.0, 2.0), Inline())
    assert coarse.spacing == (2.0, 2.0, 2.0)
    assert coarse.info("case00").shape[0] == pytest.approx(result.store.info("case00").shape[0] / 2, abs=1)


def test_world_position_survives_preprocessing(workspace: Workspace) -> None:
    """The ball's centre of mass, in mm, is the same in the source and in the resampled, cropped array."""
    import nibabel as nib

    for orientation, number in (("RAS", 901), ("LPS", 902), ("ASL", 903)):
        card = toy_card(number=number)
        toy_dataset(workspace, card, cases=3, spacing=(1, 1.5, 2), orientation=orientation)
        config = replace(PLANNING, spacing=(1.3, 1.3, 1.3))
        result = plan_dataset(workspace, card, SPEC, config, Inline())
        source = nib.load(workspace.dataset(card.dataset_name) / "source" / "case00_seg.nii.gz")
        voxels = np.argwhere(np.asarray(source.dataobj) > 0).mean(0)
        expected = (source.affine @ [*voxels, 1])[:3]
        info = result.store.info("case00")
        seg = result.store.read_seg("case00", (0, 0, 0), info.shape)
        found = (info.affine @ [*np.argwhere(seg > 0).mean(0)[::-1], 1])[:3]
        np.testing.assert_allclose(found, expected, atol=0.35)
        middle = (source.affine @ [*(np.array(source.shape) - 1) / 2, 1])[:3]
        assert info.middle is not None and np.allclose(info.middle, middle, atol=1e-3)


def test_store_pads_and_survives_pickling(workspace: Workspace) -> None:
    import pickle

    store: CaseStore = pickle.loads(pickle.dumps(planned(workspace).store))
    shape = store.info("case00").shape
    inside = store.read("case00", [1], (0, 0, 0), shape)
    padded = store.read("case00", [1], (-3, 2, -1), (8, 8, 8))
    assert (padded[0, :3] == 0).all()
    np.testing.assert_array_equal(padded[0, 3:, :, 1:], inside[0, 0:5, 2:10, 0:7])
    assert (store.read_seg("case00", (-50, 0, 0), (4, 4, 4)) == -1).all()
    with pytest.raises(InputError, match="mvp_plan"):
        CaseStore(workspace.plan("Dataset901_Toy901"))


def test_a_picture_shows_every_region(workspace: Workspace, monkeypatch) -> None:
    from matplotlib.axes import Axes

    drawn: list[int] = []
    contour = Axes.contour
    monkeypatch.setattr(
        Axes, "contour", lambda self, mask, **options: drawn.append(int(mask.sum())) or contour(self, mask, **options)
    )
    plan = planned(workspace)
    picture = plan.folder / "regions.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert len(drawn) == 3 * len(plan.block.regions)
    whole, core = drawn[0], drawn[1]
    assert whole > core > 0
    drawn.clear()
    plan_dataset(workspace, plan.card, SPEC, PLANNING, Inline())
    assert not drawn, "a picture that is up to date is kept"
    assert not (planned(workspace, 902, kind="classification").folder / "regions.png").exists()


def test_another_plan_makes_folders_of_its_own(workspace: Workspace) -> None:
    first = planned(workspace)
    before = {p: p.read_bytes() for folder in (first.folder, first.cases) for p in folder.rglob("*") if p.is_file()}
    other = plan_dataset(workspace, first.card, SPEC, replace(PLANNING, memory_gb=0.05), Inline())
    spaced = plan_dataset(workspace, first.card, SPEC, replace(PLANNING, spacing=(2.0, 2.0, 2.0)), Inline())
    assert len({first.folder, other.folder, spaced.folder}) == 3
    assert other.cases == first.cases != spaced.cases
    assert (workspace.plan(first.card.dataset_name) / "current").read_text().strip() == spaced.folder.name
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.parametrize(
    "name", ["case01.b2nd", "case01_seg.b2nd", "reference/case01.b2nd", "properties/case01.msgpack"]
)
def test_a_flipped_byte_is_noticed_when_the_file_is_opened(workspace: Workspace, name: str) -> None:
    result = planned(workspace)
    path = result.cases / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    store = CaseStore(result.cases)
    with pytest.raises(InputError, match=str(path)):
        store.read("case01", [0], (0, 0, 0), (4, 4, 4))
        store.read_seg("case01", (0, 0, 0), (4, 4, 4))
        store.reference("case01")
        store.properties("case01")


def test_what_is_damaged_is_made_anew_by_planning(workspace: Workspace) -> None:
    first = planned(workspace)
    before = {p: p.read_bytes() for p in first.cases.rglob("*") if p.is_file()}
    (first.cases / "index" / "index.json").write_text("{")
    (first.cases / "case02.b2nd").write_bytes((first.cases / "case01.b2nd").read_bytes())  # swapped
    plan_dataset(workspace, first.card, SPEC, PLANNING, Inline())
    assert {p: p.read_bytes() for p in before} == before


def test_arrays_of_another_folder_are_refused(workspace: Workspace) -> None:
    one, other = planned(workspace, 901), planned(workspace, 902)
    for name in ("index/index.json", "entries/case00.json"):
        (one.cases / name).write_bytes((other.cases / name).read_bytes())
    with pytest.raises(InputError, match="key"):
        CaseStore(one.cases).info("case00")


def test_properties_come_back_as_nnunet_made_them(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[dict] = []
    write = preprocess.write_properties
    monkeypatch.setattr(preprocess, "write_properties", lambda path, p: kept.append(p) or write(path, p))
    result = planned(workspace)
    found = result.store.properties("case00")
    assert found.keys() == kept[0].keys()
    assert found["class_locations"].keys() == kept[0]["class_locations"].keys()
    for key, places in kept[0]["class_locations"].items():
        np.testing.assert_array_equal(found["class_locations"][key], places)
        assert found["class_locations"][key].dtype == places.dtype
    rest = {k: v for k, v in kept[0].items() if k not in ("class_locations", "nibabel_stuff")}
    assert {k: found[k] for k in rest} == rest
    np.testing.assert_array_equal(
        found["nibabel_stuff"]["original_affine"], kept[0]["nibabel_stuff"]["original_affine"]
    )


def test_the_reference_is_the_prepared_mask(workspace: Workspace) -> None:
    import nibabel as nib

    result = planned(workspace, orientation="LPS")
    source = nib.as_closest_canonical(
        nib.load(workspace.dataset(result.card.dataset_name) / "source/case00_seg.nii.gz")
    )
    np.testing.assert_array_equal(result.store.reference("case00"), np.asarray(source.dataobj).transpose(2, 1, 0))


def test_nothing_is_pickled(workspace: Workspace) -> None:
    result = planned(workspace)
    assert not [p for p in result.cases.rglob("*") if p.suffix in (".pkl", ".pickle")]
    assert "case00" in VerifiedDataset(str(result.cases)).identifiers
