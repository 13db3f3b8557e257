"""Files made anew: headers, units, grids, masks; what is written, and what stays where it is."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.geometry.derive import Derived, TargetOutcome, write_derived
from mvp_bench.datasets.geometry.resampling import from_itk, resample, to_itk
from mvp_bench.datasets.geometry.volumes import Grid, Volume, grid_difference, grid_offset, read_grid, read_volume
from mvp_bench.errors import InputError

from .releases import SHAPE, SRI24, image, mask, save

AXIS_CODES = st.tuples(st.permutations(["RL", "AP", "SI"]), st.tuples(*[st.sampled_from([0, 1])] * 3)).map(
    lambda drawn: "".join(pair[side] for pair, side in zip(*drawn, strict=True))
)
"""All 48 orientations."""


def target(folder: Path, kind: str = "images", name: str = "case_t2") -> Path:
    return folder / "output" / kind / f"{name}.nii.gz"


def data_of(outcome: TargetOutcome) -> np.ndarray:
    return read_volume(Path(str(outcome.path))).data


def oriented(data: np.ndarray, affine: np.ndarray, codes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same image stored in another axis order."""
    change = ornt_transform(nib.io_orientation(affine), axcodes2ornt(codes))
    return nib.apply_orientation(data, change), affine @ inv_ornt_aff(change, data.shape)


def moved(affine: np.ndarray, *mm: float) -> np.ndarray:
    shifted = affine.copy()
    shifted[:3, 3] += mm
    return shifted


# ------------------------------------------------------------------------------------------------------------ headers


def test_drift_and_origin_are_told_apart() -> None:
    affine = np.diag([2.0, 2, 3, 1])
    grid = Grid((10, 11, 12), affine)
    offset = grid_offset(Grid(grid.shape, moved(affine, 3, 0, 4)), grid)
    assert offset is not None and offset.origin_only
    assert offset.mm == pytest.approx(5) and offset.voxels == pytest.approx(2.5)
    turned = affine.copy()
    turned[0, 2] = 0.1  # shear of 0.1 mm per slice over 11 slices
    offset = grid_offset(Grid(grid.shape, turned), grid)
    assert offset is not None and not offset.origin_only and offset.mm == pytest.approx(1.1)
    assert grid_offset(Grid((10, 11, 13), affine), grid) is None
    assert grid_difference(Grid(grid.shape, moved(affine, 0.3, 0, 0)), grid, tolerance=0.2) == ""
    assert "0.3 mm or 0.15 voxels" in grid_difference(Grid(grid.shape, moved(affine, 0.3, 0, 0)), grid)


@pytest.mark.parametrize(
    ("header_if", "shift", "mended"),
    [
        ("drift", (0.3, 0, 0), True),
        ("drift", (0.6, 0, 0), False),
        ("origin", (-120, 110, 68), True),
        ("always", (9, 9, 9), True),
        ("drift", (0.01, 0, 0), False),
    ],
)
def test_header_is_repaired_within_its_rule(
    tmp_path: Path, header_if: str, shift: tuple[float, ...], mended: bool
) -> None:
    reference = image(tmp_path / "t1.nii.gz")
    source = image(tmp_path / "t2.nii.gz", moved(SRI24, *shift))
    derived = Derived(source, target(tmp_path), "image", header=reference, header_if=header_if)  # type: ignore[arg-type]
    (outcome,) = write_derived(derived)
    assert outcome.path == str(derived.target if mended else source)
    assert np.array_equal(data_of(outcome), read_volume(source).data)
    if mended:
        assert np.array_equal(read_grid(derived.target).affine, SRI24)
        assert "origin (off by" in outcome.repair and "t1.nii.gz" in outcome.repair
    else:
        assert outcome.repair == "" and not derived.target.exists()


def test_drift_tolerance_is_the_users(tmp_path: Path) -> None:
    reference, source = image(tmp_path / "t1.nii.gz"), image(tmp_path / "t2.nii.gz", moved(SRI24, 0.6, 0, 0))
    derived = Derived(source, target(tmp_path), "image", header=reference, header_if="drift")
    (outcome,) = write_derived(derived, CheckConfig(drift_tolerance=0.7))
    assert outcome.path == str(derived.target)
    turned = SRI24.copy()
    turned[:2, 0] = -np.cos(0.5), np.sin(0.5)
    other = Derived(image(tmp_path / "pd.nii.gz", turned), target(tmp_path, name="pd"), "image", header=reference)
    assert write_derived(other)[0].repair.startswith("header's position (off by")
    with pytest.raises(InputError, match="8 x 9 x 11 voxels instead of 8 x 9 x 10"):
        write_derived(
            Derived(image(tmp_path / "x.nii.gz", shape=(8, 9, 11)), target(tmp_path), "image", header=reference)
        )


