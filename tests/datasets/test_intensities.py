"""Grey values: what normalisation would make of them, what is mended, what is a fault."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.normalization.default_normalization_schemes import ZScoreNormalization

from mvp_bench.config.groups import CheckConfig, PreparationConfig
from mvp_bench.datasets.geometry.derive import Derived, write_derived
from mvp_bench.datasets.geometry.intensities import Mend, judge, measure_normalised, normalised_brain
from mvp_bench.datasets.geometry.volumes import read_volume
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import is_prepared
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace

from .releases import own_card, save

CHECK = CheckConfig()
SIZE = (20, 24, 22)
CARD = own_card("generic", modalities="t1", images={"t1": r"(?P<patient>p\d+)/t1"}, label=r"(?P<patient>p\d+)/seg")


def head(seed: int = 0) -> np.ndarray:
    """Grey values of 300 to 900 in an ellipsoid, 0 outside."""
    axes = np.meshgrid(*(np.linspace(-1, 1, n) for n in SIZE), indexing="ij")
    inside = sum(axis**2 for axis in axes) < 0.9
    data = np.random.default_rng(seed).normal(600, 80, SIZE) * inside
    return data.astype(np.float32)


def nnunet(data: np.ndarray) -> np.ndarray:
    """nnU-Net's own normalisation inside the voxels that are not 0."""
    scheme = ZScoreNormalization(use_mask_for_norm=True, intensityproperties={})
    with np.errstate(all="ignore"):
        return scheme.run(data.astype(np.float32), np.where(data != 0, 0, -1))


def hot(data: np.ndarray, value: float, count: int = 1) -> np.ndarray:
    changed = data.astype(np.float64)
    changed[10, 10, 6 : 6 + count] = value
    return changed


SOUND = {
    "as it is": head(),
    "z-scored": np.where(head() != 0, (head() - 600) / 80, 0),
    "an offset": head() + 1000,
    "whole numbers": head().astype(np.int16),
    "small but fine": head() * 1e-4,
    "bright vessels": np.where(np.random.default_rng(1).uniform(size=SIZE) < 0.01, 4 * head(), head()),
}


@pytest.mark.parametrize("name", SOUND)
def test_sound_images_are_left_alone(name: str) -> None:
    assert judge(SOUND[name], CHECK) == ([], Mend())
    assert measure_normalised(nnunet(SOUND[name])) == []


MENDED = {
    "one hot voxel": (hot(head(), 3.4e9), ["odd values in 1 voxel, up to 3.4e+09"]),
    "a few hot voxels": (hot(head(), -1e6, 3), ["odd values in 3 voxels, up to -1e+06"]),
    "diffusivity in m2/s": (head() * np.float32(1e-12), ["multiplied by 1e+12"]),
    "smaller than any unit": (head() * np.float32(1e-42), ["multiplied by 1e+42"]),
    "tiny, with a hot voxel": (
        hot(head() * 1e-10, 1.0),
        ["odd values in 1 voxel, up to 1,", "; values multiplied by 1e+"],
    ),
}


@pytest.mark.parametrize("name", MENDED)
def test_images_that_can_be_mended(name: str, tmp_path: Path) -> None:
    data, repair = MENDED[name]
    before = measure_normalised(nnunet(data))
    assert len(before) == 1 and "standard deviation" in before[0]
    problems, mend = judge(data, CHECK)
    assert problems == [] and mend.done
    mended = mend.applied(data)
    assert measure_normalised(nnunet(mended)) == [] and judge(mended.astype(np.float32), CHECK) == ([], Mend())
    assert 0.8 < nnunet(mended)[data != 0].std() < 1.2
    ordinary = (data != 0) & (np.abs(data - np.median(data[data != 0])) < 20 * head().std() * mend.factor**-1)
    assert np.allclose(mended[ordinary], data[ordinary].astype(np.float64) * mend.factor, rtol=1e-6), (
        "only odd values are changed"
    )
    source = save(tmp_path / "t1.nii.gz", data)
    (outcome,) = write_derived(Derived(source, tmp_path / "images/t1.nii.gz", "image", mend=mend))
    assert outcome.repair == mend.done and np.allclose(read_volume(Path(str(outcome.path))).data, mended, rtol=1e-6)
    assert all(words in mend.done for words in repair)


