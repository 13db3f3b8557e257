"""The average head, its deformation and the grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.datasets.phantom import grids
from mvp_bench.datasets.phantom.anatomy import Atlas, load_atlas
from mvp_bench.datasets.phantom.deformation import Bump, MassEffect, ShapeConfig, random_head
from mvp_bench.datasets.phantom.spline import SmoothField
from mvp_bench.datasets.phantom.tissue import NORMAL


@pytest.fixture(scope="module")
def atlas() -> Atlas:
    return load_atlas(2.0)


def _at(atlas: Atlas, name: str, *point: float) -> float:
    return float(atlas.sample_channel(name, np.array([point], np.float32))[0])


def test_fractions_are_fractions(atlas: Atlas) -> None:
    total = atlas.data[..., : len(NORMAL)].sum(axis=-1, dtype=np.int32)
    assert total.max() <= 255 + len(NORMAL)
    assert atlas.data[0].max() == 0 or total[0].max() < 255  # air at the side of the head


def test_structures_lie_where_they_should(atlas: Atlas) -> None:
    assert _at(atlas, "wm", 24, -30, 30) > 0.8  # centrum semiovale
    assert _at(atlas, "ventricle", 14, -20, 22) > 0.6
    assert _at(atlas, "deep", 26, 4, 2) > 0.5  # putamen
    assert _at(atlas, "infratentorial", 20, -65, -40) > 0.9
    assert _at(atlas, "infratentorial", 0, -26, -32) > 0.9  # pons
    assert _at(atlas, "infratentorial", 20, -85, 5) < 0.1  # occipital lobe
    assert _at(atlas, "infratentorial", 45, -25, -20) < 0.1  # temporal lobe
    assert _at(atlas, "pituitary", 0, 4, -30) > 0.7
    assert _at(atlas, "artery", 0, -10, -30) > 0.4  # basilar
    assert _at(atlas, "vein", 0, -84, -12) > 0.4  # straight sinus
    assert _at(atlas, "choroid", 25, -43, 7) > 0.4
    assert _at(atlas, "medial_temporal", -27, -19, -17) > 0.9
    assert _at(atlas, "csf", 32, 66, -33) > 0.8  # vitreous body
    assert sum(_at(atlas, name, 0, 62, 95) for name in NORMAL) < 0.05  # air above the forehead


def test_volumes_are_human(atlas: Atlas) -> None:
    def litres(*names: str) -> float:
        return sum(float(atlas.channel(n).sum()) for n in names) * 8e-6

    assert 0.9 < litres("gm", "deep") < 1.3
    assert 0.5 < litres("wm") < 0.85
    assert 0.008 < litres("ventricle") < 0.04


def test_trilinear_sampling_is_exact_on_nodes_and_between(atlas: Atlas) -> None:
    axes = atlas.axes()
    i, j, k = 40, 60, 70
    node = np.array([[axes[0][i], axes[1][j], axes[2][k]]], np.float32)
    np.testing.assert_allclose(atlas.sample(node)[0], atlas.data[i, j, k] / 255, atol=1e-5)
    middle = node + np.float32(1.0)
    corners = atlas.data[i : i + 2, j : j + 2, k : k + 2].reshape(8, -1).mean(axis=0) / 255
    np.testing.assert_allclose(atlas.sample(middle)[0], corners, atol=1e-5)
    assert not atlas.sample(np.array([[900.0, 0, 0]], np.float32)).any()


def _smallest_jacobian(head) -> float:  # type: ignore[no-untyped-def]
    axes = tuple(np.arange(a, b, 3.0, dtype=np.float32) for a, b in ((-80, 80), (-115, 85), (-75, 95)))
    field = head.on_grid(axes).astype(np.float64)
    rows = [np.stack(np.gradient(field[..., c], 3.0), axis=-1) for c in range(3)]
    return float(np.linalg.det(np.stack(rows, axis=-2)).min())


@given(
    seed=st.integers(0, 10_000),
    ventricle=st.floats(-2.5, 6.0),
    growth=st.floats(-0.4, 0.3),
    strength=st.floats(0, 0.45),
)
@settings(max_examples=12, deadline=None)
def test_deformation_never_folds(seed: int, ventricle: float, growth: float, strength: float) -> None:
    bumps = (Bump(((26.0, -16.0, -18.0), (-26.0, -16.0, -18.0)), 11.0, growth),)
    head = random_head(np.random.default_rng(seed), ShapeConfig(), ventricle, bumps)
    head.mass = MassEffect((30.0, -20.0, 30.0), 20.0, strength)
    assert _smallest_jacobian(head) > 0.02


def test_displacements_are_millimetres() -> None:
    moved = []
    axes = tuple(np.arange(a, b, 8.0, dtype=np.float32) for a, b in ((-60, 60), (-90, 60), (-50, 70)))
    for seed in range(8):
        config = ShapeConfig(scale_sd=0, aspect_sd=0, rotation_deg=0, shift_mm=0)
        head = random_head(np.random.default_rng(seed), config, 0.0, ())
        x, y, z = np.meshgrid(*axes, indexing="ij")
        moved.append(np.linalg.norm(head.on_grid((axes[0], axes[1], axes[2])) - np.stack([x, y, z], -1), axis=-1))
    assert 1.5 < np.mean(moved) < 5 and np.max(moved) < 15


def test_image_position_inverts_the_map() -> None:
    head = random_head(np.random.default_rng(1), ShapeConfig(), 2.0, ())
    target = (24.0, -40.0, 30.0)
    here = head.image_position(target)
    axes = tuple(np.array([v, v + 1], np.float32) for v in here)
    np.testing.assert_allclose(head.on_lattice((axes[0], axes[1], axes[2]))[0, 0, 0], target, atol=0.1)


def test_smooth_fields_have_unit_variance_and_do_not_depend_on_the_grid() -> None:
    field = SmoothField(np.random.default_rng(0), (-60, -60, -60), (60, 60, 60), 10.0)
    coarse = np.arange(-60, 61, 4, dtype=np.float32)
    fine = np.arange(-60, 61, 2, dtype=np.float32)
    a, b = field.on_grid((coarse, coarse, coarse)), field.on_grid((fine, fine, fine))
    np.testing.assert_allclose(a, b[::2, ::2, ::2], atol=1e-4)
    assert abs(b.mean()) < 0.1 and 0.8 < b.std() < 1.2


@pytest.mark.parametrize(
    ("rule", "spacing", "edges", "shape"),
    [
        (grids.BRATS, 1.0, (1, 1, 1), (240, 240, 155)),
        (grids.BRATS, 2.5, (2.5, 2.5, 2.5), (96, 96, 62)),
        (grids.MRBRAINS, 1.0, (0.958, 0.958, 3.0), (240, 240, 48)),
        (grids.MRBRAINS, 2.5, (2.395, 2.395, 6.0), (96, 96, 24)),
        (grids.ISLES_THIN, 1.0, (2, 2, 2), (112, 112, 73)),
        (grids.ISLES_THICK, 1.0, (1.8, 1.8, 4.8), (128, 128, 30)),
        (grids.ISLES_THICK, 2.5, (2.25, 2.25, 6.0), (102, 102, 24)),
        (grids.SAGITTAL_T1, 1.0, (1.2, 1, 1), (160, 240, 240)),
    ],
)
def test_grids_follow_the_release(rule, spacing, edges, shape) -> None:  # type: ignore[no-untyped-def]
    grid = rule.grid(spacing)
    assert grid.edges == pytest.approx(edges) and grid.shape == shape


@pytest.mark.parametrize("rule", [grids.BRATS, grids.SAGITTAL_T1, grids.ISLES_THIN, grids.VS])
def test_storing_keeps_the_geometry(rule) -> None:  # type: ignore[no-untyped-def]
    import nibabel as nib

    grid = rule.grid(8.0)
    values = np.arange(np.prod(grid.shape), dtype=np.int16).reshape(grid.shape)
    image = grid.image(values)
    assert nib.aff2axcodes(image.affine) == tuple(rule.orientation)
    back = nib.as_closest_canonical(image)
    np.testing.assert_array_equal(np.asanyarray(back.dataobj), values)
    np.testing.assert_allclose(back.header.get_zooms(), grid.edges, rtol=1e-5)
    if rule.origin is None:
        np.testing.assert_allclose(back.affine[:3, 3], [a[0] for a in grid.axes], atol=1e-4)
