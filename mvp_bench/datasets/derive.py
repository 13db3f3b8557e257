"""Files that cannot be used as they are: written anew, and listed as repairs.

Converters only *plan* such files; they are written afterwards, several at a time. Everything else stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel import Nifti1Image

from mvp_bench.datasets.volumes import Grid, Volume, grid_difference, read_volume, whole_numbers, write_volume
from mvp_bench.errors import InputError

MASK_THRESHOLD = 0.5
"""Brain masks that went through floating point hold 0.99999997 for 1."""


@dataclass(frozen=True)
class Derived:
    """A file to write.

    Attributes:
        kind: ``image`` (linear interpolation, single precision) or ``label`` (whole numbers, never interpolated).
        label_map: old label value -> new one; others stay.
        mask: brain mask on the image's final grid: outside it the image is set to exactly 0.
        grid: file whose grid the image is resampled onto (by the headers; 0 outside the field of view).
    """

    source: Path
    target: Path
    kind: Literal["image", "label"]
    label_map: dict[int, int] = field(default_factory=dict)
    mask: Path | None = None
    grid: Path | None = None

    def in_words(self) -> str:
        """What is done, for the list of repairs."""
        done = []
        if self.kind == "label":
            changes = ", ".join(f"{old} to {new}" for old, new in self.label_map.items())
            done += [f"label values {changes} changed"] if changes else []
        if self.grid:
            done.append(f"resampled linearly onto the grid of {self.grid.name} by the headers, not registered")
        if self.mask:
            done.append(f"set to 0 outside the brain mask {self.mask.name}")
        return "; ".join(done) or "written anew in three dimensions and with whole label values, as nnU-Net needs"


def write_derived(derived: Derived) -> None:
    """Make one file.

    Raises:
        InputError: if a source file is faulty, or the mask lies on another grid.
    """
    volume = read_volume(derived.source)
    if derived.kind == "label":
        values, _ = whole_numbers(derived.source, volume.data)
        mapped = values.astype(np.int32)
        for old, new in derived.label_map.items():
            mapped[values == old] = new
        write_volume(derived.target, mapped.astype(np.uint8 if mapped.max(initial=0) < 256 else np.uint16), volume.grid)
        return
    data, grid = volume.data.astype(np.float32), volume.grid
    if derived.grid:
        data, grid = _resampled(data, grid, read_volume(derived.grid))
    if derived.mask:
        brain = read_volume(derived.mask)
        if difference := grid_difference(brain.grid, grid):
            raise InputError(derived.mask, found=difference, expected=f"the grid of {derived.source}")
        data = np.where(brain.data > MASK_THRESHOLD, data, np.float32(0))
    write_volume(derived.target, data, grid)


def _resampled(data: np.ndarray, grid: Grid, reference: Volume) -> tuple[np.ndarray, Grid]:
    from nibabel.processing import resample_from_to  # slow to import, and used here only

    onto = (reference.grid.shape, reference.grid.affine)
    moved = resample_from_to(Nifti1Image(data, grid.affine), onto, order=1, cval=0.0)
    return np.asarray(moved.dataobj, dtype=np.float32), reference.grid
