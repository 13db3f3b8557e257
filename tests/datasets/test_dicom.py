"""DICOM series: found by headers, sorted by position, read with their geometry and values."""

from __future__ import annotations

import pickle
import re
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from scipy.spatial.transform import Rotation

from mvp_bench.datasets.reading.dicom import find_series, read_series
from mvp_bench.errors import InputError

from .layouts.dicom import AXIAL, dicom_series, uid

LPS_TO_RAS = np.diag([-1, -1, 1])


def stored(shape: tuple[int, int, int] = (7, 6, 5)) -> np.ndarray:
    return np.random.default_rng(0).integers(-500, 1000, shape)


MM = st.floats(0.4, 4.0)
OFFSET = st.floats(-300, 300)


@settings(max_examples=25, deadline=None)
@given(
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
    origin=st.tuples(OFFSET, OFFSET, OFFSET),
    spacing=st.tuples(MM, MM, MM),
    slope=st.floats(0.01, 10),
    intercept=st.floats(-1000, 1000),
)
def test_round_trip(turn: tuple, origin: tuple, spacing: tuple, slope: float, intercept: float) -> None:
    """Every voxel's world position (mm) and value, whatever the orientation."""
    cosines = AXIAL @ Rotation.from_euler("xyz", turn, degrees=True).as_matrix().T
    axes = np.column_stack([*cosines, np.cross(*cosines)]) * spacing
    data = stored()
    with TemporaryDirectory() as folder:
        geometry = {"cosines": cosines, "origin": origin, "spacing": spacing}
        dicom_series(Path(folder), data, slope=slope, intercept=intercept, **geometry)
        volume = read_series(Path(folder), uid("series"))
    assert volume.data.dtype == np.float32 and volume.data.shape == volume.grid.shape == data.shape
    np.testing.assert_allclose(volume.grid.affine[:3, 3], LPS_TO_RAS @ origin, atol=1e-3)
    np.testing.assert_allclose(volume.grid.affine[:3, :3], LPS_TO_RAS @ axes, atol=1e-5)
    np.testing.assert_allclose(volume.data, data * slope + intercept, rtol=1e-6, atol=1e-3)


def test_slices_are_sorted_by_position_and_names_do_not_matter(tmp_path: Path) -> None:
    dicom_series(tmp_path / "a", stored())
    dicom_series(tmp_path / "b", stored(), name=lambda index: f"IM{(index * 3) % 5}")
    (series,) = find_series(tmp_path / "b")
    assert [path.name for path in series.files] == ["IM0", "IM3", "IM1", "IM4", "IM2"]
    one, other = (read_series(tmp_path / name, uid("series")) for name in "ab")
    assert np.array_equal(one.data, other.data) and np.array_equal(one.data, stored())
    assert one.checksum == other.checksum and one.bytes == other.bytes > 5 * 84


