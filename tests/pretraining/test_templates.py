"""Templates are found by position, written with their affine, and learn."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter, map_coordinates

from mvp_bench.pretraining.methods.brainmvp.templates import TemplateBank, TemplateGrid, save_templates

ONE = (1.0, 1.0, 1.0)


def coded_bank(shape: tuple[int, int, int], grid: TemplateGrid | None = None, **more: bool) -> TemplateBank:
    """One template whose voxels hold 1 + their flat index."""
    bank = TemplateBank(1, grid or TemplateGrid.around_centre([n - 1 for n in shape], ONE), **more)
    with torch.no_grad():
        bank.volumes.copy_(1 + torch.arange(int(np.prod(shape))).view(1, *shape))
    return bank


def centre_offset(start: tuple[int, ...], shape: tuple[int, ...]) -> torch.Tensor:
    """As the sampler gives it, at 1 mm."""
    return torch.tensor([[s - n / 2 + 0.5 for s, n in zip(start, shape, strict=True)]], dtype=torch.float64)


def window(bank: TemplateBank, position: torch.Tensor, patch: tuple[int, int, int], spacing: float = 1.0) -> np.ndarray:
    edges = torch.full((1, 3), spacing, dtype=torch.float64)
    with torch.no_grad():
        return bank.windows(torch.tensor([0]), position, edges, patch)[0, 0].numpy()


def test_filler_index_is_crop_index_on_the_sri24_grid() -> None:
    shape, patch = (155, 240, 240), (96, 96, 96)
    bank = coded_bank(shape)
    codes = bank.volumes.detach()[0].numpy()
    for start in ((0, 0, 0), (59, 144, 144), (10, 77, 31)):
        found = window(bank, centre_offset(start, shape), patch)
        z, y, x = start
        assert np.array_equal(found, codes[z : z + 96, y : y + 96, x : x + 96])
    padded = window(bank, centre_offset((-8, 150, 5), shape), patch)
    assert np.array_equal(padded[8:, :90], codes[:88, 150:, 5:101])
    assert not padded[:8].any() and not padded[:, 90:].any()


@given(volume=st.tuples(*[st.integers(3, 12)] * 3), start=st.tuples(*[st.integers(-4, 9)] * 3))
@settings(max_examples=40, deadline=None)
def test_volume_centre_rule(volume: tuple[int, int, int], start: tuple[int, int, int]) -> None:
    """Template index = volume index + (template size - volume size) // 2 on every axis, whatever the parities."""
    shape = (12, 13, 14)
    bank = coded_bank(shape)
    padded = np.pad(bank.volumes.detach()[0].numpy(), 20)
    first = [20 + s + (t - v) // 2 for s, t, v in zip(start, shape, volume, strict=True)]
    expected = padded[tuple(slice(f, f + 6) for f in first)]
    assert np.array_equal(window(bank, centre_offset(start, volume), (6, 6, 6)), expected)


def test_world_frame() -> None:
    grid = TemplateGrid.of_box((-10.0, -20.0, -30.0), (1.0, -9.0, -19.0), ONE)
    assert grid.shape == (12, 12, 12)
    bank = coded_bank(grid.shape, grid)
    position = torch.tensor([[-7.0, -18.0, -25.0]], dtype=torch.float64)
    assert np.array_equal(window(bank, position, (4, 4, 4)), bank.volumes.detach()[0, 3:7, 2:6, 5:9].numpy())


@pytest.mark.parametrize(("spacing", "subvoxel"), [(1.0, True), (1.7, False), (0.6, False)])
def test_interpolation(spacing: float, subvoxel: bool) -> None:
    bank = TemplateBank(1, TemplateGrid((9, 10, 11), ONE, (0.0, 0.0, 0.0)), subvoxel=subvoxel)
    with torch.no_grad():
        bank.volumes.normal_(generator=torch.Generator().manual_seed(0))
    position = torch.tensor([[0.3, 1.6, 2.25]], dtype=torch.float64)
    found = window(bank, position, (4, 4, 4), spacing)
    axes = [float(position[0, a]) + spacing * np.arange(4) for a in range(3)]
    where = np.meshgrid(*axes, indexing="ij")
    expected = map_coordinates(bank.volumes.detach()[0].numpy(), where, order=1, mode="constant")
    assert np.allclose(found, expected, atol=1e-5)


def test_modalities_are_kept_apart() -> None:
    bank = TemplateBank(3, TemplateGrid((4, 4, 4), ONE, (0.0, 0.0, 0.0)))
    with torch.no_grad():
        bank.volumes.copy_(torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1).expand(3, 4, 4, 4))
    found = bank.windows(torch.tensor([2, 0]), torch.zeros(2, 3).double(), torch.ones(2, 3).double(), (4, 4, 4))
    assert found[0].unique().tolist() == [3.0] and found[1].unique().tolist() == [1.0]


