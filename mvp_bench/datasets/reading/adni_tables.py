"""Where ADNI's classes come from: the collection's table, sidecars of the images, or the diagnoses of all visits."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from xml.etree import ElementTree

from mvp_bench.datasets.reading.class_table import named, read_table
from mvp_bench.datasets.reading.conversion import files_below, summed_up
from mvp_bench.datasets.schema import Card, Exclusion
from mvp_bench.errors import InputError

IMAGE, SUBJECT, GROUP, VISIT, DATE = "Image Data ID", "Subject", "Group", "Visit", "Acq Date"
"""Columns of a collection's table."""
DIAGNOSES = {
    "ADNIMERGE": {
        "DX": {
            **{name: "CN" for name in ("CN", "NL", "MCI to NL")},
            **{name: "MCI" for name in ("MCI", "NL to MCI", "Dementia to MCI")},
            **{name: "Dementia" for name in ("Dementia", "MCI to Dementia", "NL to Dementia")},
        },
    },
    "DXSUM": {
        "DIAGNOSIS": {"1": "CN", "2": "MCI", "3": "Dementia"},
        "DXCHANGE": {
            **{code: "CN" for code in ("1", "7", "9")},
            **{code: "MCI" for code in ("2", "4", "8")},
            **{code: "Dementia" for code in ("3", "5", "6")},
        },
        "DXCURREN": {"1": "CN", "2": "MCI", "3": "Dementia"},
    },
}
"""Start of a table's name -> columns that may hold the diagnosis (each phase of the study filled another one) -> what
their values mean. Older tables have NL for CN, and name changes since the last visit."""


@dataclass(frozen=True)
class Scan:
    """An image as its path names it; ``day``: of the acquisition."""

    image: str
    subject: str
    day: date


@dataclass(frozen=True)
class Group:
    """What a table says of a scan: research group or diagnosis, and the visit's code."""

    name: str
    visit: str


@dataclass(frozen=True)
class _Row:
    group: Group
    subject: str
    day: date | None


class CollectionGroups:
    """Research groups from the tables of a collection or, where there is none, from the images' XML sidecars.

    Rows are joined by image id (with or without the leading I), never by subject; subject and date must agree.
    """

    def __init__(self, source: Path, card: Card) -> None:
        """Read all of them below ``source``.

        Raises:
            InputError: if there is neither table nor sidecar, or one cannot be read.
        """
        self._rows: dict[str, set[_Row]] = defaultdict(set)
        self._where: dict[str, str] = {}
        files = list(files_below(source))
        for path in (path for path in files if path.suffix.lower() == ".csv"):
            self._add_table(path)
        if not self._rows:
            for path in (path for path in files if re.fullmatch(r"ADNI_.*\.xml", path.name, re.IGNORECASE)):
                self._add_sidecar(path)
        if not self._rows:
            raise InputError(
                f"--source {source}",
                found=f"no table with the columns {IMAGE}, {SUBJECT} and {GROUP}, and no XML sidecar with a group",
                expected="the table of the collection (.csv), as downloaded with the images",
                fix=f"Put the table of {card.title} into the source folder; see {card.url}.",
            )

    def __call__(self, scan: Scan) -> Group | str:
        """The group of a scan, or why it has none."""
        rows = self._rows.get(scan.image)
        if not rows:
            return f"no row for I{scan.image} in {named(self._where.values())}"
        where = self._where[scan.image]
        if others := {row.subject for row in rows} - {scan.subject}:
            return f"{where} says that I{scan.image} is of subject {min(others)}"
        if days := {row.day for row in rows if row.day} - {scan.day}:
            return f"{where} says that I{scan.image} is of {min(days)}, not of {scan.day}"
        if len(groups := {row.group.name for row in rows}) > 1:
            return f"the tables contradict each other: {', '.join(sorted(groups))}"
        return min((row.group for row in rows), key=lambda group: group.visit)

    def rows_without_image(self, images: Iterable[str]) -> list[Exclusion]:
        """The rows that none of these images belongs to."""
        unseen = self._rows.keys() - set(images)
        by_table: dict[str, list[str]] = defaultdict(list)
        for image, table in self._where.items():
            if image in unseen:
                by_table[table].append(f"I{image} in {table}")
        return [summed_up(names, "rows", "no image") for names in by_table.values()]

    def _add_table(self, path: Path) -> None:
        rows = read_table(path)
        if not rows or not {IMAGE, SUBJECT, GROUP} <= rows[0].keys():
            return
        for row in rows:
            group = Group(row[GROUP], row.get(VISIT, ""))
            self._add(row[IMAGE], _Row(group, row[SUBJECT], _day(row.get(DATE, ""))), path)

    def _add_sidecar(self, path: Path) -> None:
        try:
            elements = list(ElementTree.parse(path).iter())
        except ElementTree.ParseError as error:
            raise InputError(path, found=f"no XML ({error})", expected="an image's sidecar") from error
        texts: dict[str, list[str]] = defaultdict(list)
        for element in elements:
            texts[element.tag.rpartition("}")[2]].append((element.text or "").strip())
        subject, group, visit = (
            next(iter(texts[name]), "") for name in ("subjectIdentifier", "researchGroup", "visitIdentifier")
        )
        if group:
            for image in texts["imageUID"]:  # the image's own, and those that it was made from: of the same visit
                self._add(image, _Row(Group(group, visit), subject, None), path)

    def _add(self, image: str, row: _Row, path: Path) -> None:
        if match := re.fullmatch(r"I?(\d+)", image, re.IGNORECASE):
            self._rows[match[1]].add(row)
            self._where.setdefault(match[1], path.name)