def test_facts_and_what_is_passed_over(tmp_path: Path) -> None:
    """Two series in one folder, one spread over two folders, LICENSE files, litter and an index."""
    folder = tmp_path / "study" / "1"
    dicom_series(folder, stored(), series="t1", patient="P-1", description="t1_mpr_tra", date="20060418")
    dicom_series(folder, stored(), series="t2", patient="P-1", description="t2_ci3d", name="2-{}.dcm".format)
    for path in sorted(folder.glob("2-*"))[:2]:
        (tmp_path / "study" / "2").mkdir(exist_ok=True)
        path.rename(tmp_path / "study" / "2" / path.name)
    for name in ("LICENSE", "._1-000.dcm", "x.csv"):
        (folder / name).write_text("text")
    (folder / "empty").touch()
    one, two = find_series(tmp_path)
    assert (one.patient_id, one.modality, one.description, one.date) == ("P-1", "MR", "t1_mpr_tra", "2006-04-18")
    assert one.uid == uid("t1") and one.study_uid == two.study_uid == uid("P-1", "20060418")
    assert one.folder == folder and len(one.files) == 5 and two.folder == tmp_path / "study" and len(two.files) == 5
    assert not one.fault and not two.fault
    assert np.array_equal(read_series(two.folder, two.uid).data, stored())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", r"slices 2 and 3 of 4 2\.6 mm apart instead of 1\.3 mm: 1 missing"),
        ("moved", r"slices 4 and 5 of 5 1\.5 mm apart instead of 1\.3 mm$"),
        ("repeated", "5 slices at a place that another one has"),
        ("turned", "several directions"),
        ("resized", "slices of 2 sizes"),
        ("sheared", r"shifted sideways.* 0\.5 mm"),
        ("nowhere", "1 of 5 slices without position"),
        ("single", "a single slice"),
        ("enhanced", "multi-frame"),
    ],
)
def test_series_that_are_no_volume(tmp_path: Path, fault: str, message: str) -> None:
    paths = dicom_series(tmp_path, stored(), spacing=(1, 1, 1.3), skip=(2,) if fault == "missing" else ())
    if fault == "repeated":
        dicom_series(tmp_path, stored(), spacing=(1, 1, 1.3), name="again{}".format)
    if fault == "single":
        for path in paths[1:]:
            path.unlink()
    last = dcmread(paths[0 if fault == "single" else -1])
    match fault:
        case "moved":
            last.ImagePositionPatient[2] += 0.2
        case "sheared":
            last.ImagePositionPatient[0] += 0.5
        case "turned":
            last.ImageOrientationPatient = [0, 1, 0, 0, 0, 1]
        case "resized":
            last.PixelSpacing = [1.1, 1]
        case "nowhere":
            del last.ImagePositionPatient
        case "enhanced":
            last.NumberOfFrames = 3
    last.save_as(last.filename)
    (series,) = find_series(tmp_path)
    assert series.files and re.search(message, series.fault)
    with pytest.raises(InputError, match=re.escape(series.fault)):
        read_series(tmp_path, series.uid)


def test_objects_without_pixels(tmp_path: Path) -> None:
    """A structure set is a series of one file; that it has no slices is no fault."""
    (path, *others) = dicom_series(tmp_path, stored(), series="structures", description="RTSS")
    for other in others:
        other.unlink()
    header = dcmread(path)
    header.Modality = "RTSTRUCT"
    for name in ("Rows", "Columns", "PixelData", "ImagePositionPatient", "ImageOrientationPatient"):
        delattr(header, name)
    header.save_as(path)
    (series,) = find_series(tmp_path)
    assert series.modality == "RTSTRUCT" and series.files == (path,) and not series.fault


@pytest.mark.parametrize("keep", [0.2, 0.5, 0.97])
def test_truncated_slice(tmp_path: Path, keep: float) -> None:
    paths = dicom_series(tmp_path, stored((32, 32, 5)))
    paths[2].write_bytes(paths[2].read_bytes()[: int(paths[2].stat().st_size * keep)])
    with pytest.raises(InputError, match=r"missing|1-002\.dcm"):
        read_series(tmp_path, uid("series"))


def test_which_series(tmp_path: Path) -> None:
    dicom_series(tmp_path / "one", stored())
    assert np.array_equal(read_series(tmp_path / "one").data, stored())
    with pytest.raises(InputError, match=r"found 0 series 1\.2"):
        read_series(tmp_path, "1.2")
    dicom_series(tmp_path / "two", stored(), series="other")
    with pytest.raises(InputError, match="found 2 DICOM series"):
        read_series(tmp_path)
    mixed = dicom_series(tmp_path / "two", stored() + 1, series="third", name="{}.dcm".format)
    assert np.array_equal(read_series(mixed[3]).data, stored() + 1)
    with pytest.raises(InputError, match=r"LICENSE: found 0 DICOM series"):
        read_series(tmp_path / "two" / "LICENSE")


def test_reader_travels_to_worker_processes(tmp_path: Path) -> None:
    dicom_series(tmp_path, stored())
    reader = pickle.loads(pickle.dumps(partial(read_series, series_uid=uid("series"))))
    assert np.array_equal(reader(tmp_path).data, stored())
