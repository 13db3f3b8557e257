"""Files that cannot be used as they are: written anew, and listed as repairs.

Converters only *plan* such files; they are written afterwards, several at a time. Everything else stays where it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mvp_bench.config.groups import CheckConfig, RegistrationConfig
from mvp_bench.datasets.geometry.intensities import Mend
from mvp_bench.datasets.geometry.orientation import axis_codes, brought_to
from mvp_bench.datasets.geometry.volumes import (
    Grid,
    Volume,
    grid_difference,
    grid_offset,
    read_grid,
    read_volume,
    whole_numbers,
    without_nan,
    write_volume,
)
from mvp_bench.errors import InputError

WORK = "work"
"""Folder of intermediate files, beside the targets' ``images`` and ``labels``; thrown away in the end."""
MASK_THRESHOLD = 0.5
"""Brain masks that went through floating point hold 0.99999997 for 1."""
REWRITTEN = "written anew in three dimensions and with whole label values, as nnU-Net needs"
ADC_OF_BRAIN = 1e-3
"""Usual diffusivity of brain in mm2/s: white matter 0.7e-3, grey matter 0.85e-3, with some CSF (3e-3) in the median."""
ADC_RANGE = 5.0
"""A median is recognised if it lies within this factor of :data:`ADC_OF_BRAIN`; the units are a factor 1000 apart."""
ADC_UNITS = {"m2/s": 1e12, "mm2/s": 1e6, "1e-3 mm2/s": 1e3, "1e-6 mm2/s": 1.0}
"""Units that releases store -> factor to 1e-6 mm2/s."""


Reader = Callable[[Path], Volume]
"""Gives the volume of a source that is no plain NIfTI file (DICOM series, structure set, four-dimensional file): a
function of a module, or a functools.partial of one, so that it travels to worker processes."""


@dataclass(frozen=True)
class Derived:
    """A file to write.

    Attributes:
        source: NIfTI file, or whatever ``reader`` reads.
        target: ``images/<case>_<modality>.nii.gz``, ``labels/<case>.nii.gz`` or ``work/<anything>.nii.gz`` below the
            converter's output folder. Only targets in ``work`` are sure to be written, whatever has to be done: later
            steps may read those.
        kind: ``image`` (linear interpolation, single precision) or ``label`` (whole numbers, never interpolated).
        step: files of a lower step are written first, so that they can be sources and references of later ones.
        reader: reads the source; None: :func:`~mvp_bench.datasets.geometry.volumes.read_volume`.
        done: what ``reader`` does, in words, for the list of repairs (it stands there in any case).
        axes: axis codes (such as LPS) along which the voxels are stored: axes are turned and exchanged, nothing is
            resampled. Empty: as in the source.
        label_map: old label value -> new one; others stay.
        mend: change of an image's values.
        unit: ``adc``: bring the values to 1e-6 mm2/s by their order of magnitude.
        header: file of equal shape whose affine replaces the source's own, where the header alone is wrong.
        header_if: when: ``always``; within the tolerance for drift (see ``CheckConfig``); or also
            where only the ``origin`` differs, by whatever distance.
        mask: brain mask on the image's final grid: outside it the image is set to exactly 0.
        grid: file whose grid the image is brought onto (0 outside the field of view).
        align: how: ``header`` trusts the two headers, ``rigid`` registers and checks that it helped. If it did not, the
            headers are trusted after all where the overlap is good enough by them, else the image is left out.
        transform: a release's own rigid transform (ITK file, from points of ``grid`` to points of the source, in LPS
            mm); used instead of a registration, unless the overlap is worse by it than by the headers.
        companions: further images that lie where the source lies, and their targets: the same transform moves them.
    """

    source: Path
    target: Path
    kind: Literal["image", "label"]
    step: int = 0
    reader: Reader | None = None
    done: str = ""
    axes: str = ""
    label_map: dict[int, int] = field(default_factory=dict)
    mend: Mend = field(default_factory=Mend)
    unit: Literal["", "adc"] = ""
    header: Path | None = None
    header_if: Literal["always", "drift", "origin"] = "always"
    mask: Path | None = None
    grid: Path | None = None
    align: Literal["header", "rigid"] = "header"
    transform: Path | None = None
    companions: tuple[tuple[Path, Path], ...] = ()

    def __post_init__(self) -> None:
        if self.kind == "label" and (self.grid or self.unit or self.mask or self.mend.done or self.companions):
            raise ValueError(f"{self.source}: a label is never resampled, masked or scaled")
        if self.kind == "image" and self.label_map:
            raise ValueError(f"{self.source}: label_map on an image")


@dataclass(frozen=True)
class TargetOutcome:
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


