r"""Vestibular-Schwannoma-SEG: the NIfTI files of the official conversion, its BIDS form, or DICOM as downloaded.

====================================  ==================================================================================
``vs_gk_<n>/vs_gk_t2_refT1.nii.gz``   official conversion; T1 and T2 on their own grids, or one moved to the other
``sub-<nnn>/anat/sub-<nnn>_T1w...``   the same as BIDS, with masks and registered images under ``derivatives/``
``VS-SEG-<nnn>/.../*.dcm``            DICOM series and structure sets, in folders of any name
====================================  ==================================================================================

A case lies on the grid of the card's first modality and has the mask that was drawn there; the other image is moved
there, never the mask. ``modalities`` of the card decides: ``["t1c"]`` (the default), ``["t2"]`` or ``["t1c", "t2"]``.
The other image is moved by the release's own transform where ``inv_T2_LPS_to_T1_LPS.tfm`` lies below the source (the
file maps points of T1 to points of T2), else by registration. ``contours.json`` is not read: its contours need not lie
in the slices of the image, those of the structure sets do.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import field_validator

from mvp_bench.datasets.geometry.derive import Derived
from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.assembly import assemble
from mvp_bench.datasets.reading.conversion import (
    Conversion,
    ConverterOptions,
    Found,
    Ignored,
    ImageFile,
    compiled,
    files_below,
    image_files,
    parse_options,
)
from mvp_bench.datasets.reading.dicom import Series, find_series, read_series
from mvp_bench.datasets.reading.rtstruct import choose_structure, read_structure, read_structure_set
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.registry import CONVERTERS

OWN_GRID: dict[str, str] = {"t1c": "T1", "t2": "T2"}
"""Modality -> the grid it was acquired on, as the release calls it; its T1 is contrast-enhanced."""
FILES: tuple[tuple[str, str, str], ...] = (
    (r"vs_gk_(\d+)/vs_gk_t1_refT1", "t1c", "T1"),
    (r"vs_gk_(\d+)/vs_gk_t1_refT2", "t1c", "T2"),
    (r"vs_gk_(\d+)/vs_gk_t2_refT1", "t2", "T1"),
    (r"vs_gk_(\d+)/vs_gk_t2_refT2", "t2", "T2"),
    (r"vs_gk_(\d+)/vs_gk_seg_refT1", LABEL, "T1"),
    (r"vs_gk_(\d+)/vs_gk_seg_refT2", LABEL, "T2"),
    (r"T1w_registered_to_T2w/sub-(\d+)/anat/[^/]+_T1w", "t1c", "T2"),
    (r"T2w_registered_to_T1w/sub-(\d+)/anat/[^/]+_T2w", "t2", "T1"),
    (r"manual_segmentation_masks_of_T1w/sub-(\d+)/anat/[^/]+_desc-tumou?r_mask", LABEL, "T1"),
    (r"manual_segmentation_masks_of_T2w/sub-(\d+)/anat/[^/]+_desc-tumou?r_mask", LABEL, "T2"),
    (r"sub-(\d+)/anat/[^/]+_T1w", "t1c", "T1"),
    (r"sub-(\d+)/anat/[^/]+_T2w", "t2", "T2"),
)
"""Pattern of a NIfTI file (its group is the patient's number), what it holds, and on which grid; the first that fits
counts."""
_TRANSFORM = re.compile(
    r".*(?:vs_gk_(?P<number>\d+)_t[12]/|sub-(?P<bids>\d+)_)inv_(?P<moving>T[12])_LPS_to_(?P<fixed>T[12])_LPS\.tfm",
    re.IGNORECASE,
)
_PATIENT = re.compile(r"VS-SEG-(\d+)", re.IGNORECASE)
_CONTRAST = re.compile(r"(?<![a-z0-9])(t[12])_", re.IGNORECASE)
"""In a SeriesDescription such as ``t1_mpr_tra_gk_v4``."""

Transforms = Mapping[tuple[str, str, str], Path]
"""(patient, grid of the moving image, grid of the fixed one) -> ITK file with the points' way from fixed to moving."""


class VssegOptions(ConverterOptions):
    """Options of the converter ``vsseg``."""

    align: Literal["header", "rigid"] = "rigid"
    structure: str = ""
    """DICOM only: regular expression for the tumour's whole name in the structure sets. Default: the first structure
    that has contours, which is the tumour (TV, AN, Men, tumour ...) whatever it is called."""

    @field_validator("structure")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        compiled(value)
        return value


@CONVERTERS.register("vsseg", summary="Vestibular-Schwannoma-SEG, NIfTI or DICOM with structure sets")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read the release. Where there are NIfTI files of it, DICOM beside them is not looked at.

    Raises:
        InputError: if an option is wrong or nothing of the release is found.
    """
    options = parse_options(VssegOptions, card)
    if unknown := [modality for modality in card.modalities if modality not in OWN_GRID]:
        raise InputError(
            f"card {card.dataset_name}, modalities", found=unknown[0], expected=f"only {' and '.join(OWN_GRID)}"
        )
    ignored = Ignored(options.ignore)
    files: dict[str, list[_File]] = defaultdict(list)
    for file in image_files(source):
        if ignored.takes(file):
            continue
        if known := _understood(file):
            files[known.patient].append(known)
        else:
            ignored.add(file, "not one of the release's file names")
    transforms = _transforms(source)
    if files:
        return _from_nifti(files, ignored, transforms, options, card, source, output)
    return _from_dicom(ignored, transforms, options, card, source, output)


# -------------------------------------------------------------------------------------------------------------- NIfTI


@dataclass(frozen=True)
class _File:
    """A NIfTI file of the release: what it holds (a modality or the mask), and whose grid it lies on."""

    file: ImageFile
    patient: str
    content: str
    grid: str


def _understood(file: ImageFile) -> _File | None:
    for pattern, content, grid in FILES:
        if match := compiled(pattern).fullmatch(file.key):
            return _File(file, f"vs_gk_{int(match[1])}", content, grid)
    return None


def _from_nifti(
    files: Mapping[str, Sequence[_File]],
    ignored: Ignored,
    transforms: Transforms,
    options: VssegOptions,
    card: Card,
    source: Path,
    output: Path,
) -> Conversion:
    found: list[Found] = []
    moved: dict[Path, Path | None] = {}
    for patient, items in files.items():
        grid = _grid_of_case(items, card)
        for item in items:
            own = item.grid == OWN_GRID.get(item.content)
            if item.content not in (*card.modalities, LABEL):
                ignored.add(item.file, f"{item.content} is not a modality of the card")
            elif item.grid == grid:
                found.append(Found(item.file, item.content, {"patient": patient}))
            elif own:
                found.append(Found(item.file, item.content, {"patient": patient}, rank=1))
                moved[item.file.path] = transforms.get((patient, item.grid, grid))
            else:
                ignored.add(item.file, f"on the grid of {item.grid}, its case is on that of {grid}")
    reference = options.model_copy(update={"reference_grid": card.modalities[0]})
    conversion = assemble(found, ignored.exclusions(), reference, card, source, output)
    derived = [replace(d, transform=moved.get(d.source)) if d.grid else d for d in conversion.derived]
    return replace(conversion, derived=derived)


def _grid_of_case(items: Sequence[_File], card: Card) -> str:
    """The first modality's own grid, or the other one if only that has both image and mask."""
    there = {(item.content, item.grid) for item in items}
    first = card.modalities[0]
    own = OWN_GRID[first]
    for grid in (own, *(set(OWN_GRID.values()) - {own})):
        if {(first, grid), (LABEL, grid)} <= there:
            return grid
    return own


def _transforms(source: Path) -> Transforms:
    transforms: dict[tuple[str, str, str], Path] = {}
    for path in files_below(source):
        match = _TRANSFORM.fullmatch(path.as_posix()) if path.suffix == ".tfm" else None
        if match:
            patient = f"vs_gk_{int(match['number'] or match['bids'])}"
            transforms.setdefault((patient, match["moving"].upper(), match["fixed"].upper()), path)
    return transforms


# -------------------------------------------------------------------------------------------------------------- DICOM


@dataclass
class _Patient:
    """What the headers say of one patient.

    Attributes:
        images: grid -> series.
        contours: UID of an image series -> structure set that was drawn on it, and what is taken from it, in words.
        unreadable: structure sets that cannot be read, so that it is not known what they were drawn on.
    """

    images: dict[str, list[Series]] = field(default_factory=lambda: defaultdict(list))
    contours: dict[str, tuple[Path, str]] = field(default_factory=dict)
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def _from_dicom(
    ignored: Ignored, transforms: Transforms, options: VssegOptions, card: Card, source: Path, output: Path
) -> Conversion:
    found: list[Found] = []
    derived: list[Derived] = []
    for name, patient in _patients(source, options, ignored).items():
        chosen = _series_of_each_modality(patient, card, ignored)
        for role, item in _planned(name, patient, chosen, transforms, options, card, output).items():
            found.append(Found(ImageFile(item.target, item.target.name), role, {"patient": name}))
            derived.append(item)
    plain = options.model_copy(update={"reference_grid": None})  # everything is planned here
    conversion = assemble(found, ignored.exclusions(), plain, card, source, output)
    used = {path for case in conversion.cases.values() for path in (*case.images.values(), case.label)}
    return replace(conversion, derived=[item for item in derived if str(item.target) in used])


def _patients(source: Path, options: VssegOptions, ignored: Ignored) -> dict[str, _Patient]:
    """Series by what their headers say; folder names say nothing."""
    patients: dict[str, _Patient] = defaultdict(_Patient)
    for series in find_series(source):
        match = _PATIENT.fullmatch(series.patient_id)
        contrast = _CONTRAST.search(series.description)
        if not match:
            ignored.add(_shown(series, source), "its PatientID is not VS-SEG-<number>")
            continue
        patient = patients[f"vs_gk_{int(match[1])}"]
        if series.modality == "RTSTRUCT":
            for path in series.files:
                _add_contours(patient, path, options)
        elif series.modality != "MR":
            ignored.add(_shown(series, source), f"{series.modality}, neither image nor structure set")
        elif contrast:
            patient.images[contrast[1].upper()].append(series)
        else:
            ignored.add(_shown(series, source), "neither t1_ nor t2_ in its SeriesDescription")
    return patients


def _add_contours(patient: _Patient, path: Path, options: VssegOptions) -> None:
    try:
        found = read_structure_set(path)
    except InputError:  # stays with the case, so that the check reports it with all other faults
        patient.unreadable.append((path, "unreadable structure set"))
        return
    try:
        chosen = choose_structure(path, found.structures, options.structure).name
        others = ", ".join(item.name for item in found.structures if item.name != chosen)
        words = f"mask drawn from the contours of structure {chosen}" + (f" (others: {others})" if others else "")
    except InputError:  # likewise
        words = "structure set without the tumour"
    for uid in found.series:
        patient.contours.setdefault(uid, (path, words))


def _series_of_each_modality(patient: _Patient, card: Card, ignored: Ignored) -> dict[str, Series]:
    """Of several series of one contrast the one that contours were drawn on counts, else the first."""
    chosen: dict[str, Series] = {}
    for modality, grid in OWN_GRID.items():
        ranked = sorted(patient.images.get(grid, []), key=lambda series: series.uid not in patient.contours)
        if modality in card.modalities and ranked:
            chosen[modality] = ranked[0]
            reason = f"another {grid} series of the patient is used"
        else:
            reason = f"{modality} is not a modality of the card"
        for series in ranked:
            if series is not chosen.get(modality):
                ignored.add(ImageFile(series.files[0], f"{series.patient_id} {series.description}"), reason)
    return chosen


def _planned(
    name: str,
    patient: _Patient,
    chosen: Mapping[str, Series],
    transforms: Transforms,
    options: VssegOptions,
    card: Card,
    output: Path,
) -> dict[str, Derived]:
    """Role -> the file to write."""
    first = card.modalities[0]
    reference = output / "images" / f"{name}_{first}.nii.gz"
    planned: dict[str, Derived] = {}
    for modality, series in chosen.items():
        planned[modality] = Derived(
            series.folder,
            output / "images" / f"{name}_{modality}.nii.gz",
            "image",
            reader=partial(read_series, series_uid=series.uid),
            done=f"DICOM series {series.description} written as NIfTI",
        )
        if modality != first:
            transform = transforms.get((name, OWN_GRID[modality], OWN_GRID[first]))
            planned[modality] = replace(
                planned[modality], step=1, grid=reference, align=options.align, transform=transform
            )
    drawn = patient.contours.get(chosen[first].uid) if first in chosen else None
    path, words = drawn or next(iter(patient.unreadable), (None, ""))
    if path and first in chosen:
        planned[LABEL] = Derived(
            path,
            output / "labels" / f"{name}.nii.gz",
            "label",
            step=1,
            reader=partial(read_structure, reference=reference, name=options.structure),
            done=words,
            header=reference,  # which it has anyway: so that it is known to need that file
        )
    return planned


def _shown(series: Series, source: Path) -> ImageFile:
    path = series.files[0]
    return ImageFile(path, path.relative_to(source).as_posix() if path.is_relative_to(source) else path.name)
