"""Files read to the end, and every kind of fault."""

from __future__ import annotations

import gzip
import pickle
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.datasets.integrity import check_cases, hash_data
from mvp_bench.datasets.schema import Card, Case
from mvp_bench.datasets.volumes import Grid, grid_difference, read_grid, read_volume, whole_numbers, write_volume
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


def check(cases: dict[str, Case], card: Card | None = None, workers: int = 1):
    with worker_pool(workers) as pool:
        return check_cases(cases, card or shipped(501), pool)


def test_report(cases: dict[str, Case]) -> None:
    report = check(cases)["c1"]
    assert report.label_voxels == {1: 4, 2: 4, 3: 4} and report.lesion_ml == pytest.approx(0.012)
    assert [record.role for record in report.files] == ["t1", "t1c", "t2", "flair", "label"]
    assert not report.rewrite


def test_same_result_with_more_processes(cases: dict[str, Case]) -> None:
    assert check(cases, workers=2) == check(cases)


def test_faults_cross_process_borders(cases: dict[str, Case]) -> None:
    truncate(Path(cases["c2"].images["t2"]))
    with pytest.raises(InputError, match="c2_t2"):
        check(cases, workers=2)
    error = InputError("a", found="b", expected="c")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.6, 0.9999])
def test_truncated_gzip(cases: dict[str, Case], keep: float) -> None:
    path = truncate(Path(cases["c1"].images["t2"]), keep)
    with pytest.raises(InputError) as caught:
        check(cases)
    assert str(path) in caught.value.where
    assert "truncated" in caught.value.found or "not gzip" in caught.value.found


def test_wrong_check_sum_alone_is_found(cases: dict[str, Case]) -> None:
    path = Path(cases["c1"].images["t2"])
    content = bytearray(path.read_bytes())
    content[-8] ^= 1  # the CRC that nibabel never reads
    path.write_bytes(content)
    nib.load(path).get_fdata()
    with pytest.raises(InputError, match="corrupt"):
        check(cases)


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
    with pytest.raises(InputError, match=r"c1_flair.*1 voxels.*\(3, 4, 5\)"):
        check(cases)


def test_image_of_zeros(cases: dict[str, Case]) -> None:
    image(Path(cases["c1"].images["flair"]), fill=0)
    with pytest.raises(InputError, match="0 in every voxel"):
        check(cases)


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
    with pytest.raises(InputError, match=f"c1_t2.*{message}"):
        check(cases)


def test_mask_on_another_grid(cases: dict[str, Case]) -> None:
    mask(Path(str(cases["c1"].label)), affine=np.eye(4))
    with pytest.raises(InputError, match=r"c1_seg.*grid of c1_t1"):
        check(cases)


def test_rounded_headers_are_one_grid() -> None:
    grid = Grid((240, 240, 155), SRI24)
    nearly = Grid((240, 240, 155), SRI24 + np.random.default_rng(0).uniform(-1e-5, 1e-5, (4, 4)) * [[1], [1], [1], [0]])
    assert grid_difference(grid, nearly) == ""
    shifted = SRI24.copy()
    shifted[0, 3] += 0.1
    assert "origin" in grid_difference(Grid((240, 240, 155), shifted), grid)


def test_undeclared_label(cases: dict[str, Case]) -> None:
    mask(Path(str(cases["c1"].label)), (1, 2, 4))
    with pytest.raises(InputError, match=r"c1_seg.*label 4 \(4 voxels\)"):
        check(cases)


def test_label_that_is_no_number(cases: dict[str, Case]) -> None:
    mask(Path(str(cases["c1"].label)), (1, 1.5), dtype=np.float32)
    with pytest.raises(InputError, match=r"c1_seg.*1\.5"):
        check(cases)


def test_nearly_whole_labels(cases: dict[str, Case]) -> None:
    mask(Path(str(cases["c1"].label)), (0.9999, 2, 3.0004), dtype=np.float32)
    report = check(cases)["c1"]
    assert report.label_voxels == {1: 4, 2: 4, 3: 4} and report.rewrite == ("label",)
    values, rounded = whole_numbers(Path("x"), np.array([0.0, 1, 4], np.float32))
    assert values.tolist() == [0, 1, 4] and not rounded


def test_region_empty_in_every_case(cases: dict[str, Case]) -> None:
    for case in cases.values():
        mask(Path(str(case.label)), (1, 2))
    with pytest.raises(InputError, match=r"region ET.*label 3 in none of 3 masks"):
        check(cases)
    mask(Path(str(cases["c0"].label)), (1, 2, 3))
    check(cases)


def test_one_image_of_two_patients(cases: dict[str, Case], tmp_path: Path) -> None:
    Path(cases["c1"].images["t1"]).write_bytes(Path(cases["c0"].images["t1"]).read_bytes())
    with pytest.raises(InputError, match="very bytes"):
        check(cases)


def test_hash_changes_with_any_voxel(cases: dict[str, Case]) -> None:
    before = hash_data(check(cases))
    assert before == hash_data(check(cases))
    data = np.asanyarray(nib.load(cases["c0"].images["t1"]).dataobj).copy()
    data[4, 4, 4] += 1
    save(Path(cases["c0"].images["t1"]), data)
    assert hash_data(check(cases)) != before