@dataclass
class _Draft:
    """An image on its way: what it holds by now, and what was done to it."""

    source: Path
    target: Path
    data: NDArray
    grid: Grid
    squeezed: bool
    done: list[str] = field(default_factory=list)


def write_derived(
    derived: Derived,
    check: CheckConfig | None = None,
    registration: RegistrationConfig | None = None,
    nan_background: bool = False,
) -> list[TargetOutcome]:
    """Make one file and its companions.

    Args:
        check: tolerances for headers; default: :class:`~mvp_bench.config.groups.CheckConfig`'s own.
        registration: likewise for ``align="rigid"``.
        nan_background: whether NaN is read as 0.

    Returns:
        One outcome for the source, and one for each companion.

    Raises:
        InputError: if a file that is read is faulty, the values of an ADC map fit no unit, or the mask lies on another
            grid.
    """
    check, registration = check or CheckConfig(), registration or RegistrationConfig()
    if derived.kind == "label":
        return [_write_label(derived, check, nan_background)]
    drafts = _read(derived, nan_background)
    for draft in drafts:
        _mend_header(draft, derived, check)
    if derived.unit == "adc":
        _scale_adc(drafts[0])
    refused, left_out = "", False
    if derived.grid and any(grid_difference(d.grid, read_grid(derived.grid), check.grid_tolerance) for d in drafts):
        refused, left_out = _bring_onto_grid(drafts, derived, check, registration)
    if left_out:
        return [TargetOutcome(str(draft.source), str(draft.target), None, "", refused) for draft in drafts]
    mask = read_volume(derived.mask) if derived.mask else None
    outcomes = []
    for draft in drafts:
        if mask is not None:
            _apply_mask(draft, mask, derived, check)
        plain = not (
            derived.unit or derived.grid or derived.header or derived.axes
        )  # asked for as it is: to be written in any case
        changed = bool(draft.done or draft.squeezed or plain)
        made = derived.reader is not None and draft.source == derived.source
        if written := changed or made or _is_intermediate(draft):
            write_volume(draft.target, draft.data.astype(np.float32), draft.grid)
        path = draft.target if written else draft.source
        repair = ("; ".join(draft.done) or REWRITTEN) if changed else ""
        outcomes.append(TargetOutcome(str(draft.source), str(draft.target), str(path), repair, refused))
    return outcomes


def _read(derived: Derived, nan_background: bool) -> list[_Draft]:
    """The source and its companions."""
    companions = [_draft(source, target, read_volume(source), nan_background) for source, target in derived.companions]
    return [_source(derived, nan_background), *companions]


def _source(derived: Derived, nan_background: bool) -> _Draft:
    volume = (derived.reader or read_volume)(derived.source)
    draft = _draft(derived.source, derived.target, volume, nan_background)
    if derived.done:
        draft.done.insert(0, derived.done)
    if derived.mend.done:
        draft.data = derived.mend.applied(draft.data)
        draft.done.append(derived.mend.done)
    codes = axis_codes(draft.grid)
    if derived.axes and derived.axes != codes:
        draft.data, draft.grid = brought_to(draft.data, draft.grid, derived.axes)
        draft.done.append(f"axes turned from {codes} to {derived.axes}, as the case's other files have them")
    return draft


def _draft(source: Path, target: Path, volume: Volume, nan_background: bool) -> _Draft:
    data, count = without_nan(volume.data) if nan_background else (volume.data, 0)
    read = [f"{count} voxels of NaN read as background (0)"] if count else []
    return _Draft(source, target, data, volume.grid, volume.squeezed, [*volume.flaws, *read])


def _write_label(derived: Derived, check: CheckConfig, nan_background: bool) -> TargetOutcome:
    draft = _source(derived, nan_background)
    values, rounded = whole_numbers(derived.source, draft.data)
    mapped = values.astype(np.int32)
    for old, new in derived.label_map.items():
        mapped[values == old] = new
    if derived.label_map:
        draft.done.append(_map_in_words(derived.label_map))
    _mend_header(draft, derived, check)
    source, target = str(derived.source), str(derived.target)
    changed = bool(draft.done or draft.squeezed or rounded or not (derived.header or derived.axes))
    if not (changed or derived.reader or _is_intermediate(draft)):
        return TargetOutcome(source, target, source)
    write_volume(derived.target, mapped.astype(np.uint8 if mapped.max(initial=0) < 256 else np.uint16), draft.grid)
    return TargetOutcome(source, target, target, ("; ".join(draft.done) or REWRITTEN) if changed else "")


