"""Which files of a case must be written anew so that all of them share one grid, unit and convention.

Only headers are read here. Whether a header is repaired, an image registered or a unit changed is decided when the file
is written (:func:`~mvp_bench.datasets.geometry.derive.write_derived`); an unreadable header is left to the check.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mvp_bench.config.groups import CheckConfig
from mvp_bench.datasets.geometry.derive import WORK, Derived
from mvp_bench.datasets.geometry.orientation import turn_that_helps, turned_grid
from mvp_bench.datasets.geometry.volumes import Grid, grid_difference, read_grid
from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.conversion import ConverterOptions, Found
from mvp_bench.datasets.schema import Card, Case
from mvp_bench.errors import InputError

BRAIN_MASK = "mask"
"""Role of a brain mask among the files of a case."""


@dataclass(frozen=True)
class CasePlan:
    """A case with the targets in place of the sources, and what must be written before it is usable."""

    case: Case
    derived: list[Derived]


def plan_case(
    case_id: str,
    case: Case,
    files: Mapping[str, Found],
    label_map: dict[int, int],
    options: ConverterOptions,
    card: Card,
    output: Path,
) -> CasePlan:
    """Plan the files of one case.

    The grid of the case is that of the card's ``reference_grid`` modality, else the label's, else the first image's.
    Images are brought onto it only where the card names a modality for it; labels never are.

    Args:
        case: with the original paths.
        files: the file of each role.
        label_map: label values to change in the whole release.

    Raises:
        InputError: if the card's ``reference_grid`` is none of its modalities.
    """
    paths = {modality: files[modality].file.path for modality in case.modalities}
    targets = {role: output / "images" / f"{case_id}_{role}.nii.gz" for role in paths}
    targets[LABEL] = output / "labels" / f"{case_id}.nii.gz"
    places = _places(case, files, options)
    role = _reference(case, options, card)
    place = places[role].grid
    made = files[role].reader is not None or bool(places[role].axes)  # so the others have to wait for it
    reference = targets[role] if made else files[role].file.path
    derived: list[Derived] = []
    if case.label:
        header = reference if role != LABEL and _looks_shifted(places[LABEL].grid, place) else None
        label = Derived(
            files[LABEL].file.path,
            targets[LABEL],
            "label",
            step=int(made and header is not None),
            reader=files[LABEL].reader,
            done=files[LABEL].done,
            axes=places[LABEL].axes,
            label_map=files[LABEL].label_map or label_map,
            header=header,
            header_if=_header_if(options),
        )
        derived += [label] if label.label_map or header or label.reader or label.axes else []
    mask = files[BRAIN_MASK].file.path if BRAIN_MASK in files else None
    planned: dict[str, Derived] = {}
    for modality, path in paths.items():
        item, grid, axes = files[modality], places[modality].grid, places[modality].axes
        if grid is None and not item.reader:
            continue
        header = reference if modality != role and _looks_shifted(grid, place) else None
        moved = options.reference_grid is not None and _differ(grid, place)
        unit: Literal["", "adc"] = "adc" if options.adc_unit and modality == "adc" else ""
        if header or moved or mask or unit or item.reader or axes:
            planned[modality] = Derived(
                path,
                targets[modality],
                "image",
                step=int(made and (moved or header is not None)),
                reader=item.reader,
                done=item.done,
                axes=axes,
                unit=unit,
                header=header,
                header_if=_header_if(options),
                mask=mask,
                grid=reference if moved else None,
                align=options.align if moved else "header",
            )
    derived += _together(case_id, planned, paths, options, output)
    label_target = str(targets[LABEL]) if any(item.kind == "label" for item in derived) else case.label
    images = {m: str(targets[m]) if m in planned else path for m, path in case.images.items()}
    return CasePlan(case.model_copy(update={"images": images, "label": label_target}), derived)


@dataclass(frozen=True)
class _Place:
    """Where a file of the case lies.

    Attributes:
        grid: once its axes are turned; None where its header cannot be read.
        axes: codes along which they must be turned; empty where they need not.
    """

    grid: Grid | None
    axes: str = ""


def _places(case: Case, files: Mapping[str, Found], options: ConverterOptions) -> dict[str, _Place]:
    """Role -> place. Files that lie where the case's images lie, but with other axes, are turned: viewers write masks
    as they like."""
    grids = {role: _grid(files[role]) for role in [*case.modalities, *([LABEL] if case.label else [])]}
    first = sorted(case.modalities, key=lambda role: role != options.reference_grid)
    onto = next((grid for role in first if (grid := grids[role])), None)
    places: dict[str, _Place] = {}
    for role, grid in grids.items():
        axes = turn_that_helps(grid, onto, CheckConfig.drift_tolerance) if grid and onto else ""
        places[role] = _Place(turned_grid(grid, axes) if grid and axes else grid, axes)
    return places


def _reference(case: Case, options: ConverterOptions, card: Card) -> str:
    """The role of the file that gives the grid."""
    if options.reference_grid is None:
        return LABEL if case.label else case.modalities[0]
    if options.reference_grid not in card.modalities:
        raise InputError(
            f"card {card.dataset_name}, converter_options.reference_grid",
            found=repr(options.reference_grid),
            expected=f"one of {', '.join(card.modalities)}",
        )
    return options.reference_grid if options.reference_grid in case.modalities else case.modalities[0]


def _grid(item: Found) -> Grid | None:
    """None where the header cannot be read."""
    if item.reader:
        return item.grid
    try:
        return read_grid(item.file.path)
    except InputError:
        return None


def _differ(grid: Grid | None, place: Grid | None) -> bool:
    return bool(grid and place and grid_difference(grid, place))


def _looks_shifted(grid: Grid | None, place: Grid | None) -> bool:
    """Whether the header may be wrong: the same number of voxels, at another place."""
    return bool(grid and place and grid.shape == place.shape and grid_difference(grid, place))


def _header_if(options: ConverterOptions) -> Literal["drift", "origin"]:
    return "origin" if options.repair_origin else "drift"


def _together(
    case_id: str,
    planned: Mapping[str, Derived],
    paths: Mapping[str, Path],
    options: ConverterOptions,
    output: Path,
) -> list[Derived]:
    """Let one registration move all images that share a position."""
    items = dict(planned)
    first: list[Derived] = []
    for group in options.align_together:
        present = [modality for modality in group if modality in paths]
        moved = [modality for modality in present if modality in items and items[modality].align == "rigid"]
        if len(moved) < len(present):  # one of them is where the reference is, so all are
            items |= {modality: replace(items[modality], align="header") for modality in moved}
            continue
        if len(moved) < 2:
            continue
        leader, *others = (items.pop(modality) for modality in moved)
        companions = []
        for modality, other in zip(moved[1:], others, strict=True):
            source = other.source
            if other.unit or other.reader:
                source = output / WORK / f"{case_id}_{modality}.nii.gz"
                first.append(replace(other, target=source, step=0, header=None, mask=None, grid=None, align="header"))
            companions.append((source, other.target))
        header = next((item.header for item in (leader, *others) if item.header), None)
        items[moved[0]] = replace(
            leader, step=max(leader.step, int(bool(first))), header=header, companions=tuple(companions)
        )
    return [*first, *items.values()]
