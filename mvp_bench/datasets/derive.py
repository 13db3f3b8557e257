"""Files that cannot be used as they are: written anew, and listed as repairs.

Converters only *plan* such files; they are written afterwards, several at a time. Everything else stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from nibabel import Nifti1Image

from mvp_bench.datasets.volumes import Grid, Volume, grid_difference, read_volume, whole_numbers, write_volume
from mvp_bench.errors import InputError

MASK_THRESHOLD = 0.5
"""Brain masks that went through floating point hold 0.99999997 for 1."""


Reader = Callable[[Path], Volume]
"""Gives the volume of a source that is no plain NIfTI file (DICOM series, structure set, four-dimensional file): a
function of a module, or a functools.partial of one, so that it travels to worker processes."""


@dataclass(frozen=True)
class Derived:
    """A file to write.

    Attributes:
        source: NIfTI file, or whatever ``reader`` reads.
        kind: ``image`` (linear interpolation, single precision) or ``label`` (whole numbers, never interpolated).
        step: files of a lower step are written first, so that they can be sources and references of later ones.
        reader: reads the source; None: :func:`~mvp_bench.datasets.volumes.read_volume`.
        done: what ``reader`` does, in words, for the list of repairs.
        label_map: old label value -> new one; others stay.
        unit: ``adc``: bring the values to 1e-6 mm2/s by their order of magnitude.
        header: file whose affine replaces the source's own, where the header alone is wrong.
        mask: brain mask on the image's final grid: outside it the image is set to exactly 0.
        grid: file whose grid the image is brought onto (0 outside the field of view).
        align: how: ``header`` trusts the two headers, ``rigid`` registers (and checks that it helped).
        transform: a release's own rigid transform (ITK file, from points of ``grid`` to points of the source, in LPS
            mm); used instead of a registration.
        companions: further images that lie where the source lies, and their targets: the same transform moves them.
    """

    source: Path
    target: Path
    kind: Literal["image", "label"]
    step: int = 0
    reader: Reader | None = None
    done: str = ""
    label_map: dict[int, int] = field(default_factory=dict)
    unit: Literal["", "adc"] = ""
    header: Path | None = None
    mask: Path | None = None
    grid: Path | None = None
    align: Literal["header", "rigid"] = "header"
    transform: Path | None = None
    companions: tuple[tuple[Path, Path], ...] = ()

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


@dataclass(frozen=True)
class Outcome:
    """What became of one target (JSON-able, since it is kept in the journal of an interrupted preparation).

    Attributes:
        path: the file to use: the target, the source itself where nothing had to be done, or None where the image
            must be left out of its case.
        repair: what was done, in words; empty if nothing.
        refused: why a registration was not used, or why the image is left out; empty if all went well.
    """

    source: str
    target: str
    path: str | None
    repair: str = ""
    refused: str = ""


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
