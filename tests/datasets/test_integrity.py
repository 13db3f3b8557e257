"""Files read to the end, and every kind of fault."""

from __future__ import annotations

import gzip
import pickle
import re
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.geometry.volumes import (
    Grid,
    grid_difference,
    read_grid,
    read_volume,
    whole_numbers,
    write_volume,
)
from mvp_bench.datasets.integrity.case_check import Checked, voxel_hash
from mvp_bench.datasets.integrity.cases import check_cases, empty_regions, hash_data
from mvp_bench.datasets.integrity.report import CaseFacts
from mvp_bench.datasets.journal import Journal
from mvp_bench.datasets.schema import Card, Case
from mvp_bench.errors import InputError
from mvp_bench.parallel import worker_pool

from .releases import SHAPE, SRI24, image, mask, save, shipped, truncate


@pytest.fixture
def cases(tmp_path: Path) -> dict[str, Case]:
    result = {}
    for number in range(3):
        images = {m: str(image(tmp_path / f"c{number}_{m}.nii.gz")) for m in ("t1", "t1c", "t2", "flair")}
        label = mask(tmp_path / f"c{number}_seg.nii.gz", (1, 2, 3))
        result[f"c{number}"] = Case(patient=f"p{number}", images=images, label=str(label))
    return result


def check(cases: dict[str, Case], card: Card | None = None, workers: int = 1) -> dict[str, Checked]:
    with worker_pool(workers) as pool:
        return check_cases(cases, card or shipped(501), pool, CheckConfig(), Journal())


def faults(cases: dict[str, Case], pattern: str) -> None:
    """Exactly one fault, in the second case, that matches."""
    found = [(name, fault) for name, one in check(cases).items() for fault in one.facts.faults]
    assert [name for name, _ in found] == ["c1"] and re.search(pattern, found[0][1]), found


def facts(cases: dict[str, Case]) -> dict[str, CaseFacts]:
    return {name: one.facts for name, one in check(cases).items()}


def test_facts(cases: dict[str, Case]) -> None:
    one = check(cases)["c1"]
    assert one.facts.label_voxels == {1: 4, 2: 4, 3: 4} and one.facts.lesion_ml == pytest.approx(0.012)
    assert list(one.facts.files) == ["t1", "t1c", "t2", "flair", "label"]
    assert not one.rewrite and not one.facts.faults
    path = Path(cases["c1"].images["t1"])
    file = one.facts.files["t1"]
    assert (file.name, file.bytes, file.shape) == (path.name, path.stat().st_size, SHAPE)
    assert file.orientation == "LPS" and file.spacing == (1, 1, 1)
    assert file.minimum == 0 and 1 < file.maximum < 100 and file.nonzero == pytest.approx(7 / 8)


def test_same_result_with_more_processes(cases: dict[str, Case]) -> None:
    assert check(cases, workers=2) == check(cases)


def test_errors_cross_process_borders() -> None:
    error = InputError("a", found="b", expected="c")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_all_faults_are_found_at_once(cases: dict[str, Case]) -> None:
    truncate(Path(cases["c0"].images["t2"]))
    image(Path(cases["c0"].images["t1c"]), fill=0)
    mask(Path(str(cases["c2"].label)), (1, 2, 4))
    found = facts(cases)
    assert [len(found[name].faults) for name in ("c0", "c1", "c2")] == [2, 0, 1]


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.6, 0.9999])
def test_truncated_gzip(cases: dict[str, Case], keep: float) -> None:
    path = truncate(Path(cases["c1"].images["t2"]), keep)
    faults(cases, f"{path}: found .*(truncated|not gzip)")


def test_wrong_check_sum_alone_is_found(cases: dict[str, Case]) -> None:
    path = Path(cases["c1"].images["t2"])
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the CRC that nibabel never reads
    path.write_bytes(content)
    nib.load(path).get_fdata()
    faults(cases, "corrupt")


def test_truncated_nii(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="truncated"):
        read_volume(truncate(image(tmp_path / "a.nii")))