# ------------------------------------------------------------------------------------------------------------- labels


def test_label_values_and_header(tmp_path: Path) -> None:
    source = mask(tmp_path / "seg.nii.gz", (1, 2, 4), moved(SRI24, 0, 0, 0.2), dtype=np.float64)
    reference = image(tmp_path / "t1.nii.gz")
    derived = Derived(source, target(tmp_path, "labels"), "label", label_map={4: 3}, header=reference)
    (outcome,) = write_derived(derived)
    written = read_volume(derived.target)
    assert written.data.dtype == np.uint8 and np.array_equal(written.grid.affine, SRI24)
    assert {int(v): int((written.data == v).sum()) for v in np.unique(written.data) if v} == {1: 4, 2: 4, 3: 4}
    assert outcome.repair.startswith("label values 4 to 3 changed; header's origin")


def test_labels_are_never_resampled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="never resampled"):
        Derived(tmp_path / "seg.nii.gz", target(tmp_path), "label", grid=tmp_path / "t1.nii.gz")


@given(codes=AXIS_CODES, seed=st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_a_label_keeps_voxels_and_place(codes: str, seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("label")
    data, affine = oriented(np.random.default_rng(seed).integers(0, 5, SHAPE).astype(np.int16), SRI24, codes)
    derived = Derived(save(folder / "seg.nii.gz", data, affine), target(folder, "labels"), "label", label_map={4: 3})
    write_derived(derived)
    written = read_volume(derived.target)
    assert np.array_equal(written.data, np.where(data == 4, 3, data)) and np.allclose(written.grid.affine, affine)


# ---------------------------------------------------------------------------------------------------------------- ADC


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1.0])
def test_adc_is_brought_to_one_unit(tmp_path: Path, unit: float) -> None:
    values = np.random.default_rng(0).uniform(500, 1500, SHAPE) * (np.indices(SHAPE)[0] > 3)
    source = save(tmp_path / "adc.nii.gz", (values * unit).astype(np.float64))
    (outcome,) = write_derived(Derived(source, target(tmp_path), "image", unit="adc"))
    assert np.allclose(data_of(outcome), values, rtol=1e-5)
    if unit == 1.0:
        assert outcome.path == str(source) and outcome.repair == ""
    else:
        assert "to 1e-6 mm2/s" in outcome.repair


@pytest.mark.parametrize("median", [30.0, 50_000.0, 0.0, -900.0, 0.03])
def test_adc_of_no_known_unit_is_an_error(tmp_path: Path, median: float) -> None:
    source = image(tmp_path / "adc.nii.gz", fill=median)
    with pytest.raises(InputError, match="found a median of"):
        write_derived(Derived(source, target(tmp_path), "image", unit="adc"))


# -------------------------------------------------------------------------------------------------------------- grids


@given(first=AXIS_CODES, second=AXIS_CODES)
@settings(max_examples=40, deadline=None)
def test_resampling_by_headers_there_and_back(first: str, second: str) -> None:
    """Between any two of the 48 orientations of one grid nothing is lost, and every voxel keeps its place."""
    base = np.random.default_rng(0).normal(size=(5, 6, 7)).astype(np.float32)
    affine = np.array([[0.8, 0.1, 0, -9], [-0.2, 1.5, 0, 4], [0, 0, 3.0, 11], [0, 0, 0, 1]])
    (one, one_affine), (two, two_affine) = oriented(base, affine, first), oriented(base, affine, second)
    a = to_itk(one, Grid(one.shape, one_affine))  # type: ignore[arg-type]
    b = to_itk(np.zeros_like(two), Grid(two.shape, two_affine))  # type: ignore[arg-type]
    there = resample(a, b)
    assert np.allclose(from_itk(there), two, atol=1e-5)
    assert np.allclose(from_itk(resample(there, a)), one, atol=1e-5)


