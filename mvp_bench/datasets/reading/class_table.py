"""Classes from the tables that come with a release: collection lists, phenotype sheets, participants.tsv."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from mvp_bench.datasets.reading.conversion import natural, summed_up
from mvp_bench.datasets.schema import Card, Exclusion
from mvp_bench.errors import InputError

_BOM = "ï»¿"
"""A byte-order mark read as latin-1."""


class ClassTable(BaseModel):
    """Option ``class_table``: where the class stands and how a row is joined to an image."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: list[str] = Field(min_length=1)
    """Names of the tables (with * and ?), looked for in the source folder and at any depth below it; those without
    the columns are passed over. .tsv is split at tabs, everything else at ``delimiter``."""
    delimiter: str = ","
    encoding: str = "utf-8-sig"
    key: str = "{patient}"
    """Format string over the pattern's groups: the image's key."""
    id_columns: list[str] = Field(min_length=1)
    """Names that the column with the id may have."""
    id_pattern: str = r"(.+)"
    """Matched against the whole cell; rows that do not match are passed over."""
    id_format: str = "{0}"
    """The row's key from the pattern's groups, such as {0:0>7}."""
    class_columns: list[str] = Field(min_length=1)
    """Names that the column with the class may have."""
    map: dict[str, str]
    """Cell value -> class; every other value leaves the case out, with the value as reason."""


class Classes:
    """Key -> class, over all tables of a release. A value with a class wins over one without (``pending``)."""

    def __init__(self, table: ClassTable, source: Path, card: Card) -> None:
        """Read the tables.

        Raises:
            InputError: if there is no table with the columns, or it cannot be read.
        """
        self._table = table
        self._values: dict[str, dict[str, str]] = {}
        self._first_in: dict[Path, list[str]] = {}
        self._map = {value.lower(): name for value, name in table.map.items()}
        names = sorted(
            {path for pattern in table.files for path in source.rglob(pattern)}, key=lambda p: natural(str(p))
        )
        self._read = [path for path in names if path.is_file() and not path.name.startswith(".") and self._add(path)]
        if not self._read:
            raise InputError(
                f"--source {source}",
                found=f"{len(names)} tables named {' or '.join(table.files)}, none with the columns",
                expected=f"columns {' or '.join(table.id_columns)}, and {' or '.join(table.class_columns)}",
                fix=f"Put the table of {card.title} into the source folder; see {card.url}.",
            )

    def __call__(self, groups: Mapping[str, str]) -> tuple[str | None, str]:
        """The class of an image with these groups, or None and the reason."""
        key = self._table.key.format_map(groups)
        values = self._values.get(key)
        if not values:
            return None, f"no row for {key} in {named(path.name for path in self._read)}"
        classes = {self._map[value.lower()] for value in values if value.lower() in self._map}
        if len(classes) > 1:
            return None, f"the tables contradict each other: {', '.join(sorted(values))}"
        if not classes:
            return None, f"{values[min(values)]} is {min(values)!r}"
        return classes.pop(), ""

    def rows_without_image(self, images: Iterable[Mapping[str, str]]) -> list[Exclusion]:
        """The rows that no image belongs to, one entry per table.

        Args:
            images: groups of all images that were found, used or not.
        """
        unseen = self._values.keys() - {self._table.key.format_map(groups) for groups in images}
        entries = []
        for path, keys in self._first_in.items():
            if names := [f"{key} in {path.name}" for key in keys if key in unseen]:
                entries.append(summed_up(names, "rows", "no image"))
        return entries

    def _add(self, path: Path) -> bool:
        """File the rows of one table; False if it has not the columns."""
        rows = read_table(path, self._table.delimiter, self._table.encoding)
        columns = rows[0] if rows else {}
        id_column = next((name for name in self._table.id_columns if name in columns), None)
        class_column = next((name for name in self._table.class_columns if name in columns), None)
        if id_column is None or class_column is None:
            return False
        for row in rows:
            if match := re.fullmatch(self._table.id_pattern, row[id_column].removesuffix(".0")):
                key = self._table.id_format.format(*match.groups())
                if key not in self._values:
                    self._values[key] = {}
                    self._first_in.setdefault(path, []).append(key)
                self._values[key].setdefault(row[class_column].removesuffix(".0"), class_column)
        return True


def read_table(path: Path, delimiter: str = ",", encoding: str = "utf-8-sig") -> list[dict[str, str]]:
    """The rows of a table, names and cells without blanks around them; .tsv is split at tabs whatever the delimiter.

    Raises:
        InputError: if it is no table, or a row has more cells than there are columns.
    """
    separator = "\t" if path.suffix.lower() == ".tsv" else delimiter
    rows = []
    try:
        with path.open(encoding=encoding, newline="") as file:
            reader = csv.DictReader(file, delimiter=separator, restval="", skipinitialspace=True, strict=True)
            columns = [name.removeprefix(_BOM).strip() for name in reader.fieldnames or ()]
            reader.fieldnames = columns
            for row in reader:
                if any(cell.strip() for cell in row.pop(None, ())):
                    raise InputError(
                        path, found=f"too many cells in line {reader.line_num}", expected=f"{len(columns)} columns"
                    )
                rows.append({name: cell.strip() for name, cell in row.items()})
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(path, found=f"a table that cannot be read ({error})", expected="a table of text") from error
    if not columns:
        raise InputError(path, found="an empty file", expected="a table")
    return rows


def named(tables: Iterable[str]) -> str:
    """The first three names, and how many more there are."""
    names = list(dict.fromkeys(tables))
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
