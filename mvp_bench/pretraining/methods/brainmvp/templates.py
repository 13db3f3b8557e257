"""One learnable volume per modality, addressed by position in millimetres."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np
import torch
from torch import nn

from mvp_bench.io import atomic_path
from mvp_bench.pretraining.method import Context

SAME_SPACING = 1e-3
"""Relative difference below which two spacings are the same."""

Shape = tuple[int, int, int]
Align = Literal["centre", "volume", "world"]
"""What makes two cases' voxels correspond: the offset from the middle of the brain's box, from that of the uncropped
image, or the world position."""


@dataclass(frozen=True)
class TemplateGrid:
    """Axis-aligned grid of a template; positions are centres of voxels, (z, y, x) = (S, A, R), in mm."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float]
    """Position of voxel (0, 0, 0): of the world, or relative to the middle of the brain."""

    @classmethod
    def around_centre(
        cls, reach: Sequence[float], spacing: tuple[float, float, float], shape: Shape | None = None
    ) -> TemplateGrid:
        """A grid around position 0 whose outermost voxel centres are at least ``reach`` mm apart on each axis; of
        ``shape`` where one is given."""
        shape = shape or _voxels(reach, spacing)
        origin = [-(n - 1) / 2 * s for n, s in zip(shape, spacing, strict=True)]
        return cls(shape, spacing, (origin[0], origin[1], origin[2]))

    @classmethod
    def of_box(
        cls,
        low: tuple[float, float, float],
        high: Sequence[float],
        spacing: tuple[float, float, float],
        shape: Shape | None = None,
    ) -> TemplateGrid:
        """A grid whose outermost voxel centres are ``low`` and (at least) ``high``; of ``shape`` where one is given."""
        return cls(shape or _voxels([b - a for a, b in zip(low, high, strict=True)], spacing), spacing, low)

    def affine(self) -> np.ndarray:
        """4 x 4: voxel (x, y, z) -> position (x, y, z)."""
        affine = np.diag([*self.spacing[::-1], 1.0])
        affine[:3, 3] = self.origin[::-1]
        return affine


def _voxels(reach: Sequence[float], spacing: Sequence[float]) -> tuple[int, int, int]:
    z, y, x = (int(np.ceil(r / s - SAME_SPACING)) + 1 for r, s in zip(reach, spacing, strict=True))
    return z, y, x


def grid_of(
    context: Context, align: Align, spacing: tuple[float, float, float], shape: Shape | None = None
) -> tuple[TemplateGrid, list[float]]:
    """The grid that holds every case of a run, or one of ``shape``; and how far apart, in mm per axis (z, y, x), the
    outermost voxels lie that it has to reach."""
    if align == "world":
        low, high = context.world_box
        return TemplateGrid.of_box(low, high, spacing, shape), [b - a for a, b in zip(low, high, strict=True)]
    reach = [whole - edge for whole, edge in zip(context.largest, context.spacing, strict=True)]
    if align == "volume":
        reach = list(context.volume_reach)
    return TemplateGrid.around_centre(reach, spacing, shape), reach


