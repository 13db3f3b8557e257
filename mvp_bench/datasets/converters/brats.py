"""The BraTS family: every release whose files are called ``<case><- or _><contrast>.nii[.gz]``.

That is BraTS 2018 (HGG and LGG folders), 2021 (``_t1ce``), 2023 (``-t1c``), UPENN-GBM (flat mask folders) and UCSF-PDGM
(``_nifti`` folders). The case is read from the file's name, never from its folder, so that flat, nested and doubled
top folders are the same. The contrast must be the whole rest of the name: ``T1`` is not ``T1_bias`` or ``T1GD``.

Conventions of the labels on disk: 1/2/4 until 2021, UPENN-GBM and UCSF-PDGM; 1/2/3 from 2023 on. The card's
``label_map`` brings the former to 1 necrosis or non-enhancing core, 2 oedema, 3 enhancing tumour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import Field, field_validator

from mvp_bench.datasets.assembly import assemble
from mvp_bench.datasets.conversion import (
    Conversion,
    ConverterOptions,
    Found,
    Ignored,
    ImageFile,
    image_files,
    parse_options,
)
from mvp_bench.datasets.integrity import LABEL
from mvp_bench.datasets.schema import Card, Exclusion
from mvp_bench.errors import InputError
from mvp_bench.registry import CONVERTERS

CONTRASTS = {
    "t1": "t1",
    "t1n": "t1",
    "t1ce": "t1c",
    "t1c": "t1c",
    "t1gd": "t1c",
    "t2": "t2",
    "t2w": "t2",
    "flair": "flair",
    "t2f": "flair",
    "dwi": "dwi",
    "adc": "adc",
}
"""Name on disk in lower case, over all releases -> modality."""


class BratsOptions(ConverterOptions):
    """Options of the converter ``brats``."""

    case: str
    """Regular expression for the part of the file name before the contrast, with the named groups of case_id."""
    case_id: str = "{case}"
    mask_suffixes: tuple[str, ...] = ("seg",)
    """What masks are called after the case, in order of preference."""
    class_folders: dict[str, str] = Field(default={})
    """Folder name -> class, for BraTS2018's grades."""
    refuse: dict[str, str] = Field(default={})
    """Regular expression found in a folder's path -> why such a release must not be read with this card."""

    @field_validator("case")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from error
        return value


@CONVERTERS.register("brats", summary="BraTS 2018 to 2023, UPENN-GBM, UCSF-PDGM")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read a release of the BraTS family.

    Raises:
        InputError: if a folder is refused, or nothing of the release is found.
    """
    options = parse_options(BratsOptions, card)
    name = re.compile(rf"(?P<case>{options.case})[-_](?P<contrast>.+)", re.IGNORECASE)
    ignored = Ignored(options.ignore)
    found: list[Found] = []
    unread: list[Exclusion] = []
    for file in image_files(source):
        _refuse(file, options, card)
        if ignored.takes(file):
            continue
        item = _understood(file, name, options, card)
        if isinstance(item, Found):
            found.append(item)
        else:
            unread.append(Exclusion(what=file.key, reason=item))
    return assemble(found, unread + ignored.exclusions(), options, card, source, output, partial(_grade, options))


def _understood(file: ImageFile, name: re.Pattern[str], options: BratsOptions, card: Card) -> Found | str:
    """The file with its role, or why it is not used."""
    match = name.fullmatch(file.stem)
    if not match:
        return "its name is not that of a case of this release"
    groups = {group: value or "" for group, value in match.groupdict().items()}
    contrast = groups.pop("contrast").lower()
    groups["class"] = _class_folder(file, options)
    masks = [suffix.lower() for suffix in options.mask_suffixes]
    if contrast in masks:
        return Found(file, LABEL, groups, rank=masks.index(contrast))
    modality = CONTRASTS.get(contrast)
    if modality not in card.modalities:
        return f"{contrast!r} is not one of the contrasts of this dataset"
    return Found(file, modality, groups)


def _class_folder(file: ImageFile, options: BratsOptions) -> str:
    folders = {folder.lower(): name for folder, name in options.class_folders.items()}
    classes = [folders[part.lower()] for part in file.key.split("/")[:-1] if part.lower() in folders]
    return classes[-1] if classes else ""


def _grade(options: BratsOptions, groups: Mapping[str, str]) -> tuple[str | None, str]:
    folders = " or ".join(options.class_folders) or "named in class_folders"
    return groups.get("class") or None, f"not in a folder {folders}: its class is unknown"


def _refuse(file: ImageFile, options: BratsOptions, card: Card) -> None:
    for pattern, reason in options.refuse.items():
        if re.search(pattern, str(file.path.parent), re.IGNORECASE):
            raise InputError(
                file.path.parent, found=f"another release ({reason})", expected=card.title, fix=f"See {card.url}."
            )
