r"""One converter that a card configures with patterns, for releases without a converter of their own.

A card of your own, saved as ``<root>/datasets/my_data.json``, here for two patients with multiple sclerosis in folders
``patient07/T1.nii.gz`` ...::

    {"id": 602, "name": "OpenMS", "title": "...", "kind": "segmentation",
     "modalities": ["t1", "t1c", "t2", "flair"],
     "labels": {"background": 0, "lesion": 1}, "regions": {"lesion": [1]},
     "patient_rule": "folder name", "split": {"scheme": "leave_one_out"},
     "licence": "CC BY", "access": "none", "url": "...", "citation": "...", "metrics": ["dice"],
     "converter": "generic",
     "converter_options": {
       "images": {"t1": "(?P<patient>patient\\d{2})/T1", "t1c": "(?P<patient>patient\\d{2})/T1POST",
                  "t2": "(?P<patient>patient\\d{2})/T2", "flair": "(?P<patient>patient\\d{2})/FLAIR"},
       "label": "(?P<patient>patient\\d{2})/lesion"}}

and four patients with glioma, whose images are not 0 outside the brain but come with a brain mask::

     "converter_options": {
       "images": {"flair": "(?P<patient>brats_2013_pat\\d{4})_1/Flair_subtrMeanDivStd",
                  "t1c": "(?P<patient>brats_2013_pat\\d{4})_1/T1c_subtrMeanDivStd"},
       "mask": "(?P<patient>brats_2013_pat\\d{4})_1/brainmask",
       "label": "(?P<patient>brats_2013_pat\\d{4})_1/OTMultiClass"}

Patterns see the path from the source folder's name on, without .nii or .nii.gz. Of several patterns for a modality
the first that fits a case wins. Groups ``session``, ``site`` and ``class`` are kept with the case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pydantic import Field, field_validator

from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.assembly import ClassOf, assemble
from mvp_bench.datasets.reading.case_plan import BRAIN_MASK
from mvp_bench.datasets.reading.class_table import Classes, ClassTable
from mvp_bench.datasets.reading.conversion import (
    Conversion,
    ConverterOptions,
    Found,
    Ignored,
    ImageFile,
    compiled,
    image_files,
    natural,
    parse_options,
)
from mvp_bench.datasets.schema import Card, Case, Exclusion, Modality
from mvp_bench.errors import InputError
from mvp_bench.registry import CONVERTERS


class GenericOptions(ConverterOptions):
    """Options of the converter ``generic``."""

    images: dict[Modality, list[str]] = Field(min_length=1)
    """Modality -> pattern, or patterns in order of preference. Each needs a group ``patient``."""
    label: list[str] = Field(default=[])
    """Patterns of the masks."""
    mask: list[str] = Field(default=[])
    """Patterns of brain masks, for images whose background is not 0: they are written anew with 0 outside."""
    class_map: dict[str, str] = Field(default={})
    """Text of the group ``class`` -> class; without it the text is the class."""
    class_table: ClassTable | None = None
    """Classes from a table, instead of from the path."""
    one_case_per_patient: bool = False
    """Keep each patient's earliest usable session only."""

    @field_validator("images", mode="before")
    @classmethod
    def _lists(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {key: [item] if isinstance(item, str) else item for key, item in value.items()}
        return value

    @field_validator("label", "mask", mode="before")
    @classmethod
    def _list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("images", "label", "mask")
    @classmethod
    def _are_patterns(cls, value: dict[str, list[str]] | list[str]) -> object:
        for patterns in value.values() if isinstance(value, dict) else [value]:
            for pattern in patterns:
                if "patient" not in compiled(pattern).groupindex:
                    raise ValueError(f"{pattern!r} has no group (?P<patient>...)")
        return value

    def roles(self) -> dict[str, list[str]]:
        """Role of a file -> its patterns."""
        return {**{str(m): p for m, p in self.images.items()}, LABEL: self.label, BRAIN_MASK: self.mask}


@CONVERTERS.register("generic", summary="any folder tree, by patterns in the card")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read a folder tree by the card's patterns.

    Raises:
        InputError: if an option is wrong, a file fits two modalities, or nothing is found.
    """
    options = parse_options(GenericOptions, card)
    if unknown := sorted(set(options.images) - set(card.modalities)):
        raise InputError(
            f"card {card.dataset_name}, converter_options.images.{unknown[0]}",
            found="a modality that the card does not list",
            expected=f"one of {', '.join(card.modalities)}",
        )
    patterns = {role: [compiled(pattern) for pattern in texts] for role, texts in options.roles().items()}
    ignored = Ignored(options.ignore)
    found: list[Found] = []
    unread: list[Exclusion] = []
    for file in image_files(source):
        if ignored.takes(file):
            continue
        item = _understood(file, patterns, card)
        if item:
            found.append(item)
        else:
            unread.append(Exclusion(what=file.key, reason="fits no pattern of the card"))
    class_of: ClassOf | None = None
    if card.kind == "classification" and (found or not options.class_table):
        class_of = partial(_path_class, options)
        if options.class_table:
            class_of = classes = Classes(options.class_table, source, card)
            unread += classes.rows_without_image(item.groups for item in found)
    keep = _earliest if options.one_case_per_patient else None
    return assemble(found, unread + ignored.exclusions(), options, card, source, output, class_of, keep)


def _understood(file: ImageFile, patterns: Mapping[str, list[re.Pattern[str]]], card: Card) -> Found | None:
    fitting: list[Found] = []
    for role, alternatives in patterns.items():
        for rank, pattern in enumerate(alternatives):
            if match := pattern.fullmatch(file.key):
                groups = {name: value or "" for name, value in match.groupdict().items()}
                fitting.append(Found(file, role, groups, rank))
                break
    if len(fitting) > 1:
        raise InputError(
            file.path,
            found=f"a name that fits the patterns of {' and '.join(item.role for item in fitting)}",
            expected="patterns that exclude each other",
            fix=f"Change converter_options of card {card.dataset_name}.",
        )
    return fitting[0] if fitting else None


def _path_class(options: GenericOptions, groups: Mapping[str, str]) -> tuple[str | None, str]:
    text = groups.get("class", "")
    if not text:
        return None, "its path names no class"
    if options.class_map and text not in options.class_map:
        return None, f"class {text!r} is not in class_map"
    return options.class_map.get(text, text), ""


def _earliest(cases: dict[str, Case]) -> tuple[dict[str, Case], list[Exclusion]]:
    """Each patient's first case by session, then by path."""
    order = sorted(cases, key=lambda c: (natural(cases[c].session or ""), natural(_first_path(cases[c]))))
    kept: dict[str, str] = {}
    dropped = []
    for case_id in order:
        first = kept.setdefault(cases[case_id].patient, case_id)
        if first != case_id:
            reason = f"another session or processing of patient {cases[case_id].patient}; {first} is kept"
            dropped.append(Exclusion(what=case_id, reason=reason))
    return {case_id: cases[case_id] for case_id in sorted(kept.values(), key=natural)}, dropped


def _first_path(case: Case) -> str:
    return next(path for path in case.images.values() if path)