class TemplateBank(nn.Module):
    """Templates T of all modalities on one grid; ``volumes`` are the parameters, zero at the start.

    A zero template fills with 0 under either parametrisation, so that the first step's template view is an ordinary
    zero-masked image.

    Args:
        modalities: number of templates.
        grid: where they lie.
        parametrisation: ``direct``: T = P. ``minmax``: T = (P - min P) / (max P - min P + epsilon) over the whole
            volume, with gradient through both extremes.
        epsilon: see ``minmax``.
        subvoxel: interpolate linearly at fractions of a voxel instead of rounding (halves down).
    """

    def __init__(
        self,
        modalities: int,
        grid: TemplateGrid,
        parametrisation: Literal["direct", "minmax"] = "direct",
        epsilon: float = 1e-3,
        subvoxel: bool = False,
    ) -> None:
        super().__init__()
        self.grid, self.parametrisation, self.epsilon, self.subvoxel = grid, parametrisation, epsilon, subvoxel
        self.volumes = nn.Parameter(torch.zeros(modalities, *grid.shape))

    def templates(self, numbers: torch.Tensor) -> torch.Tensor:
        """The templates T of the modalities ``numbers`` (N,): (N, z, y, x)."""
        chosen = self.volumes[numbers]
        if self.parametrisation == "direct":
            return chosen
        low, high = chosen.amin(dim=(1, 2, 3), keepdim=True), chosen.amax(dim=(1, 2, 3), keepdim=True)
        return (chosen - low) / (high - low + self.epsilon)

    def windows(
        self, modality: torch.Tensor, position: torch.Tensor, spacing: torch.Tensor, patch: Sequence[int]
    ) -> torch.Tensor:
        """T where each sample's patch lies: (B, 1, *patch), 0 outside the grid.

        Args:
            modality: (B,) number of each sample's modality.
            position: (B, 3) of the patch's first voxel, mm, in the grid's frame; on the CPU.
            spacing: (B, 3) of the patch, mm; on the CPU.
            patch: voxels.
        """
        if self.parametrisation == "direct":
            source, row = self.volumes, modality
        else:
            numbers, row = modality.unique(return_inverse=True)
            source = self.templates(numbers)
        edges = torch.tensor(self.grid.spacing, dtype=torch.float64)
        first = (position - torch.tensor(self.grid.origin, dtype=torch.float64)) / edges
        step = spacing / edges
        if not self.subvoxel and bool(((step - 1).abs() < SAME_SPACING).all()):
            # Halves go down, as in (template - volume) // 2; the slack keeps rounding noise from deciding.
            first, step = torch.ceil(first - 0.5 - SAME_SPACING), torch.ones_like(step)
        axes = [first[:, a, None] + step[:, a, None] * torch.arange(patch[a], dtype=torch.float64) for a in range(3)]
        return _lookup(source, row, axes).unsqueeze(1)

    def normalised(self) -> torch.Tensor:
        """All templates as they fill images, detached, on the CPU: (M, z, y, x)."""
        with torch.no_grad():
            return self.templates(torch.arange(len(self.volumes), device=self.volumes.device)).float().cpu()


def _lookup(volumes: torch.Tensor, row: torch.Tensor, axes: Sequence[torch.Tensor]) -> torch.Tensor:
    """Linear interpolation of ``volumes[row]`` at the product of per-axis positions (B, n_a): (B, n_0, n_1, n_2).

    One index_select on the flat volumes per corner: its gradient is one scatter-add, whereas slicing would allocate a
    whole volume per sample. Positions on whole voxels need one corner only.
    """
    device = volumes.device
    flat = volumes.reshape(-1)
    length = torch.tensor(volumes.shape[1:])
    pitch = [int(length[1] * length[2]), int(length[2]), 1]
    low = [a.floor() for a in axes]
    upper = [a - f for a, f in zip(axes, low, strict=True)]
    sides = [(0, 1) if bool((u > 0).any()) else (0,) for u in upper]
    shapes = [(len(row), -1, 1, 1), (len(row), 1, -1, 1), (len(row), 1, 1, -1)]
    total: torch.Tensor | None = None
    for corner in product(*sides):
        index = row.view(-1, 1, 1, 1) * int(length.prod())
        weight: torch.Tensor | float = 1.0
        for a, side in enumerate(corner):
            place = low[a].long() + side
            inside = (place >= 0) & (place < length[a])
            share = (upper[a] if side else 1 - upper[a]) * inside
            index = index + (place.clamp(0, int(length[a]) - 1) * pitch[a]).view(shapes[a]).to(device)
            weight = weight * share.float().view(shapes[a]).to(device)
        part = flat.index_select(0, index.reshape(-1)).view(index.shape) * weight
        total = part if total is None else total + part
    assert total is not None  # there is always a corner
    return total


def save_templates(bank: TemplateBank, modalities: Sequence[str], folder: Path) -> dict[str, str]:
    """Write every template as ``templates/<modality>.nii.gz``, as it fills images, with its affine.

    Returns:
        modality -> path relative to ``folder``.
    """
    files = {}
    for modality, volume in zip(modalities, bank.normalised().numpy(), strict=True):
        name = f"templates/{modality}.nii.gz"
        with atomic_path(folder / name) as temporary:
            nib.save(nib.Nifti1Image(volume.transpose(2, 1, 0), bank.grid.affine()), temporary)
        files[modality] = name
    return files
