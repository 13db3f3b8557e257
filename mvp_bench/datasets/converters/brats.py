"""The BraTS family: every release whose files are called ``<case><- or _><contrast>.nii[.gz]``.

That is BraTS 2018 (HGG and LGG folders), 2021 (``_t1ce``), 2023 (``-t1c``), UPENN-GBM (flat mask folders) and UCSF-PDGM
(``_nifti`` folders). The case is read from the file's name, never from its folder, so that flat, nested and doubled
top folders are the same. The contrast must be the whole rest of the name: ``T1`` is not ``T1_bias`` or ``T1GD``.

Conventions of the labels on disk: 1/2/4 until 2021, UPENN-GBM and UCSF-PDGM; 1/2/3 from 2023 on. The card's
``label_map`` brings the former to 1 necrosis or non-enhancing core, 2 oedema, 3 enhancing tumour.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pydantic import Field, field_validator

from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.assembly import ClassOf, assemble
from mvp_bench.datasets.reading.class_table import Classes, ClassTable
from mvp_bench.datasets.reading.conversion import (
    Conversion,
    ConverterOptions,
    Found,
    Ignored,
    ImageFile,
    image_files,
    parse_options,
)
from mvp_bench.datasets.reading.label_values import held_values
from mvp_bench.datasets.schema import Card, Exclusion, Repair
from mvp_bench.errors import InputError
from mvp_bench.progress import log
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
    rename: dict[str, str] = Field(default={})
    """Regular expression for a case's name on disk -> its name here ({0} is the first group), one after the other,
    before ``case`` is matched: names that changed between versions of a release. Listed as repairs."""
    mask_suffixes: tuple[str, ...] = ("seg",)
    """What masks are called after the case, in order of preference."""
    other_masks: dict[str, str] = Field(default={})
    """What masks are called that are not used -> why; naming one in ``mask_suffixes`` takes it."""
    class_folders: dict[str, str] = Field(default={})
    """Folder name -> class, for BraTS2018's grades."""
    class_table: ClassTable | None = None
    """Table that gives the class of cases outside those folders, read if there are such."""
    site_folders: tuple[str, ...] = ()
    """Names of folders that say where a case comes from."""
    refuse: dict[str, str] = Field(default={})
    """Regular expression found in the path below the source folder -> why this card must not read such a release."""
    refuse_labels: dict[int, str] = Field(default={})
    """Label value -> why a release with it in any mask must not be read with this card, not even without that case."""
    usual_labels: dict[int, str] = Field(default={})
    """Label value that every mask of the release holds -> what it may mean that one lacks it; such is warned of."""

    @field_validator("case")
    @classmethod
    def _is_pattern(cls, value: str) -> str:
        _pattern(value)
        return value

    @field_validator("rename")
    @classmethod
    def _are_names(cls, value: dict[str, str]) -> dict[str, str]:
        for old, new in value.items():
            groups = _pattern(old).groups
            try:
                new.format(*[""] * groups)
            except (IndexError, KeyError, ValueError) as error:
                raise ValueError(f"{new!r} is no format string over the {groups} groups of {old!r}: {error}") from error
        return value


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{text!r} is not a regular expression: {error}") from error