def test_zero_parameters_are_a_zero_template() -> None:
    for parametrisation in ("direct", "minmax"):
        bank = TemplateBank(1, TemplateGrid((4, 4, 4), ONE, (0.0, 0.0, 0.0)), parametrisation)  # type: ignore[arg-type]
        assert not bank.normalised().any()


def test_minmax_runs_from_zero_to_one() -> None:
    bank = TemplateBank(2, TemplateGrid((4, 4, 4), ONE, (0.0, 0.0, 0.0)), "minmax", epsilon=1e-6)
    with torch.no_grad():
        bank.volumes.normal_()
    scaled = bank.normalised().flatten(1)
    assert torch.allclose(scaled.amin(1), torch.zeros(2)) and torch.allclose(scaled.amax(1), torch.ones(2), atol=1e-4)


def test_files_have_the_grid(tmp_path: Path) -> None:
    grid = TemplateGrid.around_centre((4.0, 6.0, 4.0), (2.0, 2.0, 1.0))
    bank = TemplateBank(1, grid)
    with torch.no_grad():
        bank.volumes[0, 0, 1, 2] = 5.0
    files = save_templates(bank, ["t1"], tmp_path)
    image = nib.load(tmp_path / files["t1"])
    assert image.shape == (5, 4, 3) and np.asarray(image.dataobj)[2, 1, 0] == 5.0
    assert image.header.get_zooms() == (1.0, 2.0, 2.0)
    middle = image.affine @ [2, 1.5, 1, 1]
    assert np.allclose(middle[:3], 0.0)


def fitted_error(parametrisation: str, epsilon: float, rate: float, steps: int = 150) -> float:
    """Error of a template, relative to the zero template's, after direct regression on noisy images."""
    rng = np.random.default_rng(0)
    mean = gaussian_filter(rng.standard_normal((8, 8, 8)), 1.0)
    mean = (mean - mean.min()) / (mean.max() - mean.min())
    goal = torch.from_numpy(mean).float()
    bank = TemplateBank(1, TemplateGrid((8, 8, 8), ONE, (0.0, 0.0, 0.0)), parametrisation, epsilon)  # type: ignore[arg-type]
    optimiser = torch.optim.AdamW([{"params": [bank.volumes], "lr": rate, "weight_decay": 0.0}])
    random = torch.Generator().manual_seed(0)
    place = torch.zeros(1, 3).double(), torch.ones(1, 3).double()
    for _ in range(steps):
        image = goal + 0.1 * torch.randn(8, 8, 8, generator=random)
        loss = (bank.windows(torch.tensor([0]), *place, (8, 8, 8))[0, 0] - image).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float((bank.normalised()[0] - goal).square().mean() / goal.square().mean())


def test_default_parametrisation_learns_where_the_released_one_is_frozen() -> None:
    assert fitted_error("direct", 0.0, 0.03) < 0.05
    assert fitted_error("minmax", 1e-3, 0.03) < 0.05
    assert fitted_error("minmax", 1e-9, 0.03) > 0.3


@given(reach=st.floats(1.0, 40.0), factor=st.floats(1.0, 4.0))
@settings(max_examples=40, deadline=None)
def test_a_coarser_grid_still_covers_everything(reach: float, factor: float) -> None:
    grid = TemplateGrid.around_centre((reach,) * 3, (factor,) * 3)
    assert (grid.shape[0] - 1) * factor >= reach * (1 - 1e-3)
    assert grid.origin[0] == pytest.approx(-(grid.shape[0] - 1) / 2 * factor)


def test_a_coarse_ramp_is_read_as_a_ramp() -> None:
    bank = TemplateBank(1, TemplateGrid((5, 5, 5), (2.0, 2.0, 2.0), (0.0, 0.0, 0.0)))
    with torch.no_grad():
        bank.volumes.copy_((2.0 * torch.arange(5)).view(1, 5, 1, 1).expand(1, 5, 5, 5))
    found = window(bank, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64), (6, 4, 4))
    assert np.allclose(found[:, 0, 0], np.arange(1.0, 7.0))