class VisitDiagnoses:
    """Diagnoses of each visit, from ADNIMERGE.csv or else DXSUM_PDXCONV_ADNIALL.csv (also with a date in the name);
    joined by subject and the nearest examination."""

    def __init__(self, source: Path, card: Card, max_days: int) -> None:
        """Read the table.

        Raises:
            InputError: if there is none, or it cannot be read.
        """
        self._max_days = max_days
        self._name = ""
        self._exams: dict[str, dict[date, set[Group]]] = defaultdict(lambda: defaultdict(set))
        tables = [path for path in files_below(source) if path.suffix.lower() == ".csv"]
        for start, columns in DIAGNOSES.items():
            for path in (path for path in tables if path.name.upper().startswith(start)):
                self._add_table(path, columns)
            if self._exams:
                return
        raise InputError(
            f"--source {source}",
            found=f"no table {' or '.join(f'{start}*.csv' for start in DIAGNOSES)} with subjects, dates and diagnoses",
            expected="one, since converter_options.diagnosis is 'visit'",
            fix=f"Download it (Study Data at {card.url}) into the source folder, or set the option to 'group'.",
        )

    def __call__(self, scan: Scan) -> Group | str:
        """The diagnosis nearest to a scan, or why it has none."""
        exams = self._exams.get(_roster_id(scan.subject))
        if not exams:
            return f"no diagnosis of {scan.subject} in {self._name}"
        nearest = min(exams, key=lambda day: (abs(day - scan.day), day))
        if (days := abs(nearest - scan.day).days) > self._max_days:
            return f"the nearest diagnosis ({nearest}) is {days} days from the scan, more than {self._max_days}"
        if len(names := {group.name for group in exams[nearest]}) > 1:
            return f"{self._name} contradicts itself on {nearest}: {', '.join(sorted(names))}"
        return min(exams[nearest], key=lambda group: group.visit)

    def _add_table(self, path: Path, columns: Mapping[str, Mapping[str, str]]) -> None:
        self._name = path.name
        rows = read_table(path)
        subject = next((name for name in ("PTID", "RID") if rows and name in rows[0]), None)
        if subject is None or "EXAMDATE" not in rows[0]:
            return
        for row in rows:
            day = _day(row["EXAMDATE"])
            names = (codes.get(row.get(column, "").removesuffix(".0")) for column, codes in columns.items())
            name = next((name for name in names if name), None)
            if day and name:
                self._exams[_roster_id(row[subject])][day].add(Group(name, row.get("VISCODE", "")))


def _roster_id(subject: str) -> str:
    """RID, which is the last part of the subject id without zeros in front."""
    return subject.rpartition("_")[2].removesuffix(".0").lstrip("0")


def _day(text: str) -> date | None:
    """A date, written 4/18/2006 or 2006-04-18; None where there is none."""
    for form in ("%m/%d/%Y", "%Y-%m-%d"):
        try:
            return datetime.strptime(text, form).date()
        except ValueError:
            continue
    return None
