"""A table of paths (CSV or TSV): the shortest way to make a group's own scans a task or a pre-training collection.

One row per image (columns ``patient``, ``modality``, ``path``) or one row per case (``patient`` and a column per
modality); in both ``session``, ``site``, ``label`` (path of the lesion mask), ``class``, and ``brain_mask`` (path; for
images whose background is not 0: they are written anew with 0 outside) where there are any::

    patient,session,modality,path,label           patient,t1,flair,class
    p01,1,T1w,scans/p01/t1.nii.gz,masks/p01.nii    p01,scans/p01/t1.nii.gz,scans/p01/fl.nii.gz,ill
    p01,1,FLAIR,scans/p01/fl.nii.gz,               p02,scans/p02/t1.nii.gz,scans/p02/fl.nii.gz,well

Paths are relative to the table. Empty cells and n/a mean *none*. NRRD and MetaImage files and NIfTI pairs (.hdr and
.img) are fine. Other columns are not looked at. A card::

    {"id": 610, "name": "Clinic", "title": "Two groups", "kind": "classification",
     "modalities": ["t1", "flair"], "classes": ["patient", "control"],
     "patient_rule": "column patient_id", "split": {"stratify": "class"},
     "licence": "internal", "access": "none", "url": "none", "citation": "none", "metrics": ["accuracy"],
     "converter": "table",
     "converter_options": {
       "columns": {"patient": "patient_id", "class": "group"}, "class_map": {"ill": "patient", "well": "control"},
       "modality_names": {"MPRAGE_sag": "t1", "DTI": null}}}

``--source`` is the table, or its folder. Every fault of the table is an error that names its row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from mvp_bench.datasets.integrity.cases import LABEL
from mvp_bench.datasets.reading.assembly import assemble
from mvp_bench.datasets.reading.case_plan import BRAIN_MASK
from mvp_bench.datasets.reading.conversion import Conversion, Found, Ignored, parse_options
from mvp_bench.datasets.reading.sources import SourceOptions, case_name, found_file, image_file, listed, read_rows
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.registry import CONVERTERS

Column = Literal["patient", "session", "site", "modality", "path", "label", "brain_mask", "class"]
MASKS: dict[str, str] = {"label": LABEL, "brain_mask": BRAIN_MASK}
"""Column (and name in the column of modalities) -> role."""


class TableOptions(SourceOptions):
    """Options of the converter ``table``."""

    table: str | None = None
    """Name of the table in the source folder; default: the only .csv or .tsv file there."""
    columns: dict[Column, str] = Field(default={})
    """What a column is called, where it is not called so already; upper and lower case do not matter."""
    delimiter: str | None = None
    """Default: tab in .tsv files, else comma, semicolon or tab, as the first row shows."""
    encoding: str = "utf-8-sig"


@dataclass
class _Reading:
    """What the rows say, and what is wrong with them."""

    path: Path
    files: dict[tuple[str, str], tuple[int, Path, dict[str, str]]] = field(default_factory=dict)
    """(case, role) -> row, file and groups."""
    classes: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Case -> row and class."""
    faults: list[tuple[int, str, str]] = field(default_factory=list)
    """Row, what was found, what was expected."""

    def add_class(self, row: int, case: str, value: str) -> None:
        first, known = self.classes.setdefault(case, (row, value))
        if known != value:
            self.faults.append((row, f"class {value!r} for {case}, {known!r} in row {first}", "one class per case"))

    def add_file(self, row: int, case: str, role: str, text: str, groups: dict[str, str]) -> None:
        path = self.path.parent / text
        if not path.is_file():
            self.faults.append((row, f"no file {path}", "the path of an image, relative to the table's folder"))
            return
        first, known, _ = self.files.setdefault((case, role), (row, path, groups))
        if first != row and not (role in MASKS.values() and known == path):  # every row of a case may name its mask
            self.faults.append((row, f"another file for {role} of {case}, as in row {first}", "one file for each"))

    def raise_faults(self) -> None:
        if self.faults:
            (row, found, expected), *others = self.faults
            fix = f"{len(others)} more faults, in rows {listed(sorted({o[0] for o in others}))}." if others else ""
            raise InputError(f"{self.path}: row {row}", found=found, expected=expected, fix=fix)


