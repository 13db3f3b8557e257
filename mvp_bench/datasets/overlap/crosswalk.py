"""Tables that say which ids are one patient, kept in ``<root>/datasets/crosswalks/``. Users get them with the releases.

A row joins the ids in it. Columns are known by their headers, in any case, with or without blanks and underscores:

- BraTS ids of a year: ``BraTS2023``, ``BraTS2021 ID``, ``BraTS21 ID``, ``BraTS_2018_subject_ID``, ...
- ids of any known form (such as ``UCSF-PDGM-004``): ``ID``, ``Patient``, ``Subject ID``, ...
- ids of another collection: ``Local ID``, ``TCIA PatientID``, ``TCGA_TCIA_subject_ID``, ``Patient ID``. Those of no
  known form count with the collection's name, from ``Cohort Name`` or ``Data Collection``, and not without one.
- ids of a dataset of your own: a column named like it (``MyHospital``, ``Dataset901_MyHospital``) or like the
  ``patient_space`` of its card, with patient ids as in its splits.json.

That covers ``BraTS2023_2017_GLI_Mapping``, ``BraTS21-17_Mapping.csv``, ``BraTS2021_MappingToTCIA.xlsx``, the metadata
of UCSF-PDGM and BraTS2020's ``name_mapping.csv``, as they are or saved again by Excel, and tables of your own.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mvp_bench.datasets.catalog import load_cards
from mvp_bench.datasets.overlap.identity import known_token, own_token, token
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.identity import hash_file
from mvp_bench.io import atomic_path
from mvp_bench.progress import log
from mvp_bench.workspace import Workspace

FOLDER = "crosswalks"
EXCEL = (".xlsx", ".xlsm")
TEXT = (".csv", ".tsv", ".txt")
HEADER_ROWS = 10
"""The header is looked for in this many rows (a title may stand above it)."""
MISSING = frozenset({"", "na", "nan", "none", "null", "unknown", "notavailable"})
"""Cells that hold no id, normalised."""

_BRATS = re.compile(r"brats(?:20)?(\d\d)(?:subject)?(?:id)?")
_ANY = re.compile(r"id|(?:patient|subject|case|participant)(?:id)?")
_LOCAL = re.compile(r"patientid|(?:local|tcia|tcga|tcgatcia)(?:patient|subject)?id")
_COLLECTION = re.compile(r"(?:cohortname|datacollection|collection).*")
_NO_COLLECTION = re.compile(r"private|prior|new|unknown|other")
_DATE = re.compile(r"_\d{4}\.\d\d\.\d\d.*")
"""IvyGAP's and TCGA's local ids may carry the day of the scan."""
_EXPECTED = (
    "at least two columns of ids: BraTS2023, BraTS2021 ID, BraTS_2018_subject_ID, ...; Local ID, TCIA PatientID or ID; "
    "or the name of a dataset or patient_space"
)

ToToken = Callable[[str, str], "str | None"]
"""(cell, collection of the row) -> token, if the cell holds an id that can be told."""


@dataclass(frozen=True)
class Crosswalk:
    """One table, read."""

    path: Path
    sha256: str
    links: tuple[tuple[str, ...], ...]
    """Tokens of one person, per row that joins at least two."""


def crosswalk_folder(workspace: Workspace) -> Path:
    """Where the tables are kept."""
    return workspace.datasets / FOLDER


def add_crosswalks(workspace: Workspace, paths: Iterable[Path]) -> list[Path]:
    """Check tables and copy them into the workspace; one of the same name there is replaced.

    Raises:
        InputError: if a table cannot be read or joins no ids. Then none is copied.
    """
    cards = load_cards(workspace.root).values()
    tables = [read_crosswalk(path, cards) for path in paths]
    targets = []
    for table in tables:
        target = crosswalk_folder(workspace) / table.path.name
        if target.is_file() and hash_file(target) != table.sha256:
            log.warning("%s: replaced by %s", target, table.path)
        with atomic_path(target) as temporary:
            temporary.write_bytes(table.path.read_bytes())
        log.info("%s: %d rows that join ids", target.name, len(table.links))
        targets.append(target)
    return targets


def read_crosswalks(workspace: Workspace, cards: Iterable[Card]) -> list[Crosswalk]:
    """Every table of the workspace, by name.

    Raises:
        InputError: as :func:`read_crosswalk`.
    """
    cards = list(cards)
    known = (*EXCEL, *TEXT)
    paths = sorted(p for p in crosswalk_folder(workspace).glob("[!.~]*") if p.suffix.lower() in known)
    return [read_crosswalk(path, cards) for path in paths]


def read_crosswalk(path: Path, cards: Iterable[Card]) -> Crosswalk:
    """Read a table: .xlsx (every sheet), or text with commas, semicolons or tabs in UTF-8 or Windows-1252.

    Args:
        cards: whose names may stand in the header.

    Raises:
        InputError: if the file cannot be read, no two columns are recognised, or no row joins two ids.
    """
    spaces = _spaces(cards)
    sheets = _sheets(path, spaces)
    header: Sequence[str] = ()
    recognised, links = False, []
    for rows in sheets:
        start, columns = _find_header(rows, spaces)
        header = header or next((row for row in rows if any(row)), ())
        if len(columns) > 1:
            recognised = True
            links += _links(rows[start + 1 :], columns, _collection_column(rows[start]))
    if not recognised:
        raise InputError(path, found=f"columns {', '.join(filter(None, header)) or '(none)'}", expected=_EXPECTED)
    if not links:
        raise InputError(path, found="no row with two ids", expected="rows that join the ids of a patient")
    return Crosswalk(path, hash_file(path), tuple(links))


def normalised(text: str) -> str:
    """Letters and digits in lower case, without blanks of any kind, signs and marks."""
    return re.sub(r"[^0-9a-z]", "", unicodedata.normalize("NFKC", text).lower())


def _spaces(cards: Iterable[Card]) -> dict[str, ToToken]:
    """Normalised header -> the token of an id in that column."""
    spaces: dict[str, ToToken] = {}
    for card in cards:
        for name in filter(None, (card.name, card.dataset_name, card.patient_space)):
            spaces[normalised(name)] = partial(_of_dataset, card)
    return spaces


def _find_header(rows: Sequence[Sequence[str]], spaces: Mapping[str, ToToken]) -> tuple[int, dict[int, ToToken]]:
    """The first row with the most recognised columns, and these."""
    found = [_columns(row, spaces) for row in rows[:HEADER_ROWS]] or [{}]
    best = max(range(len(found)), key=lambda index: (len(found[index]), -index))
    return best, found[best]


def _columns(row: Sequence[str], spaces: Mapping[str, ToToken]) -> dict[int, ToToken]:
    columns: dict[int, ToToken] = {}
    for index, name in enumerate(map(normalised, row)):
        if match := _BRATS.fullmatch(name):
            columns[index] = _scan_number if match[1] == "21" else _known
        elif _LOCAL.fullmatch(name):
            columns[index] = _local
        elif name in spaces:
            columns[index] = spaces[name]
        elif _ANY.fullmatch(name):
            columns[index] = _known
    return columns


def _collection_column(row: Sequence[str]) -> int | None:
    return next((index for index, name in enumerate(row) if _COLLECTION.fullmatch(normalised(name))), None)


def _of_dataset(card: Card, cell: str, _: str) -> str | None:
    return known_token(cell) or own_token(card, cell)


def _known(cell: str, _: str) -> str | None:
    return known_token(cell)


def _scan_number(cell: str, _: str) -> str | None:
    """BraTS 2021 ids, which some tables give as bare numbers."""
    return known_token(f"BraTS2021_{int(cell):05d}" if cell.isdecimal() else cell)


def _local(cell: str, collection: str) -> str | None:
    """An id of a known form, or one of the named collection (UCSF-PDGM's stand as bare numbers in TCIA's sheet)."""
    collection = collection.strip().lower()
    if known := known_token(cell):
        return known
    if normalised(collection) in MISSING or _NO_COLLECTION.match(collection):
        return None
    return token(collection, _DATE.sub("", cell))


def _links(
    rows: Iterable[Sequence[str]], columns: Mapping[int, ToToken], collection: int | None
) -> list[tuple[str, ...]]:
    links = []
    for row in rows:
        cohort = row[collection] if collection is not None and collection < len(row) else ""
        cells = [(to_token, row[index]) for index, to_token in columns.items() if index < len(row)]
        tokens = [to_token(cell, cohort) for to_token, cell in cells if normalised(cell) not in MISSING]
        link = tuple(dict.fromkeys(filter(None, tokens)))
        if len(link) > 1:
            links.append(link)
    return links


# ----------------------------------------------------------------------------------------------------- reading the file


def _sheets(path: Path, spaces: Mapping[str, ToToken]) -> list[list[list[str]]]:
    """The rows of each sheet, every cell as stripped text."""
    if not path.is_file():
        raise InputError(path, found="no such file", expected="a table of ids")
    if path.suffix.lower() in EXCEL:
        return _excel(path)
    if path.suffix.lower() in TEXT:
        return [_text(path, spaces)]
    raise InputError(
        path,
        found=f"a file {path.suffix or 'without ending'}",
        expected=f"one of {', '.join((*EXCEL, *TEXT))}",
        fix="Save the table as .xlsx or .csv.",
    )


def _excel(path: Path) -> list[list[list[str]]]:
    import pandas as pd  # slow to import

    try:
        sheets = pd.read_excel(path, sheet_name=None, header=None, dtype=str, keep_default_na=False)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(path, found=f"no Excel workbook ({error})", expected="an .xlsx file") from error
    return [_stripped(sheet.fillna("").to_numpy(dtype=str).tolist()) for sheet in sheets.values()]


def _text(path: Path, spaces: Mapping[str, ToToken]) -> list[list[str]]:
    """The rows, split at whichever delimiter gives the most recognised columns."""
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")
    readings = [_stripped(csv.reader(io.StringIO(text, newline=""), delimiter=mark)) for mark in ",;\t"]
    return max(readings, key=lambda rows: len(_find_header(rows, spaces)[1]))


def _stripped(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    # Excel's numbers come with a decimal point where a cell of the column is empty.
    return [[re.sub(r"^(\d+)\.0$", r"\1", unicodedata.normalize("NFKC", c).strip()) for c in row] for row in rows]
