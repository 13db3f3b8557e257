"""What every converter hands over, and the options and file rules that all of them share.

A converter is a function registered in :data:`mvp_bench.registry.CONVERTERS`::

    @CONVERTERS.register("name", summary="what it reads")
    def convert(source: Path, card: Card, output: Path) -> Conversion: ...

It reads file names, tables and headers below ``source`` and returns the cases with absolute paths. It writes nothing:
files that must be made anew are returned as :class:`~mvp_bench.datasets.geometry.derive.Derived`, with targets below
``output``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from mvp_bench.datasets.catalog import field_error
from mvp_bench.datasets.geometry.derive import Derived, Reader
from mvp_bench.datasets.geometry.volumes import Grid
from mvp_bench.datasets.schema import Card, Case, Exclusion, Modality, Repair
from mvp_bench.errors import InputError

IMAGE_ENDINGS = (".nii.gz", ".nii")
_LITTER = re.compile(r"^(\._.*|\..*|__MACOSX)$")


@dataclass(frozen=True)
class Conversion:
    """Cases by id, what was left out and why, and what must be written before the cases are usable."""

    cases: dict[str, Case]
    excluded: list[Exclusion] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    derived: list[Derived] = field(default_factory=list)


Converter = Callable[[Path, Card, Path], Conversion]


class ConverterOptions(BaseModel):
    """Options in a card's ``converter_options`` that every converter understands.

    Patterns are regular expressions. They are matched, without regard to case, against the end of a file's path with
    forward slashes and without its .nii or .nii.gz, beginning at a folder border; so folders above do not matter.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    case_id: str = "{patient}"
    """How the case is called: a format string over the patterns' named groups, such as {patient:0>7}_{session}."""
    patient_id: str = "{patient}"
    """How the patient is called."""
    ignore: dict[str, str] = {}
    """Pattern -> reason, for images of the release that are not used."""
    prefer: list[str] = []
    """Patterns of files that win where a case has several files of one modality (corrected copies)."""
    exclude: dict[str, str] = {}
    """Case -> reason: the explicit way to go on without a faulty case."""
    allow_missing: bool | None = None
    """Whether cases lacking some modality are kept; default: in pre-training datasets only."""
    label_map: dict[int, int] = {}
    """Label value on disk -> value after conversion, decided for the whole release."""
    reference_grid: str | None = None
    """Modality whose grid the others of a case are brought onto; default: none, and other grids are errors."""
    align: Literal["header", "rigid"] = "header"
    """How images reach ``reference_grid``: by the headers alone, or by rigid registration."""
    align_together: list[list[Modality]] = []
    """Modalities that share a position (an acquisition with two contrasts): registered by their first one."""
    repair_origin: bool = False
    """Whether an image that differs from its case in the header's origin alone, by whatever distance, is repaired:
    for releases that are known to lie on one grid."""
    adc_unit: bool = False
    """Whether ADC maps are brought to one unit (1e-6 mm2/s) by their order of magnitude."""

    @field_validator("ignore", "prefer")
    @classmethod
    def _patterns(cls, value: Iterable[str]) -> Iterable[str]:
        for pattern in value:
            compiled(pattern)
        return value


Options = TypeVar("Options", bound=ConverterOptions)


def parse_options(model: type[Options], card: Card) -> Options:
    """The card's ``converter_options`` as ``model``.

    Raises:
        InputError: naming the card and the option.
    """
    try:
        return model.model_validate(card.converter_options)
    except ValidationError as error:
        where = f"card {card.dataset_name}, converter_options"
        raise field_error(where, error, model.model_fields) from error


def compiled(pattern: str) -> re.Pattern[str]:
    """A card's pattern as it is matched: to the end of the path, from any folder border on."""
    try:
        # the part before is lazy, so that an optional folder in the pattern is matched where it is there
        return re.compile(rf"(?:.*?/)??(?:{pattern})", re.IGNORECASE)
    except re.error as error:
        raise ValueError(f"{pattern!r} is not a regular expression: {error}") from error