def _mend_header(draft: _Draft, derived: Derived, check: CheckConfig) -> None:
    """Give a draft the affine of ``derived.header``, if it may have it."""
    if derived.header is None:
        return
    right = read_grid(derived.header)
    offset = grid_offset(draft.grid, right, check.grid_tolerance)
    if offset is None and derived.header_if == "always":
        raise InputError(draft.source, found=grid_difference(draft.grid, right), expected=f"as {derived.header} has")
    if offset is None or offset.voxels <= check.grid_tolerance:
        return
    drift = offset.voxels <= check.drift_tolerance
    if derived.header_if == "always" or drift or (derived.header_if == "origin" and offset.origin_only):
        what = "origin" if offset.origin_only else "position"
        draft.done.append(
            f"header's {what} (off by {offset.mm:.3g} mm, {offset.voxels:.3g} voxels) replaced by that of "
            f"{derived.header.name}"
        )
        draft.grid = right


def _scale_adc(draft: _Draft) -> None:
    """Bring an ADC map to 1e-6 mm2/s."""
    values = draft.data[np.isfinite(draft.data) & (draft.data != 0)]
    median = float(np.median(values)) if values.size else 0.0
    for unit, factor in ADC_UNITS.items():
        if 1 / ADC_RANGE <= median * factor * 1e-6 / ADC_OF_BRAIN <= ADC_RANGE:
            if factor != 1:
                draft.data = draft.data.astype(np.float64) * factor
                draft.done.append(f"ADC brought from {unit} to 1e-6 mm2/s (x{factor:g}; the median was {median:.3g})")
            return
    raise InputError(
        draft.source,
        found=f"a median of {median:.3g} over the non-zero voxels",
        expected="an ADC map of the brain, about 1e-3 mm2/s, in m2/s, mm2/s, 1e-3 mm2/s or 1e-6 mm2/s",
        fix="This may be no ADC map; if it is one, bring it to 1e-6 mm2/s and set converter_options.adc_unit to false.",
    )


def _bring_onto_grid(
    drafts: list[_Draft], derived: Derived, check: CheckConfig, config: RegistrationConfig
) -> tuple[str, bool]:
    """Resample all drafts that lie elsewhere; returns why a registration was refused, and whether they are left out."""
    import SimpleITK as sitk  # slow to import, and used here only

    from mvp_bench.datasets.geometry import registration as rigid
    from mvp_bench.datasets.geometry.resampling import from_itk, resample, to_itk

    assert derived.grid is not None
    onto = read_grid(derived.grid)
    transform: sitk.Transform | None = None
    refused, how = "", "by the headers, not registered"
    if (derived.transform or derived.align == "rigid") and grid_difference(drafts[0].grid, onto, check.grid_tolerance):
        fixed = read_volume(derived.grid)
        moving = Volume(drafts[0].data, drafts[0].grid, "", 0)
        if derived.transform:
            result = rigid.assess(moving, fixed, rigid.read_transform(derived.transform), config)
            refused, how = result.worse(config), f"by the release's own transform {derived.transform.name}"
        else:
            result = rigid.register(moving, fixed, config)
            refused, how = result.refused(config), "after rigid registration"
        if not refused:
            transform, how = result.transform, f"{how} ({result.in_words()})"
        elif result.headers_fit(config):
            how = "by the headers, as the registration was refused"
        else:
            return f"{refused}; by the headers the overlap is only {result.overlap_before:.2f}", True
    empty = to_itk(np.zeros(onto.shape, np.uint8), onto)
    for draft in drafts:
        if transform is None and not grid_difference(draft.grid, onto, check.grid_tolerance):
            continue
        draft.data = from_itk(resample(to_itk(draft.data.astype(np.float32), draft.grid), empty, transform))
        draft.grid = onto
        draft.done.append(f"resampled linearly onto the grid of {derived.grid.name} {how}")
    return refused, False


def _apply_mask(draft: _Draft, mask: Volume, derived: Derived, check: CheckConfig) -> None:
    assert derived.mask is not None
    data, grid = brought_to(mask.data, mask.grid, axis_codes(draft.grid))
    offset = grid_offset(grid, draft.grid)
    if offset is None or offset.voxels > check.drift_tolerance:
        raise InputError(
            derived.mask,
            found=grid_difference(grid, draft.grid),
            expected=f"the grid of {derived.grid or derived.source}",
        )
    draft.data = np.where(data > MASK_THRESHOLD, draft.data, 0)
    draft.done.append(f"set to 0 outside the brain mask {derived.mask.name}")


def _is_intermediate(draft: _Draft) -> bool:
    """Whether the source would be thrown away, or the target is there for later steps."""
    work = draft.target.parent.parent / WORK
    return draft.source.is_relative_to(work) or draft.target.is_relative_to(work)


def _map_in_words(label_map: dict[int, int]) -> str:
    changes = ", ".join(f"{old} to {new}" for old, new in label_map.items() if old != new)
    return f"label values {changes} changed"
