"""ADNI as the image archive (LONI IDA) hands it out, in NIfTI or in DICOM, with the collection's table beside it::

    ADNI/<subject>/<description>/<acquisition date>_<time>/I<image>/ADNI_<subject>_MR_<description>_..._I<image>.nii

The last folder may be called S<series> instead; DICOM downloads have one such file per slice (``.dcm``). An image is
known by its image id, which is unique: a subject has many visits, a visit several acquisitions, and an acquisition
several processings.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from mvp_bench.datasets.reading.adni_tables import CollectionGroups, Group, Scan, VisitDiagnoses
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
    natural,
    parse_options,
)
from mvp_bench.datasets.reading.dicom import read_series
from mvp_bench.datasets.schema import Card, Case, Exclusion
from mvp_bench.registry import CONVERTERS

_IMAGE = compiled(
    r"(?P<patient>(?P<site>\d{3})_S_\d{4,5})/(?P<description>[^/]+)/"
    r"(?P<session>\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01]))[^/]*/[IS]\d+/ADNI_[^/]*_I(?P<image>\d+)"
)
_DICOM = ".dcm"
_DERIVED_IMAGE = "mask|spatially|registered|mni|atlas|segment"
_REPEAT = "mpr-r|repeat"


class AdniOptions(ConverterOptions):
    """Options of the converter ``adni``."""

    case_id: str = "{patient}_I{image}"
    groups: dict[str, str] = Field(default={"CN": "CN", "MCI": "MCI", "EMCI": "MCI", "LMCI": "MCI"})
    """Research group (CN, SMC, EMCI, MCI, LMCI, AD, Patient) or diagnosis (CN, MCI, Dementia) -> class. Scans of any
    other are left out and listed."""
    diagnosis: Literal["group", "visit"] = "group"
    """``group``: the research group in the collection's table (or the XML sidecars), which is the subject's at
    enrolment. ``visit``: the diagnosis at the examination nearest to the scan, from ADNIMERGE.csv or
    DXSUM_PDXCONV_ADNIALL.csv."""
    max_days: int = Field(default=90, ge=0)
    """Days (for ``visit``) that scan and examination may lie apart. Visits are six months or more apart, so 90 days are
    nearer to one than to any other."""
    visit: Literal["earliest", "all"] | list[str] = "earliest"
    """Each subject's earliest usable visit, all of them, or those with these codes (such as sc, bl, m12), as they stand
    in the table that gives the class."""
    descriptions: str = f"(?!.*(?:{_DERIVED_IMAGE})).*(?:mpr|mp[-_]rage|spgr|t1).*"
    """Pattern of the descriptions that are T1 images in native space; images with another one are left out."""
    processing: list[str] = Field(
        default=[
            f"(?!.*(?:{_REPEAT})).*_scaled",
            f"(?!.*(?:{_REPEAT})).*_scaled_2",
            f"(?!.*(?:{_REPEAT})).*_n3m?",
            f"(?!.*(?:{_REPEAT})).*",
        ]
    )
    """Patterns of descriptions in order of preference, for a visit with several images (processings of one acquisition,
    repeats): the image that fits the first of them is taken, ties by name; the others are listed."""

    @field_validator("descriptions", "processing")
    @classmethod
    def _are_patterns(cls, value: str | list[str]) -> str | list[str]:
        for pattern in [value] if isinstance(value, str) else value:
            compiled(pattern)
        return value


@CONVERTERS.register("adni", summary="ADNI from LONI IDA (NIfTI or DICOM) with the collection's table")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read a download of ADNI.

    Raises:
        InputError: if an option is wrong, nothing of the release is found, or the table is missing or unreadable.
    """
    options = parse_options(AdniOptions, card)
    ignored = Ignored(options.ignore)
    t1 = re.compile(options.descriptions, re.IGNORECASE)
    found: list[Found] = []
    for file in _images(source):
        if ignored.takes(file):
            continue
        match = _IMAGE.fullmatch(file.key)
        if match is None:
            ignored.add(file, "its path is not that of an image of ADNI")
        elif not t1.fullmatch(match["description"]):
            ignored.add(file, f"its description {match['description']} is none of a T1 image")
        else:
            item = Found(file, "t1", match.groupdict())
            if file.path.suffix.lower() == _DICOM:  # NIfTI is preferred where an image is there as both
                item = replace(item, rank=1, reader=read_series, done="DICOM series written as NIfTI")
            found.append(item)
    unread = ignored.exclusions()
    class_of = None
    if found:
        groups = CollectionGroups(source, card) if options.diagnosis == "group" else None
        unread += groups.rows_without_image(item.groups["image"] for item in found) if groups else []
        class_of = _ClassOf(groups or VisitDiagnoses(source, card, options.max_days), options)
    return assemble(found, unread, options, card, source, output, class_of, _Keep(options))


def _images(source: Path) -> Iterator[ImageFile]:
    """NIfTI files, and the first slice of each image in DICOM."""
    yield from image_files(source)
    source = source.resolve()
    seen: set[tuple[Path, str]] = set()
    for path in files_below(source):
        image = path.stem.rpartition("_")[2]
        if path.suffix.lower() == _DICOM and (path.parent, image) not in seen:
            seen.add((path.parent, image))
            yield ImageFile(path, f"{source.name}/{path.relative_to(source).with_suffix('').as_posix()}")


@dataclass(frozen=True)
class _ClassOf:
    """Class of an image from the groups of its path."""

    source: CollectionGroups | VisitDiagnoses
    options: AdniOptions

    def __call__(self, groups: Mapping[str, str]) -> tuple[str | None, str]:
        scan = Scan(groups["image"], groups["patient"].upper(), date.fromisoformat(groups["session"]))
        found = self.source(scan)
        if not isinstance(found, Group):
            return None, found
        visits = self.options.visit
        if isinstance(visits, list) and found.visit.lower() not in {visit.lower() for visit in visits}:
            return None, f"visit {found.visit!r} is not one of {', '.join(visits)}"
        what = "Group" if self.options.diagnosis == "group" else "the diagnosis at the visit"
        return self.options.groups.get(found.name), f"{what} is {found.name!r}"


@dataclass(frozen=True)
class _Keep:
    """Of the usable images one per subject and date, and the visits that are wanted."""

    options: AdniOptions

    def __call__(self, cases: dict[str, Case]) -> tuple[dict[str, Case], list[Exclusion]]:
        first: dict[tuple[str | None, ...], str] = {}
        dropped = []
        for name in sorted(cases, key=lambda name: (cases[name].session or "", self._rank(cases[name]))):
            patient, session = cases[name].patient, cases[name].session
            kept = first.setdefault((patient,) if self.options.visit == "earliest" else (patient, session), name)
            if kept != name:
                what = "image" if cases[kept].session == session else "visit"
                reason = f"another {what} of {patient} ({session}); {kept} is kept"
                dropped.append(Exclusion(what=name, reason=reason))
        return {name: cases[name] for name in sorted(first.values(), key=natural)}, dropped

    def _rank(self, case: Case) -> tuple:
        path = Path(str(case.images["t1"]))
        description = path.parents[2].name
        patterns = self.options.processing
        fits = (i for i, p in enumerate(patterns) if re.fullmatch(p, description, re.IGNORECASE))
        return next(fits, len(patterns)), natural(description), natural(path.name)