@dataclass(frozen=True)
class ImageFile:
    """An image below the source folder; ``key`` is what patterns are matched against."""

    path: Path
    key: str

    @property
    def stem(self) -> str:
        """File name without .nii or .nii.gz."""
        return self.key.rsplit("/", 1)[-1]


def image_files(source: Path) -> Iterator[ImageFile]:
    """All .nii and .nii.gz files below ``source``, in natural order; hidden files and __MACOSX are no images.

    The key starts with the source folder's own name, so that it does not matter whether one points at a release or
    at the folder above it. Folders named like a file (``x.nii/x.nii``) are entered.

    Raises:
        InputError: if ``source`` is no folder.
    """
    source = source.resolve()
    if not source.is_dir():
        raise InputError(
            f"--source {source}",
            found="a file" if source.exists() else "no such folder",
            expected="the folder of an unpacked release",
        )
    for path in files_below(source):
        if ending := next((e for e in IMAGE_ENDINGS if path.name.lower().endswith(e)), None):
            relative = PurePosixPath(source.name, path.relative_to(source).as_posix())
            yield ImageFile(path, str(relative)[: -len(ending)])


def files_below(folder: Path) -> Iterator[Path]:
    """All files below ``folder``, in natural order, without hidden ones and __MACOSX; links are followed."""
    entered: set[Path] = set()  # links may lead in a circle
    for parent, folders, files in os.walk(folder, followlinks=True):
        if (real := Path(parent).resolve()) in entered:
            folders.clear()
            continue
        entered.add(real)
        folders[:] = sorted((f for f in folders if not _LITTER.match(f)), key=natural)
        yield from (Path(parent) / name for name in sorted(files, key=natural) if not _LITTER.match(name))


def natural(text: str) -> list[tuple[int, int, str]]:
    """Sort key that puts run-2 before run-10."""
    parts = re.split(r"(\d+)", text)
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in parts if part]


def no_release(source: Path, card: Card, found: str, wanted: str) -> InputError:
    """The error for a source folder that does not hold the release."""
    return InputError(
        f"--source {source}",
        found=found,
        expected=f"{card.title} ({wanted})",
        fix=f"Point --source at {card.folder or 'the folder of the unpacked release'}; the release: {card.url}.",
    )


@dataclass(frozen=True)
class Found:
    """A file and what its name says.

    Attributes:
        role: a modality, ``label`` or ``mask`` (brain mask).
        groups: named groups of the pattern; absent ones are empty.
        rank: lower wins where a case has several files for one role.
        label_map: values to change in this label file whatever the rest of the release holds.
        reader: reads the file if it is no three-dimensional NIfTI file; see :class:`Derived`.
        done: what ``reader`` does, in words, for the list of repairs.
        grid: grid of what ``reader`` gives; None if its header cannot be read.
    """

    file: ImageFile
    role: str
    groups: dict[str, str]
    rank: int = 0
    label_map: dict[int, int] = field(default_factory=dict)
    reader: Reader | None = None
    done: str = ""
    grid: Grid | None = None


class Ignored:
    """Images that are left out by rule, summed up by reason: derived maps would make the list unreadable."""

    def __init__(self, rules: dict[str, str]) -> None:
        self._rules = [(compiled(pattern), reason) for pattern, reason in rules.items()]
        self._rules.append((compiled("old/.*"), "in a folder old/"))
        self._files: dict[str, list[str]] = {}

    def takes(self, file: ImageFile) -> bool:
        """Whether a rule leaves the file out."""
        for pattern, reason in self._rules:
            if pattern.fullmatch(file.key):
                self.add(file, reason)
                return True
        return False

    def add(self, file: ImageFile, reason: str) -> None:
        """Leave out a file for a reason of the caller's."""
        self._files.setdefault(reason, []).append(file.key)

    def exclusions(self) -> list[Exclusion]:
        """One entry per reason."""
        return [summed_up(keys, "files", reason) for reason, keys in self._files.items()]


def summed_up(names: Sequence[str], kind: str, reason: str) -> Exclusion:
    """One entry for everything that is left out for one reason; ``kind`` in the plural (``files``)."""
    return Exclusion(what=names[0] if len(names) == 1 else f"{len(names)} {kind} such as {names[0]}", reason=reason)