@given(codes=AXIS_CODES, index=st.tuples(*[st.integers(1, 8)] * 3), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_point_keeps_its_place_on_another_grid(codes: str, index: tuple[int, ...], seed: int) -> None:
    """The centre of a blob lies at the same world position, to a tenth of a millimetre, on a tilted, finer grid."""
    data = np.zeros((10, 10, 10), np.float32)
    data[index] = 1.0
    affine = np.diag([2.0, 2, 2, 1])
    stored, stored_affine = oriented(data, affine, codes)
    angle = np.random.default_rng(seed).uniform(-0.4, 0.4)
    fine = np.eye(4)
    fine[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    fine[:3, 3] = -12
    onto = Grid((44, 44, 44), fine)
    result = from_itk(
        resample(
            to_itk(stored, Grid(stored.shape, stored_affine)),  # type: ignore[arg-type]
            to_itk(np.zeros(onto.shape, np.uint8), onto),
        )
    )
    found = np.argwhere(result > 0)
    centre = np.average(found @ fine[:3, :3].T + fine[:3, 3], axis=0, weights=result[result > 0])
    assert np.allclose(centre, affine[:3, :3] @ index, atol=0.1)


def test_outside_the_field_of_view_is_zero(tmp_path: Path) -> None:
    reference = image(tmp_path / "t1.nii.gz")
    source = image(tmp_path / "t2.nii.gz", moved(SRI24, 0, 0, 4), fill=7.0)
    (outcome,) = write_derived(Derived(source, target(tmp_path), "image", grid=reference))
    data = data_of(outcome)
    assert (data[..., :4] == 0).all() and np.allclose(data[..., 4:], 7)
    assert grid_difference(read_grid(Path(str(outcome.path))), read_grid(reference)) == ""
    assert "by the headers, not registered" in outcome.repair


def test_nothing_to_do_leaves_the_file_where_it_is(tmp_path: Path) -> None:
    reference, source = image(tmp_path / "t1.nii.gz"), image(tmp_path / "t2.nii.gz")
    derived = Derived(source, target(tmp_path), "image", grid=reference, align="rigid")
    assert write_derived(derived) == [TargetOutcome(str(source), str(derived.target), str(source))]
    assert not derived.target.exists()
    work = image(tmp_path / "output" / "work" / "t2.nii.gz")  # thrown away in the end
    (outcome,) = write_derived(Derived(work, target(tmp_path), "image", grid=reference))
    assert outcome == TargetOutcome(str(work), str(target(tmp_path)), str(target(tmp_path)))
    assert np.array_equal(data_of(outcome), read_volume(work).data)
    (outcome,) = write_derived(Derived(source, target(tmp_path, "work"), "image", grid=reference))
    assert outcome.path == str(target(tmp_path, "work"))


def test_mask_is_applied_on_the_final_grid(tmp_path: Path) -> None:
    reference = image(tmp_path / "t1.nii.gz")
    brain = np.zeros(SHAPE, np.float32)
    brain[2:6, 2:6, 2:6] = 0.99999997
    source = image(tmp_path / "t2.nii.gz", moved(SRI24, 0, 0, 1), fill=-3.0)
    derived = Derived(source, target(tmp_path), "image", grid=reference, mask=save(tmp_path / "mask.nii.gz", brain))
    (outcome,) = write_derived(derived)
    assert np.array_equal(data_of(outcome), np.where(brain > 0, np.float32(-3), 0))
    assert outcome.repair.endswith("set to 0 outside the brain mask mask.nii.gz")


def test_a_release_s_own_transform_and_a_companion(tmp_path: Path) -> None:
    """The file maps points of the reference to points of the source, in LPS."""
    points = np.indices((24, 26, 28)) - np.array([12, 13, 14])[:, None, None, None]
    head = (np.linalg.norm(points, axis=0) < 9) * (200 + 20 * points[0] + 5 * points[2]).astype(np.float32)
    affine = np.diag([2.0, 2, 2, 1])
    reference = save(tmp_path / "t1.nii.gz", head, affine)
    source = save(tmp_path / "t2.nii.gz", head, moved(affine, 6, 0, -4))
    other = save(tmp_path / "pd.nii.gz", head * 2, moved(affine, 6, 0, -4))
    sitk.WriteTransform(sitk.TranslationTransform(3, (-6.0, 0.0, -4.0)), str(tmp_path / "t1_to_t2.tfm"))
    derived = Derived(
        source,
        target(tmp_path),
        "image",
        grid=reference,
        transform=tmp_path / "t1_to_t2.tfm",
        companions=((other, target(tmp_path, name="case_pd")),),
    )
    first, second = write_derived(derived)
    assert np.allclose(data_of(first), head, atol=1e-3) and np.allclose(data_of(second), 2 * head, atol=1e-3)
    assert "own transform t1_to_t2.tfm" in first.repair and first.refused == ""
    assert second.source == str(other)
    (tmp_path / "t1_to_t2.tfm").write_text("no transform")
    with pytest.raises(InputError, match="ITK transform"):
        write_derived(derived)


# ------------------------------------------------------------------------------------------------------------ readers


def _doubled(path: Path, *, factor: float) -> Volume:
    volume = read_volume(path)
    return Volume(volume.data * factor, volume.grid, volume.checksum, volume.bytes)


def test_reader(tmp_path: Path) -> None:
    source = image(tmp_path / "t2.nii.gz")
    derived = Derived(
        source,
        target(tmp_path),
        "image",
        reader=partial(_doubled, factor=2),
        done="values doubled",
        header=source,
        header_if="drift",
    )
    (outcome,) = write_derived(derived)
    assert outcome.repair == "values doubled" and outcome.path == str(derived.target)
    assert np.allclose(data_of(outcome), 2 * read_volume(source).data)