FAULTY = {
    "a voxel of 3e38": (hot(head(), 3e38), "values beyond 1e+15 in 1 voxel, up to 3e+38"),
    "voxels of 1e300": (hot(head(), 1e300, 3), "values beyond 1e+15 in 3 voxels, up to 1e+300"),
    "all of order 1e25": (head() * 1e25, "values beyond 1e+15"),
    "one value and nothing": ((head() != 0).astype(np.float32), "no brain after normalisation: 0 in every voxel"),
    "too many odd voxels": (hot(head(), 1e9, 9), "standard deviation of"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_images_that_cannot_be_mended(name: str) -> None:
    data, problem = FAULTY[name]
    problems, mend = judge(data, CHECK)
    assert mend == Mend() and len(problems) == 1 and problem in problems[0]


def test_what_is_wrong_after_normalisation() -> None:
    sound = nnunet(head())
    assert measure_normalised(sound) == []
    assert measure_normalised(np.zeros(SIZE)) == ["no brain after normalisation: 0 in every voxel"]
    for bad in (np.nan, np.inf):
        assert measure_normalised(np.where(sound > 2, bad, sound))[0].startswith("NaN or infinity in")
    assert "standard deviation of 0.0048" in measure_normalised(sound * np.float32(0.005))[0]
    assert "standard deviation of 9" in measure_normalised(sound * 10)[0]
    odd = sound.copy()
    odd[10, 10, 4:14] = 100
    assert "% of the brain's voxels more than 30 standard deviations off" in measure_normalised(odd)[0]
    assert measure_normalised(odd, CheckConfig(outlier_spreads=200)) == []
    assert measure_normalised(sound * np.float32(0.3), CheckConfig(min_spread=0.1)) == []


@given(
    scale=st.floats(-14, 14).map(lambda power: 10.0**power),
    offset=st.floats(-3, 3),
    odd=st.sampled_from([0.0, 1e2, 1e5, 1e9, 1e20]),
    seed=st.integers(0, 9),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_accepted_is_an_image_after_normalisation(
    scale: float, offset: float, odd: float, seed: int
) -> None:
    data = head(seed)
    data = np.where(data != 0, (data + 80 * offset) * scale, 0)
    if odd:
        data = hot(data, odd * scale)
    problems, mend = judge(data.astype(np.float32), CHECK)
    if not problems:
        normalised = nnunet(mend.applied(data.astype(np.float32)).astype(np.float32))
        assert measure_normalised(normalised) == [] and normalised.any()
        inner = np.sort(normalised[data != 0])[20:-20]
        assert 0.5 < inner.std() < 1.1
    else:
        assert np.abs(data).max() > CHECK.max_value, problems


def test_the_brain_is_normalised_as_nnunet_does() -> None:
    for data in (head(), head().astype(np.int16), hot(head(), 3.4e9)):
        assert np.allclose(normalised_brain(data), nnunet(data)[data != 0], atol=1e-6)


# -------------------------------------------------------------------------------------------------------- preparation


def release(root: Path, changed: dict[int, np.ndarray]) -> Path:
    for number in range(6):
        lesion = np.zeros(SIZE, np.uint8)
        lesion[8:11, 8:11, 8:11] = 1
        save(root / f"p{number}/t1.nii.gz", changed.get(number, head(number)))
        save(root / f"p{number}/seg.nii.gz", lesion)
    return root


def test_faults_name_the_file_and_may_be_left_out(workspace: Workspace, tmp_path: Path) -> None:
    sound = head(9)
    overflow = sound.copy()
    overflow[4, 4, 4] = 3e38
    source = release(tmp_path / "in", {1: overflow, 3: sound * np.float32(1e25)})
    with pytest.raises(InputError, match=r"2 faults in 2 of 6") as caught:
        prepare_dataset(workspace, CARD, source=source)
    assert "p1/t1.nii.gz: found values beyond 1e+15" in str(caught.value) and "p3/t1.nii.gz" in str(caught.value)
    assert not is_prepared(workspace, CARD)
    block = prepare_dataset(workspace, CARD, source=source, preparation=PreparationConfig(exclude_faulty=True))
    assert list(block.cases) == ["p0", "p2", "p4", "p5"]
    assert [item.what for item in block.excluded] == ["p1", "p3"]


def test_repairs_are_listed_and_warned_of(workspace: Workspace, tmp_path: Path) -> None:
    odd = head(9)
    odd[4, 4, 4] = 3.4e9
    source = release(tmp_path / "in", {1: odd, 2: head(8) * np.float32(1e-30)})
    block = prepare_dataset(workspace, CARD, source=source)
    assert [item.what for item in block.repairs] == ["p1/t1.nii.gz", "p2/t1.nii.gz"]
    assert "odd values in 1 voxel" in block.repairs[0].repair and "multiplied by 1e+3" in block.repairs[1].repair
    report = load_integrity(workspace, CARD)
    for name, text in (("p1", "odd values"), ("p2", "multiplied")):
        assert any(text in warning for warning in report.cases[name].warnings)
        prepared = read_volume(workspace.dataset(CARD.dataset_name) / str(block.cases[name].images["t1"])).data
        assert measure_normalised(nnunet(prepared)) == []
    assert prepare_dataset(workspace, CARD, source=source) == block


def test_nan_is_background_if_asked(workspace: Workspace, tmp_path: Path) -> None:
    nan = head(9)
    nan[nan == 0] = np.nan
    count = int(np.isnan(nan).sum())
    source = release(tmp_path / "in", {1: nan})
    label = np.asanyarray(nib.load(source / "p1/seg.nii.gz").dataobj).astype(np.float32)
    save(source / "p1/seg.nii.gz", np.where(label == 0, np.nan, label))
    with pytest.raises(InputError, match=r"2 faults in 1 of 6") as caught:
        prepare_dataset(workspace, CARD, source=source)
    assert str(caught.value).count("--nan-background reads NaN as background") == 2
    block = prepare_dataset(workspace, CARD, source=source, preparation=PreparationConfig(nan_background=True))
    assert [item.what for item in block.repairs] == ["p1/t1.nii.gz", "p1/seg.nii.gz"]
    assert block.repairs[0].repair == f"{count} voxels of NaN read as background (0)"
    folder = workspace.dataset(CARD.dataset_name)
    case = block.cases["p1"]
    assert np.array_equal(read_volume(folder / str(case.images["t1"])).data, np.nan_to_num(nan))
    assert np.array_equal(read_volume(folder / str(case.label)).data, label)


def test_infinity_is_never_background(workspace: Workspace, tmp_path: Path) -> None:
    bad = head(9)
    bad[0], bad[4, 4, 4] = np.nan, np.inf
    source = release(tmp_path / "in", {1: bad})
    for how in (PreparationConfig(), PreparationConfig(nan_background=True)):
        with pytest.raises(InputError, match="NaN or infinite") as caught:
            prepare_dataset(workspace, CARD, source=source, preparation=how)
        assert "--nan-background" not in str(caught.value)


def test_nan_is_read_as_background_where_files_are_made_anew(tmp_path: Path) -> None:
    nan = head(0)
    nan[nan == 0] = np.nan
    brain = save(tmp_path / "brain.nii.gz", np.ones(SIZE, np.uint8))
    derived = Derived(save(tmp_path / "t1.nii.gz", nan), tmp_path / "images/t1.nii.gz", "image", mask=brain)
    (outcome,) = write_derived(derived, nan_background=True)
    assert "read as background" in outcome.repair and np.isfinite(read_volume(Path(str(outcome.path))).data).all()


def test_a_type_that_is_used_to_its_end_is_warned_of(workspace: Workspace, tmp_path: Path) -> None:
    wrapped = head(9).astype(np.int16)
    wrapped[wrapped > 700] = -32768
    source = release(tmp_path / "in", {1: wrapped})
    prepare_dataset(workspace, CARD, source=source)
    warnings = load_integrity(workspace, CARD).cases["p1"].warnings
    assert any("t1.nii.gz: reaches -32768, the end of its type" in text for text in warnings)