@CONVERTERS.register("table", summary="a CSV or TSV table of paths, with one row per image or per case")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read the images that a table names.

    Raises:
        InputError: naming the row, if a file is missing, a modality is unknown, a case has two files for one modality
            or two classes; if a column is missing.
    """
    options = parse_options(TableOptions, card)
    path = _table(source.resolve(), options)
    reading = _read(path, options)
    reading.raise_faults()
    ignored = Ignored(options.ignore)
    found: list[Found] = []
    for (case, role), (_, file_path, groups) in reading.files.items():
        file = image_file(file_path, path.parent)
        if role not in (*MASKS.values(), *card.modalities):
            ignored.add(file, f"{role} is not a modality of the card")
        elif not ignored.takes(file):
            found.append(found_file(file, role, {**groups, "class": reading.classes.get(case, (0, ""))[1]}))
    return assemble(found, ignored.exclusions(), options, card, path.parent, output, options.class_of)


def _table(source: Path, options: TableOptions) -> Path:
    if source.is_file():
        return source
    names = [options.table] if options.table else ["*.csv", "*.tsv"]
    tables = sorted(path for name in names for path in source.glob(name) if path.is_file())
    if len(tables) != 1:
        raise InputError(
            f"--source {source}",
            found=f"{len(tables)} tables ({listed(path.name for path in tables) or 'no .csv or .tsv file'})",
            expected="one table of paths",
            fix="Point --source at the table itself, or name it in converter_options.table.",
        )
    return tables[0]


def _read(path: Path, options: TableOptions) -> _Reading:
    rows = read_rows(path, options.delimiter, options.encoding)
    header = list(rows[0][1]) if rows else []
    column: dict[str, str] = {name: options.columns.get(name, name).lower() for name in get_args(Column)}
    for name in options.columns:
        _needed(column[name], header, path)
    _needed(column["patient"], header, path)
    long_form = column["modality"] in header and column["path"] in header
    images = {} if long_form else _image_columns(header, set(column.values()), options, path)
    reading = _Reading(path)
    for number, row in rows:
        patient, session = row[column["patient"]], row.get(column["session"], "")
        if not patient:
            reading.faults.append((number, "no patient", f"the patient's id in column {column['patient']}"))
            continue
        case = case_name(patient, session)
        groups = {"case": case, "patient": patient, "session": session, "site": row.get(column["site"], "")}
        entries = {role: row[name] for name, role in images.items()}
        if long_form and (row[column["modality"]] or row[column["path"]]):
            try:
                role = _role(row[column["modality"]], options)
            except KeyError:
                known = "a known modality, or a name in converter_options.modality_names"
                reading.faults.append((number, f"the modality {row[column['modality']]!r}", known))
                continue
            entries = {role: row[column["path"]] or "(empty)"} if role else {}
        entries |= {role: row.get(column[name], "") or entries.get(role, "") for name, role in MASKS.items()}
        for role, text in entries.items():
            if text:
                reading.add_file(number, case, role, text, groups)
        if value := row.get(column["class"], ""):
            reading.add_class(number, case, value)
    return reading


def _role(name: str, options: TableOptions) -> str | None:
    return MASKS.get(name.lower()) or options.modality_of(name)


def _needed(name: str, header: list[str], path: Path) -> None:
    if name not in header:
        raise InputError(
            path,
            found=f"the columns {listed(header, 20) or '(no rows)'}",
            expected=f"a column {name}",
            fix="Name the table's columns in converter_options.columns.",
        )


def _image_columns(header: list[str], others: set[str], options: TableOptions, path: Path) -> dict[str, str]:
    """Column -> modality, of a table with one row per case."""
    found: dict[str, str] = {}
    for name in header:
        try:
            modality = None if name in others else options.modality_of(name)
        except KeyError:
            continue
        if modality in found.values():
            raise InputError(path, found=f"two columns for {modality}", expected="one column per modality")
        if modality:
            found[name] = modality
    if not found:
        raise InputError(
            path,
            found=f"the columns {listed(header, 20)}",
            expected="columns modality and path (a row per image), or a column per modality (a row per case)",
            fix="Name them in converter_options.columns or converter_options.modality_names.",
        )
    return found
