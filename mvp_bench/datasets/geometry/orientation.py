"""Axes turned and exchanged: the same voxels at the same place in space, in another order. Nothing is resampled."""

from __future__ import annotations

import numpy as np
from nibabel.orientations import (
    aff2axcodes,
    apply_orientation,
    axcodes2ornt,
    inv_ornt_aff,
    io_orientation,
    ornt_transform,
)
from numpy.typing import NDArray

from mvp_bench.datasets.geometry.volumes import Grid, grid_difference


def axis_codes(grid: Grid) -> str:
    """Where the axes lead, nearly: such as LPS for left, posterior, superior."""
    return "".join(aff2axcodes(grid.affine))


def turned_grid(grid: Grid, codes: str) -> Grid:
    """The same grid with its axes along ``codes``."""
    change = _change(grid, codes)
    order = np.argsort(change[:, 0])
    first, second, third = (grid.shape[int(axis)] for axis in order)
    return Grid((first, second, third), grid.affine @ inv_ornt_aff(change, grid.shape))


def brought_to(data: NDArray, grid: Grid, codes: str) -> tuple[NDArray, Grid]:
    """A volume with its axes along ``codes``.

    Args:
        data: (i, j, k), of the grid's shape.

    Returns:
        A view of the voxels, and the grid.
    """
    return apply_orientation(data, _change(grid, codes)), turned_grid(grid, codes)


def turn_that_helps(grid: Grid, onto: Grid, tolerance: float) -> str:
    """The axis codes that bring a grid onto another one; empty where its axes lead there already, or turning is not
    enough.

    Args:
        tolerance: in voxels, as for :func:`~mvp_bench.datasets.geometry.volumes.grid_difference`.
    """
    codes = axis_codes(onto)
    if codes == axis_codes(grid) or not grid_difference(grid, onto, tolerance):
        return ""
    return "" if grid_difference(turned_grid(grid, codes), onto, tolerance) else codes


def _change(grid: Grid, codes: str) -> NDArray[np.float64]:
    return ornt_transform(io_orientation(grid.affine), axcodes2ornt(tuple(codes)))
