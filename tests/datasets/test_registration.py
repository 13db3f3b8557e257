"""Rigid registration: known offsets between phantom modalities are found, the hopeless is refused."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage
from scipy.spatial.transform import Rotation

from mvp_bench.config.groups import RegistrationConfig
from mvp_bench.datasets.geometry.derive import Derived, write_derived
from mvp_bench.datasets.geometry.registration import Registration, register
from mvp_bench.datasets.geometry.resampling import from_itk, resample, to_itk
from mvp_bench.datasets.geometry.volumes import Grid, Volume, grid_difference, read_grid, read_volume, write_volume
from mvp_bench.datasets.phantom.cohorts import cohort_of
from mvp_bench.datasets.phantom.subject import make_subject
from mvp_bench.parallel import run_all, worker_pool

CONFIG = RegistrationConfig()
QUICK = RegistrationConfig(search_degrees=(0.0,), starts=1)
IXI, ISLES, UCSF, VSSEG = 525, 503, 524, 506
LPS = np.diag([-1.0, -1.0, 1.0])
OPENMS = Path(__file__).resolve().parents[3] / "shared" / "realdata" / "openms" / "patient07"


@cache
def subject(dataset: int, index: int = 0) -> dict[str, Volume]:
    made = make_subject(cohort_of(dataset), 3.0, 7, index)
    images = {name: made.grid.image(data) for name, data in made.images.items()}
    return {name: volume(np.asarray(item.dataobj), item.affine) for name, item in images.items()}


def volume(data: np.ndarray, affine: np.ndarray) -> Volume:
    return Volume(data.astype(np.float32), Grid(data.shape, affine), "", 0)  # type: ignore[arg-type]


def misplaced(item: Volume, degrees: tuple[float, ...], mm: tuple[float, ...]) -> tuple[Volume, np.ndarray]:
    """The same voxels under another header: turned about the middle of the volume, then shifted; and the 4x4 motion."""
    centre = (item.grid.affine @ [*(np.array(item.grid.shape) - 1) / 2, 1])[:3]
    motion = np.eye(4)
    motion[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    motion[:3, 3] = centre - motion[:3, :3] @ centre + mm
    return volume(item.data, motion @ item.grid.affine), motion


def mean_error(found: Registration, motion: np.ndarray, fixed: Volume) -> float:
    """Mean distance in mm between where the transform and the true motion put the points of the head."""
    points = np.argwhere(fixed.data > 0)[::23] @ fixed.grid.affine[:3, :3].T + fixed.grid.affine[:3, 3]
    put = np.array([found.transform.TransformPoint(point) for point in points @ LPS]) @ LPS
    return float(np.linalg.norm(put - (points @ motion[:3, :3].T + motion[:3, 3]), axis=1).mean())


@pytest.mark.parametrize(
    ("dataset", "index", "moving", "fixed", "degrees", "mm"),
    [
        (IXI, 0, "t2", "t1", (20, 20, 20), (20, -20, 20)),
        (IXI, 0, "mra", "t1", (7, -20, 11), (-12, 20, 5)),
        (ISLES, 1, "flair", "dwi", (-20, -20, 20), (20, 20, -20)),
        (ISLES, 2, "dwi", "flair", (0, 20, 0), (-20, 0, 0)),
        (UCSF, 0, "t1c", "t2", (20, -20, -20), (-20, -20, -20)),
        (VSSEG, 0, "t2", "t1c", (-5, 9, 20), (3, 17, -8)),
    ],
)
def test_offsets_are_recovered(
    dataset: int, index: int, moving: str, fixed: str, degrees: tuple[float, ...], mm: tuple[float, ...]
) -> None:
    images = subject(dataset, index)
    moved, motion = misplaced(images[moving], degrees, mm)
    found = register(moved, images[fixed], CONFIG)
    assert found.refused(CONFIG) == ""
    assert mean_error(found, motion, images[fixed]) < 1.0
    assert found.overlap_after > found.overlap_before and found.information_after > found.information_before
    assert found.turned_degrees == pytest.approx(np.degrees(Rotation.from_matrix(motion[:3, :3]).magnitude()), abs=1.0)


def _noise(like: Volume) -> np.ndarray:
    return np.random.default_rng(0).uniform(0, 100, like.data.shape)


def _noise_in_the_head(like: Volume) -> np.ndarray:
    blurred = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=like.data.shape), 3)
    return (blurred - blurred.min() + 0.05) * (like.data > 0)


def _ball(like: Volume) -> np.ndarray:
    places = np.indices(like.data.shape) - (np.array(like.data.shape)[:, None, None, None] - 1) / 2
    distance = np.linalg.norm(places * like.grid.voxel_mm[:, None, None, None], axis=0)
    return (distance < 75) * (500 + 300 * np.sin(distance / 6))


def _nothing(like: Volume) -> np.ndarray:
    return np.zeros(like.data.shape)


@pytest.mark.parametrize(
    ("content", "config"), [(_noise, QUICK), (_noise_in_the_head, QUICK), (_ball, CONFIG), (_nothing, CONFIG)]
)
def test_the_hopeless_is_refused(content: Callable[[Volume], np.ndarray], config: RegistrationConfig) -> None:
    fixed = subject(UCSF)["t1"]
    moving, _ = misplaced(volume(content(fixed), fixed.grid.affine), (5, 0, 0), (8, 0, 0))
    assert register(moving, fixed, config).refused(config).startswith("registration refused: ")


def test_tiny_volumes_do_not_stop_anything() -> None:
    generator = np.random.default_rng(0)
    one, two = (volume(generator.uniform(1, 100, (8, 9, 10)), np.diag([1.0, 1, 1, 1])) for _ in range(2))
    assert register(one, two, CONFIG).refused(CONFIG)


def test_a_good_header_is_not_made_worse() -> None:
    images = subject(UCSF)
    found = register(images["flair"], images["t1"], CONFIG)
    assert found.refused(CONFIG) or mean_error(found, np.eye(4), images["t1"]) < 1.0


def _written(folder: Path, name: str, item: Volume) -> Path:
    write_volume(folder / f"{name}.nii.gz", item.data, item.grid)
    return folder / f"{name}.nii.gz"


def _planned(folder: Path, moving: Volume, fixed: Volume, *companions: Volume) -> Derived:
    others = [_written(folder, f"other{number}", item) for number, item in enumerate(companions)]
    return Derived(
        _written(folder, "t2", moving),
        folder / "output" / "images" / "case_t2.nii.gz",
        "image",
        grid=_written(folder, "t1", fixed),
        align="rigid",
        companions=tuple((path, folder / "output" / "images" / path.name) for path in others),
    )


def test_companions_follow(tmp_path: Path) -> None:
    """T2 and PD are two echoes of one acquisition: what is found for the T2 moves both."""
    images = subject(IXI, 1)
    moved, companion = (misplaced(images[name], (4, -6, 15), (10, -4, 12))[0] for name in ("t2", "pd"))
    outcomes = write_derived(_planned(tmp_path, moved, images["t1"], companion), registration=QUICK)
    for outcome, name in zip(outcomes, ("t2", "pd"), strict=True):
        assert outcome.refused == "" and "after rigid registration (moved" in outcome.repair
        written = read_volume(Path(str(outcome.path)))
        assert grid_difference(written.grid, images["t1"].grid) == ""
        inside = ndimage.binary_erosion(images[name].data > 0, iterations=3)
        assert np.corrcoef(written.data[inside], images[name].data[inside])[0, 1] > 0.8


def test_the_result_does_not_depend_on_the_workers(tmp_path: Path) -> None:
    images = subject(ISLES, 1)
    moved, _ = misplaced(images["flair"], (3, -8, 12), (4, 9, -6))
    jobs = [_planned(tmp_path / name, moved, images["dwi"]) for name in ("one", "two", "three")]
    make = partial(write_derived, registration=QUICK)
    with worker_pool(2) as pool:
        run_all(pool, make, jobs[:2], "register")
    make(jobs[2])
    first, second, third = (job.target.read_bytes() for job in jobs)
    assert first == second == third


def test_refused_ones_are_placed_by_the_headers_or_left_out(tmp_path: Path) -> None:
    fixed = subject(UCSF)["t1"]
    noise = volume(_noise_in_the_head(fixed), fixed.grid.affine)
    near, _ = misplaced(noise, (0, 0, 0), (6, 0, 0))
    (outcome,) = write_derived(_planned(tmp_path / "near", near, fixed), registration=QUICK)
    assert outcome.path and outcome.refused.startswith("registration refused: nothing in common")
    assert "by the headers, as the registration was refused" in outcome.repair
    assert grid_difference(read_grid(Path(outcome.path)), fixed.grid) == ""
    far, _ = misplaced(noise, (0, 0, 0), (150, 0, 0))
    (outcome,) = write_derived(_planned(tmp_path / "far", far, fixed), registration=QUICK)
    assert outcome.path is None and "by the headers the overlap is only 0.00" in outcome.refused
    assert not Path(outcome.target).exists()


@pytest.mark.skipif(not OPENMS.is_dir(), reason=f"real scans are not at {OPENMS}")
@pytest.mark.parametrize("modality", ["T2", "FLAIR"])
def test_real_scans_are_brought_back(modality: str) -> None:
    """Co-registered scans of a patient at 1 mm, one of them turned by 20 degrees and moved by 18 mm."""
    fixed, still = (read_volume(OPENMS / f"{name}.nii.gz") for name in ("T1", modality))
    image = to_itk(still.data.astype(np.float32), still.grid)
    middle = image.TransformContinuousIndexToPhysicalPoint([size / 2 for size in image.GetSize()])
    offset = sitk.Euler3DTransform(middle, *np.radians([12, -8, 15]), (10, -12, 8))
    moved = Volume(from_itk(resample(image, image, offset)), still.grid, "", 0)
    result = register(moved, fixed, RegistrationConfig())
    assert not result.refused(RegistrationConfig())
    places = itertools.product((-40, 0, 40), (-60, 0, 40), (-20, 20, 50))
    errors = [np.subtract(offset.TransformPoint(result.transform.TransformPoint(p)), p) for p in places]
    assert np.linalg.norm(errors, axis=1).mean() < 1
