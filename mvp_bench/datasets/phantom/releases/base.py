"""What a layout is."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mvp_bench.datasets.phantom.subject import Person

LABEL = "label"
"""Key of the mask among a patient's files."""


@dataclass(frozen=True)
class Stored:
    """How one image lies on disk.

    Attributes:
        path: relative to the release's top folder.
        scale: factor on the grey values (ADC: 1 for 1e-6 mm2/s).
        whole: rounded to int16; else float32.
    """

    path: str
    scale: float = 1.0
    whole: bool = True


Record = Mapping[str, Any]
"""A patient in PHANTOM.json: "patient", "index" and the subject's facts."""


class ReleaseLayout(Protocol):
    """One release."""

    @property
    def top(self) -> str:
        """Folder below the destination that a user would point ``--source`` at."""

    def patient(self, index: int, count: int, person: Person) -> str:
        """The patient's id, by the card's patient rule."""

    def files(self, index: int, count: int, person: Person) -> dict[str, Stored]:
        """Modality (or ``LABEL``) -> file; every modality of the release, acquired or not."""

    def tables(self, records: Sequence[Record]) -> dict[str, str]:
        """Relative path -> text of the tables that come with the images."""


def table(
    header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",", quote_all: bool = False
) -> str:
    """Text of a delimited table."""
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter=delimiter, quoting=csv.QUOTE_ALL if quote_all else csv.QUOTE_MINIMAL, lineterminator="\n"
    )
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()
