"""Classes from the tables that come with a release: collection lists, phenotype sheets, participants.tsv."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, ConfigDict, Field

from mvp_bench.datasets.conversion import natural
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError


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
            return None, f"no row for {key} in {', '.join(path.name for path in self._read[:3])}"
        classes = {self._map[value.lower()] for value in values if value.lower() in self._map}
        if len(classes) > 1:
            return None, f"the tables contradict each other: {', '.join(sorted(values))}"
        if not classes:
            return None, f"{values[min(values)]} is {min(values)!r}"
        return classes.pop(), ""

    def _add(self, path: Path) -> bool:
        """File the rows of one table; False if it has not the columns."""
        separator = "\t" if path.suffix.lower() == ".tsv" else self._table.delimiter
        try:
            rows = pd.read_csv(
                path,
                sep=separator,
                dtype=str,
                encoding=self._table.encoding,
                keep_default_na=False,
                skipinitialspace=True,
            )
        except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
            raise InputError(
                path, found=f"a table that cannot be read ({error})", expected="a table of text"
            ) from error
        columns = {str(name).strip().removeprefix("ï»¿"): name for name in rows.columns}  # a BOM read as latin-1
        id_column = next((columns[name] for name in self._table.id_columns if name in columns), None)
        class_column = next((columns[name] for name in self._table.class_columns if name in columns), None)
        if id_column is None or class_column is None:
            return False
        for identity, value in zip(rows[id_column], rows[class_column], strict=True):
            match = re.fullmatch(self._table.id_pattern, str(identity).strip().removesuffix(".0"))
            if match:
                key = self._table.id_format.format(*match.groups())
                cell = str(value).strip().removesuffix(".0")
                self._values.setdefault(key, {}).setdefault(cell, str(class_column).strip())
        return True