@CONVERTERS.register("brats", summary="BraTS 2018 to 2023, UPENN-GBM, UCSF-PDGM")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read a release of the BraTS family.

    Raises:
        InputError: if a folder or a label is refused, or nothing of the release is found.
    """
    options = parse_options(BratsOptions, card)
    ignored = Ignored(options.ignore)
    names = _Names(options, card)
    found: list[Found] = []
    unread: list[Exclusion] = []
    for file in image_files(source):
        _refuse_folder(file, options, card)
        if ignored.takes(file):
            continue
        item = names.understood(file)
        if isinstance(item, Found):
            found.append(item)
        else:
            unread.append(Exclusion(what=file.key, reason=item))
    _check_labels([item.file.path for item in found if item.role == LABEL], options, card)
    found, unusable = _by_case(found, options, card)
    unread += unusable + ignored.exclusions()
    conversion = assemble(found, unread, options, card, source, output, _class_of(found, options, card, source))
    return replace(conversion, repairs=[*names.repairs(conversion), *conversion.repairs])


class _Names:
    """Reads file names, and keeps in mind which cases it renamed."""

    def __init__(self, options: BratsOptions, card: Card) -> None:
        self._options = options
        self._modalities = card.modalities
        self._name = re.compile(rf"(?P<case>{options.case})[-_](?P<contrast>.+)", re.IGNORECASE)
        rules = options.rename.items()
        self._rename = [(re.compile(rf"(?:{old})(?=[-_])", re.IGNORECASE), new) for old, new in rules]
        self._renamed: dict[str, dict[Path, tuple[str, str]]] = defaultdict(dict)

    def understood(self, file: ImageFile) -> Found | str:
        """The file with its role, or why it is not used."""
        stem, rule = file.stem, ""
        for pattern, new in self._rename:
            if match := pattern.match(stem):
                stem, rule = new.format(*match.groups("")) + stem[match.end() :], pattern.pattern
        match = self._name.fullmatch(stem)
        if not match:
            return "its name is not that of a case of this release"
        groups = {group: value or "" for group, value in match.groupdict().items()}
        contrast = groups.pop("contrast")
        if rule:
            self._renamed[rule][file.path] = file.stem[: -len(contrast) - 1], groups["case"]
        groups["class"] = self._folder(file, self._options.class_folders)
        groups["site"] = self._folder(file, {site: site for site in self._options.site_folders})
        return self._with_role(file, contrast.lower(), groups, renamed=bool(rule))

    def _with_role(self, file: ImageFile, contrast: str, groups: dict[str, str], renamed: bool) -> Found | str:
        masks = [suffix.lower() for suffix in self._options.mask_suffixes]
        if contrast in masks:
            return Found(file, LABEL, groups, rank=2 * masks.index(contrast) + renamed)
        if contrast in self._options.other_masks:
            return Found(file, contrast, groups)
        modality = CONTRASTS.get(contrast)
        if modality not in self._modalities:
            return f"{contrast!r} is not one of the contrasts of this dataset"
        return Found(file, modality, groups, rank=int(renamed))

    @staticmethod
    def _folder(file: ImageFile, names: Mapping[str, str]) -> str:
        """What the innermost of these folders stands for; empty if the file lies in none."""
        values = {folder.lower(): value for folder, value in names.items()}
        return next((values[part] for part in reversed(file.key.lower().split("/")[:-1]) if part in values), "")

    def repairs(self, conversion: Conversion) -> list[Repair]:
        """One entry per rule that renamed a file in use: a whole release renamed would hide the rest."""
        used = {Path(path) for case in conversion.cases.values() for path in case.images.values() if path}
        used |= {item.source for item in conversion.derived}
        entries = []
        for renamed in self._renamed.values():
            if pairs := dict(names for path, names in renamed.items() if path in used):
                old, new = next(iter(pairs.items()))
                what = old if len(pairs) == 1 else f"{len(pairs)} cases such as {old}"
                entries.append(Repair(what=what, repair=f"called {new}, its name in another version of the release"))
        return entries


def _by_case(found: list[Found], options: BratsOptions, card: Card) -> tuple[list[Found], list[Exclusion]]:
    """Apply what only all files of a case tell together: its class and site, and whether it has but an unused mask."""
    by_case: dict[str, list[Found]] = defaultdict(list)
    for item in found:
        by_case[item.groups["case"]].append(item)
    kept: list[Found] = []
    excluded: list[Exclusion] = []
    unused = Ignored({})
    for case, items in by_case.items():
        other_masks = [item for item in items if item.role in options.other_masks]
        classes = sorted({item.groups["class"] for item in items} - {""})
        sites = sorted({item.groups["site"] for item in items} - {""})
        if len(classes) > 1:
            excluded.append(Exclusion(what=case, reason=f"lies in folders of two classes: {', '.join(classes)}"))
        elif other_masks and card.kind == "segmentation" and all(item.role != LABEL for item in items):
            reason = f"its only mask is not used: {options.other_masks[other_masks[0].role]}"
            excluded.append(Exclusion(what=case, reason=reason))
        else:
            for item in other_masks:
                unused.add(item.file, options.other_masks[item.role])
            told = {"class": "".join(classes), "site": "".join(sites[:1])}
            kept += [replace(item, groups={**item.groups, **told}) for item in items if item not in other_masks]
    return kept, excluded + unused.exclusions()


def _class_of(found: Iterable[Found], options: BratsOptions, card: Card, source: Path) -> ClassOf | None:
    """The class by folder, else by table."""
    if card.kind != "classification":
        return None
    table = options.class_table
    classes: Classes | None = None
    if table and any(not item.groups["class"] for item in found) and any(any(source.rglob(f)) for f in table.files):
        classes = Classes(table, source, card)
    tables = f", and there is no {' or '.join(table.files)} to look it up in" if table else ""
    unknown = f"not in a folder {' or '.join(options.class_folders)}{tables}: its class is unknown"

    def class_of(groups: Mapping[str, str]) -> tuple[str | None, str]:
        if groups.get("class"):
            return groups["class"], ""
        return classes(groups) if classes else (None, unknown)

    return class_of


def _refuse_folder(file: ImageFile, options: BratsOptions, card: Card) -> None:
    folder = file.key.rpartition("/")[0]
    for pattern, reason in options.refuse.items():
        if re.search(pattern, folder, re.IGNORECASE):
            raise InputError(
                file.path.parent, found=f"another release ({reason})", expected=card.title, fix=f"See {card.url}."
            )


def _check_labels(masks: Sequence[Path], options: BratsOptions, card: Card) -> None:
    """Refuse a release by the values of all its masks; warn where they look odd."""
    wanted = options.refuse_labels.keys() | options.usual_labels.keys()
    held = held_values(masks) if wanted and card.kind == "segmentation" else {}
    for path, values in held.items():
        for value in values & options.refuse_labels.keys():
            raise InputError(
                path,
                found=f"label {value} ({options.refuse_labels[value]})",
                expected=f"{card.title}, whose masks do not hold it",
                fix=f"None of this release's masks can be trusted then. See {card.url}.",
            )
    for value, reason in options.usual_labels.items():
        if lacking := [path for path, values in held.items() if value not in values]:
            log.warning(
                "%s: %d of %d masks, such as %s, lack label %d: %s",
                card.dataset_name,
                len(lacking),
                len(held),
                lacking[0].name,
                value,
                reason,
            )
