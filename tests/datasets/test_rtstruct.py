"""Structure sets: which structure, and that its mask is where the contours are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from scipy.spatial.transform import Rotation

from mvp_bench.datasets.geometry.volumes import Grid, write_volume
from mvp_bench.datasets.reading.dicom import find_series, read_series
from mvp_bench.datasets.reading.rtstruct import (
    Structure,
    choose_structure,
    draw_structure,
    read_structure,
    read_structure_set,
)
from mvp_bench.errors import InputError

from .layouts.dicom import dicom_series, uid
from .layouts.rtstruct import circle, rtstruct
from .releases import truncate

FILE = Path("structures.dcm")
LPS = np.diag([-1.0, -1, 1, 1])


def grid(shape: tuple[int, int, int] = (40, 44, 20), spacing: tuple[float, float, float] = (0.8, 0.8, 1.5)) -> Grid:
    """Axial slices as DICOM gives them: columns to the left, rows to the back, slices upwards."""
    affine = LPS @ np.diag([*spacing, 1])
    affine[:3, 3] = LPS[:3, :3] @ [-12.3, -14.1, -9]
    return Grid(shape, affine)


def lps(points: np.ndarray, where: Grid) -> np.ndarray:
    """Voxel indices -> LPS mm."""
    return (points @ where.affine[:3, :3].T + where.affine[:3, 3]) * (-1, -1, 1)


@pytest.mark.parametrize("radius", [6.0, 9.5])
def test_a_sphere_has_its_volume(radius: float) -> None:
    where = grid(spacing=(0.4, 0.4, 1.5), shape=(64, 64, 20))
    centre = lps(np.array([31.3, 30.6, 9.0]), where)
    heights = lps(np.stack([np.zeros(20), np.zeros(20), np.arange(20)], 1), where)[:, 2]
    contours = [
        circle((*centre[:2], z), np.sqrt(radius**2 - (z - centre[2]) ** 2))
        for z in heights
        if abs(z - centre[2]) < radius
    ]
    mask = draw_structure(FILE, Structure("AN", tuple(contours)), where)
    drawn = sum(np.pi * (radius**2 - (z - centre[2]) ** 2) for z in heights if abs(z - centre[2]) < radius)
    assert mask.sum() * where.voxel_ml * 1000 == pytest.approx(drawn * 1.5, rel=0.01)
    assert mask.sum() * where.voxel_ml * 1000 == pytest.approx(4 / 3 * np.pi * radius**3, rel=0.03)
    at = lps(np.argwhere(mask).astype(float), where)
    assert np.allclose(at.mean(0), centre, atol=0.1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.permutations([0, 1, 2]), st.booleans())
def test_any_polygon_in_any_orientation_voxel_by_voxel(seed: int, order: list[int], oblique: bool) -> None:
    """Compared with a test of every voxel centre by itself; slices may lie along any array axis."""
    rng = np.random.default_rng(seed)
    shape = np.array([17, 19, 6])[order]
    affine = np.eye(4)
    affine[:3, :3] = np.diag(rng.uniform(0.5, 2, 3) * rng.choice([-1, 1], 3))
    if oblique:
        affine[:3, :3] = Rotation.random(random_state=seed).as_matrix() @ affine[:3, :3]
    affine[:3, 3] = rng.uniform(-50, 50, 3)
    where = Grid(tuple(int(n) for n in shape), affine)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 9))
    outline = [9, 9] + np.stack([np.cos(angles), np.sin(angles)], 1) * rng.uniform(2, 7, (9, 1))
    points = np.insert(outline, 2, 3 + rng.uniform(-0.3, 0.3), axis=1)[:, order]
    mask = draw_structure(FILE, Structure("TV", (lps(points, where),)), where)
    slices = np.moveaxis(mask, order.index(2), 0)
    in_plane = np.delete(points, order.index(2), axis=1)
    centres = np.argwhere(np.ones(slices.shape[1:]))
    expected = Outline(in_plane).contains_points(centres, radius=1e-9).reshape(slices.shape[1:])
    assert np.array_equal(slices[3].astype(bool), expected) and slices.sum() == expected.sum()


def square(low: float, high: float, height: float = 4.0) -> np.ndarray:
    """Voxel indices of a square around the pixels between two bounds."""
    return np.array([[low, low, height], [high, low, height], [high, high, height], [low, high, height]])


def test_an_inner_contour_is_a_hole_and_an_island_in_it_is_not() -> None:
    where = grid()
    contours = tuple(lps(square(5 + 4 * i - 0.5, 30 - 4 * i + 0.5), where) for i in range(3))
    mask = draw_structure(FILE, Structure("TV", contours), where)
    assert mask.sum() == 26**2 - 18**2 + 10**2
    assert (mask[:, 17, 4][[5, 8, 9, 12, 13, 20]] == [1, 1, 0, 0, 1, 1]).all()


def test_contours_off_the_planes_belong_to_the_nearest_slice_and_add_up() -> None:
    where = grid()
    contours = tuple(lps(square(9.5, 12.5, height), where) for height in (3.7, 4.0, 4.3, 5.4))
    mask = draw_structure(FILE, Structure("TV", contours), where)
    assert [int(n) for n in mask.sum((0, 1))[3:7]] == [0, 9, 9, 0]


@pytest.mark.parametrize(
    ("points", "found"),
    [
        (square(5, 9, 19.8), "at slice 19.8 of an image with slices 0 to 19"),
        (square(5, 9, -0.7), "at slice -0.7"),
        (square(5, 9) + np.array([[0, 0, 0], [0, 0, 1.5], [0, 0, 1.5], [0, 0, 0]]), "across 1.5 slices"),
        (square(100, 109), "around no voxel"),
    ],
)
def test_contours_of_another_image(points: np.ndarray, found: str) -> None:
    where = grid()
    with pytest.raises(InputError, match=found):
        draw_structure(FILE, Structure("TV", (lps(points, where),)), where)


def test_the_first_structure_with_contours_unless_named(tmp_path: Path) -> None:
    contours = [circle((0, 0, 0), 5)]
    path = rtstruct(tmp_path / "rs.dcm", {"Skull": [], "AN": contours, "cochlea": contours * 2}, series="one")
    found = read_structure_set(path)
    assert [item.name for item in found.structures] == ["AN", "cochlea"] and found.series == (uid("one"),)
    assert choose_structure(path, found.structures).name == "AN"
    assert choose_structure(path, found.structures, "COCH.*").name == "cochlea"
    with pytest.raises(InputError, match="the structures AN, cochlea; expected one called TV"):
        choose_structure(path, found.structures, "TV")


def test_points_and_open_lines_are_no_structure(tmp_path: Path) -> None:
    path = rtstruct(tmp_path / "rs.dcm", {"AN": [circle((0, 0, 0), 5)]}, kind="POINT")
    with pytest.raises(InputError, match="none with closed contours"):
        choose_structure(path, read_structure_set(path).structures)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "image", "missing", "odd"])
def test_files_that_are_no_structure_set(tmp_path: Path, damage: str) -> None:
    path = rtstruct(tmp_path / "rs.dcm", {"AN": [circle((0, 0, 0), 5)]})
    if damage == "truncated":
        truncate(path, 0.5)
    elif damage == "image":
        (path,) = dicom_series(tmp_path, np.ones((4, 4, 1)))
    elif damage == "missing":
        path.unlink()
    elif damage == "odd":
        rtstruct(path, {"AN": [np.arange(7.0)]})
    else:
        path.write_text("" if damage == "empty" else "LICENSE")
    with pytest.raises(InputError, match="no readable structure set"):
        read_structure_set(path)


@pytest.mark.parametrize("cosines", [[[1, 0, 0], [0, 1, 0]], [[0, 1, 0], [0, 0, -1]], [[1, 0, 0], [0, 0.96, -0.28]]])
def test_the_mask_lies_where_the_image_is_bright(tmp_path: Path, cosines: list) -> None:
    """A cylinder along the slices, bright in the images and contoured from its coordinates, in three orientations."""
    cosines = np.array(cosines, dtype=float)
    origin, spacing = np.array([-20.0, 13, 7]), np.array([0.9, 0.9, 2.0])
    axes = np.stack([*cosines, np.cross(*cosines)], 1) * spacing
    column, row = np.meshgrid(np.arange(30), np.arange(26), indexing="ij")
    disc = np.hypot(column - 14.2, row - 11.7) * 0.9 < 7
    data = np.repeat(np.where(disc, 900, 100)[..., None], 8, axis=2)
    dicom_series(tmp_path / "t1", data, cosines=cosines, origin=origin, spacing=spacing)
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    around = np.stack([14.2 + 7 / 0.9 * np.cos(angle), 11.7 + 7 / 0.9 * np.sin(angle)], 1)
    contours = [origin + np.insert(around, 2, k, axis=1) @ axes.T for k in range(8)]
    path = rtstruct(tmp_path / "rs" / "1-1.dcm", {"tumour": contours})
    image = read_series(tmp_path / "t1", find_series(tmp_path / "t1")[0].uid)
    write_volume(tmp_path / "t1.nii.gz", image.data, image.grid)
    mask = read_structure(path, reference=tmp_path / "t1.nii.gz")
    assert mask.grid.shape == image.grid.shape and np.allclose(mask.grid.affine, image.grid.affine, atol=1e-4)
    assert np.array_equal(mask.data == 1, image.data == 900)
    assert mask.bytes == path.stat().st_size and len(mask.checksum) == 32
