"""Templates afterwards: found again by position, put where a modality is missing."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.models.record import EncoderRecord, read_record
from mvp_bench.models.templates import Template, fill_missing, frame_of, load_templates, on_grid
from tests.models.foreign import make_run

SHAPE = (6, 8, 10)
"""Of the case (z, y, x)."""


def diagonal(spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    """Affine of (x, y, z)."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = origin
    return affine


def ramp(shape: tuple[int, int, int], affine: np.ndarray) -> np.ndarray:
    """A volume (z, y, x) whose value is 1 x + 10 y + 100 z of each voxel's position in mm."""
    z, y, x = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    place = np.einsum("ij,jzyx->izyx", affine, np.stack([x, y, z, np.ones_like(x)]))
    return (place[0] + 10 * place[1] + 100 * place[2]).astype(np.float32)


@pytest.fixture
def record(tmp_path: Path) -> EncoderRecord:
    make_run(tmp_path / "run")
    return read_record(tmp_path / "run")


@settings(max_examples=25, deadline=None)
@given(
    spacing=st.tuples(*[st.floats(0.5, 2.0)] * 3),
    origin=st.tuples(*[st.floats(-5, 5)] * 3),
)
def test_position_decides_whatever_the_grids(spacing, origin) -> None:
    """Linear in space, the template gives each voxel of the case its own position's value."""
    where = diagonal((1.5, 0.8, 1.2), (-25.0, -20.0, -15.0))
    template = Template(ramp((50, 80, 40), where), where)
    case = diagonal(spacing, origin)
    volume, inside = on_grid(template, case, SHAPE)
    assert inside.any()
    assert np.allclose(volume[inside], ramp(SHAPE, case)[inside], atol=5e-2)
    assert not volume[~inside].any()


def test_centre_frame_ignores_the_world() -> None:
    where = diagonal((1, 1, 1), (-10.0, -10.0, -10.0))
    template = Template(ramp((21, 21, 21), where), where)
    near, _ = on_grid(template, diagonal((1, 1, 1), (0, 0, 0)), SHAPE, "centre")
    far, inside = on_grid(template, diagonal((1, 1, 1), (500, -70, 3)), SHAPE, "centre")
    assert inside.all() and np.array_equal(near, far)
    assert np.allclose(near, ramp(SHAPE, diagonal((1, 1, 1), (-4.5, -3.5, -2.5))), atol=1e-3)
    assert not on_grid(template, diagonal((1, 1, 1), (500, -70, 3)), SHAPE)[1].any()


def case(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (t1, flair, t2) with flair missing, and the brain."""
    generator = np.random.default_rng(seed)
    brain = np.zeros(SHAPE, bool)
    brain[1:5, 1:7, 2:9] = True
    images = np.zeros((3, *SHAPE), np.float32)
    images[[0, 2]] = np.where(brain, generator.normal(size=SHAPE), 0)
    return images, brain


def test_missing_modality_is_filled_inside_the_brain(record: EncoderRecord) -> None:
    images, brain = case()
    affine = diagonal((1, 1, 1), (3, 4, 5))
    templates = {"flair": Template(ramp(SHAPE, affine), affine)}
    filled = fill_missing(images, ["t1", "flair", "t2"], ["t1", "t2"], affine, templates, record)
    assert np.array_equal(filled[[0, 2]], images[[0, 2]]) and not images[1].any()
    assert np.allclose(filled[1], np.where(brain, ramp(SHAPE, affine), 0), atol=1e-4)


def test_unit_templates_become_z_scores(record: EncoderRecord) -> None:
    images, brain = case()
    affine = diagonal((1, 1, 1), (3, 4, 5))
    unit = ramp(SHAPE, affine) / 1000
    templates = {"flair": Template(unit, affine)}
    stated = record.model_copy(update={"intensity": "unit"})
    filled = fill_missing(images, ["t1", "flair", "t2"], ["t1", "t2"], affine, templates, stated)
    values = filled[1][brain]
    assert abs(values.mean()) < 1e-4 and abs(values.std() - 1) < 1e-4
    assert np.corrcoef(values, unit[brain])[0, 1] > 0.999 and not filled[1][~brain].any()


def test_outside_the_templates_grid_nothing_is_claimed(record: EncoderRecord) -> None:
    images, brain = case()
    half = Template(np.ones((3, 8, 10), np.float32), np.eye(4))
    filled = fill_missing(images, ["t1", "flair", "t2"], ["t1", "t2"], np.eye(4), {"flair": half}, record)
    assert np.array_equal(filled[1] != 0, brain & (np.arange(6) < 3)[:, None, None])


def test_without_a_template_it_stays_empty(record: EncoderRecord) -> None:
    images, _ = case()
    channels = ["t1", "flair", "t2"]
    assert np.array_equal(fill_missing(images, channels, ["t1", "t2"], np.eye(4), {}, record), images)
    with pytest.raises(InputError, match="template of mae"):
        fill_missing(images, channels, ["t1", "t2"], np.eye(4), {}, record, ["flair"])
    with pytest.raises(InputError, match="modality of the case"):
        fill_missing(images, channels, ["t1", "t2"], np.eye(4), {}, record, ["pd"])
    with pytest.raises(InputError, match="no modality"):
        fill_missing(images, channels, [], np.eye(4), {}, record)


def test_files_are_read_in_our_axes(record: EncoderRecord, tmp_path: Path) -> None:
    affine = diagonal((1, 2, 3), (4, 5, 6))
    volume = ramp(SHAPE, affine)
    nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), affine), tmp_path / "t1.nii.gz")
    stated = record.model_copy(update={"templates": {"t1": "t1.nii.gz"}})
    template = load_templates(tmp_path, stated)["t1"]
    assert np.array_equal(template.volume, volume) and np.allclose(template.affine, affine)
    (tmp_path / "t1.nii.gz").write_bytes((tmp_path / "t1.nii.gz").read_bytes()[:50])
    with pytest.raises(InputError, match=r"t1\.nii\.gz: found no readable volume"):
        load_templates(tmp_path, stated)


def test_frame_is_the_runs(record: EncoderRecord) -> None:
    assert frame_of(record) == "world"
    assert frame_of(record.model_copy(update={"config": {"options": {"align": "centre"}}})) == "centre"
    centred = record.model_copy(update={"config": {"options": {"align": "centre"}}, "template_frame": "world"})
    assert frame_of(centred) == "world"