@pytest.mark.parametrize(("name", "packed"), [("a.nii", True), ("a.nii.gz", False)])
def test_ending_that_lies(tmp_path: Path, name: str, packed: bool) -> None:
    content = image(tmp_path / "b.nii").read_bytes()
    (tmp_path / name).write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(InputError, match=r"gzip"):
        read_volume(tmp_path / name)


def test_not_nifti(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("hello" * 200)
    with pytest.raises(InputError, match=r"a\.nii"):
        read_volume(tmp_path / "a.nii")
    with pytest.raises(InputError, match="No such file"):
        read_volume(tmp_path / "b.nii")


@pytest.mark.parametrize("size", [0, 3, 100, 347, 351, 352, 500])
def test_truncated_header(tmp_path: Path, size: int) -> None:
    path = image(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(InputError, match=r"a\.nii"):
        read_volume(path)
    with pytest.raises(InputError, match=r"a\.nii"):
        read_grid(path) if size < 348 else read_volume(path)


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    data, grid = np.arange(24.0).reshape(2, 3, 4), Grid((2, 3, 4), SRI24)
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nii.gz", data, grid)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    volume = read_volume(tmp_path / "a.nii.gz")
    assert np.array_equal(volume.data, data) and grid_difference(volume.grid, grid) == ""


def test_nifti_2(tmp_path: Path) -> None:
    data = np.random.default_rng(0).uniform(size=SHAPE).astype(np.float32)
    nib.save(nib.Nifti2Image(data, SRI24), tmp_path / "a.nii.gz")
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz").data, data)


def test_dimensions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="4 dimensions"):
        read_volume(image(tmp_path / "a.nii.gz", shape=(4, 4, 4, 2)))
    with pytest.raises(InputError, match="2 dimensions"):
        read_volume(image(tmp_path / "b.nii.gz", shape=(4, 4)))
    volume = read_volume(image(tmp_path / "c.nii.gz", shape=(4, 5, 6, 1)))
    assert volume.data.shape == volume.grid.shape == (4, 5, 6) and volume.squeezed


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite(cases: dict[str, Case], value: float) -> None:
    path = Path(cases["c1"].images["flair"])
    data = np.ones(SHAPE, np.float32)
    data[3, 4, 5] = value
    save(path, data)
    faults(cases, r"c1_flair.*1 voxels.*\(3, 4, 5\)")


def test_image_of_zeros(cases: dict[str, Case]) -> None:
    image(Path(cases["c1"].images["flair"]), fill=0)
    faults(cases, "0 in every voxel")


def test_image_of_one_value(cases: dict[str, Case]) -> None:
    image(Path(cases["c1"].images["flair"]), fill=7)
    faults(cases, "7 in every voxel")


@pytest.mark.parametrize(
    ("spacing", "message"),
    [((0.1, 1, 1), "voxels of 0.1 x 1 x 1 mm"), ((60, 60, 60), "field of view of 480 x 540 x 600 mm")],
)
def test_implausible_sizes_are_warned_of(
    cases: dict[str, Case], spacing: tuple[float, float, float], message: str
) -> None:
    for role, path in {**cases["c1"].images, "label": cases["c1"].label}.items():
        affine = np.diag([*spacing, 1.0])
        mask(Path(str(path)), affine=affine) if role == "label" else image(Path(str(path)), affine)
    found = facts(cases)
    assert any(message in warning for warning in found["c1"].warnings) and not found["c1"].faults
    assert not any(message in warning for warning in found["c0"].warnings)


@pytest.mark.parametrize(
    ("affine", "shape", "message"),
    [
        (SRI24, (8, 9, 11), "8 x 9 x 11 voxels instead of 8 x 9 x 10"),
        (np.array([[-1, 0, 0, -120], [0, -1, 0, 240], [0, 0, 1, 0], [0, 0, 0, 1]]), SHAPE, "only the header's origin"),
        (np.diag([-1.0, -1, 2, 1]), SHAPE, "voxels of"),
        (np.array([[1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]]), SHAPE, "orientation"),
    ],
)
def test_other_grid(cases: dict[str, Case], affine: np.ndarray, shape: tuple, message: str) -> None:
    image(Path(cases["c1"].images["t2"]), affine.astype(float), shape)
    faults(cases, f"c1_t2.*{message}")


def test_mask_on_another_grid(cases: dict[str, Case]) -> None:
    mask(Path(str(cases["c1"].label)), affine=np.eye(4))
    faults(cases, r"c1_seg.*grid of c1_t1")


def test_rounded_headers_are_one_grid() -> None:
    grid = Grid((240, 240, 155), SRI24)
    nearly = Grid((240, 240, 155), SRI24 + np.random.default_rng(0).uniform(-1e-5, 1e-5, (4, 4)) * [[1], [1], [1], [0]])
    assert grid_difference(grid, nearly) == ""
    shifted = SRI24.copy()
    shifted[0, 3] += 0.1
    assert "origin" in grid_difference(Grid((240, 240, 155), shifted), grid)


def test_undeclared_label(cases: dict[str, Case]) -> None:
    mask(Path(str(cases["c1"].label)), (1, 2, 4))
    faults(cases, r"c1_seg.*label 4 \(4 voxels\)")


def test_label_that_is_no_number(cases: dict[str, Case]) -> None:
    mask(Path(str(cases["c1"].label)), (1, 1.5), dtype=np.float32)
    faults(cases, r"c1_seg.*1\.5")


def test_nearly_whole_labels(cases: dict[str, Case]) -> None:
    mask(Path(str(cases["c1"].label)), (0.9999, 2, 3.0004), dtype=np.float32)
    one = check(cases)["c1"]
    assert one.facts.label_voxels == {1: 4, 2: 4, 3: 4} and list(one.rewrite) == ["label"]
    values, rounded = whole_numbers(Path("x"), np.array([0.0, 1, 4], np.float32))
    assert values.tolist() == [0, 1, 4] and not rounded


def test_region_empty_in_every_case(cases: dict[str, Case]) -> None:
    for case in cases.values():
        mask(Path(str(case.label)), (1, 2))
    (fault,) = empty_regions(facts(cases), shipped(501))
    assert "region ET: found label 3 in none of 3 masks" in fault
    mask(Path(str(cases["c0"].label)), (1, 2, 3))
    assert not empty_regions(facts(cases), shipped(501))


def test_hash_changes_with_any_voxel(cases: dict[str, Case]) -> None:
    before = hash_data(facts(cases))
    assert before == hash_data(facts(cases))
    data = np.asanyarray(nib.load(cases["c0"].images["t1"]).dataobj).copy()
    data[4, 4, 4] += 1
    save(Path(cases["c0"].images["t1"]), data)
    assert hash_data(facts(cases)) != before


@given(
    codes=st.sampled_from(sorted("".join(order) for axes in product("LR", "AP", "IS") for order in permutations(axes))),
    seed=st.integers(0, 1000),
)
def test_voxel_hash_is_of_the_voxels_in_the_world(codes: str, seed: int) -> None:
    data = np.random.default_rng(seed).integers(0, 200, (3, 4, 5)).astype(np.uint8)
    original = nib.Nifti1Image(data, np.eye(4))
    names = [nib.orientations.axcodes2ornt(text) for text in ("RAS", codes)]
    turned = original.as_reoriented(nib.orientations.ornt_transform(*names))
    as_float = np.where(np.asanyarray(turned.dataobj) == 0, -0.0, np.asanyarray(turned.dataobj))
    expected = voxel_hash(data, original.affine)
    assert voxel_hash(as_float, turned.affine) == expected
    mirrored = data[::-1]
    assert (voxel_hash(mirrored, original.affine) == expected) == np.array_equal(mirrored, data)
    assert voxel_hash(data.reshape(3, 5, 4), original.affine) != expected
