"""What the converters for generic sources (table, BIDS, nnU-Net, MSD, nnssl) share: names, tables, patients."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, field_validator

from mvp_bench.datasets.geometry.nifti import PAIR_ENDINGS
from mvp_bench.datasets.geometry.volumes import Grid, read_grid, read_volume
from mvp_bench.datasets.reading.conversion import IMAGE_ENDINGS, ConverterOptions, Found, ImageFile
from mvp_bench.datasets.reading.itk_files import ITK_ENDINGS, read_itk, read_itk_grid
from mvp_bench.datasets.schema import Card, Modality
from mvp_bench.errors import InputError
from mvp_bench.progress import log

ALIASES: dict[Modality, str] = {
    "t1": "t1 t1w t1n t1pre mprage",
    "t1c": "t1c t1ce t1gd t1post t1wce t1cew t1wgd t1gdw t1contrast",
    "t2": "t2 t2w",
    "flair": "flair t2f t2flair t2wflair",
    "dwi": "dwi trace b1000 dwib1000",
    "adc": "adc adcmap",
    "pd": "pd pdw",
    "mra": "mra angio tof tofmra",
    "t1ir": "t1ir irt1 ir",
}
"""Names in use for the modalities; upper and lower case, blanks and punctuation do not matter."""
_MODALITY_OF = {name: modality for modality, names in ALIASES.items() for name in names.split()}
_NOTHING = {"", "n/a", "na", "nan"}


class SourceOptions(ConverterOptions):
    """Options of all converters for generic sources."""

    case_id: str = "{case}"
    modality_names: dict[str, Modality | None] = Field(default={})
    """Name in the source -> modality, before the names known anyway; null: an image that is not wanted."""
    class_map: dict[str, str] = Field(default={})
    """Value in the source -> class; without it the value is the class."""

    def modality_of(self, name: str) -> Modality | None:
        """The modality that goes by ``name``; None if the card does not want it.

        Raises:
            KeyError: if the name is not known.
        """
        own = {_plain(key): modality for key, modality in self.modality_names.items()}
        return own[_plain(name)] if _plain(name) in own else _MODALITY_OF[_plain(name)]

    def class_of(self, groups: Mapping[str, str]) -> tuple[str | None, str]:
        """The class of a case whose group ``class`` is the source's value, or None and the reason."""
        value = groups.get("class", "")
        if not value:
            return None, "the source gives no class"
        if self.class_map and value not in self.class_map:
            return None, f"class {value!r} is not in class_map"
        return self.class_map.get(value, value), ""


class NamedCaseOptions(SourceOptions):
    """Options of converters whose source names cases, but not patients."""

    patient: str | None = None
    """Regular expression with a group ``patient``, matched against the whole case id; default: every case is a
    patient."""

    @field_validator("patient")
    @classmethod
    def _pattern(cls, value: str | None) -> str | None:
        try:
            if value is not None and "patient" not in re.compile(value).groupindex:
                raise ValueError(f"{value!r} has no group (?P<patient>...)")
        except re.error as error:
            raise ValueError(f"{value!r} is not a regular expression: {error}") from error
        return value

    def groups_of(self, case: str, card: Card) -> dict[str, str]:
        """The groups of one case.

        Raises:
            InputError: if the case does not fit the rule.
        """
        if self.patient is None:
            return {"case": case, "patient": case}
        match = re.fullmatch(self.patient, case)
        if not match or not match["patient"]:
            raise InputError(
                f"card {card.dataset_name}, converter_options.patient",
                found=f"a rule that the case {case} does not fit",
                expected="a pattern that fits every case id",
            )
        return {"case": case, **{name: text or "" for name, text in match.groupdict().items()}}

    def warn_if_unnamed(self, card: Card) -> None:
        """Say that patients were not told apart from cases: a patient's second case would leak into the test part."""
        if self.patient is None:
            log.warning(
                "%s: every case counts as a patient of its own. If a patient has several cases, say how to read the "
                "patient from the case id: converter_options.patient, such as (?P<patient>.+)_\\d+.",
                card.dataset_name,
            )


Options = TypeVar("Options", bound=ConverterOptions)


def onto_first_modality(options: Options, card: Card) -> Options:
    """Options with the card's first modality as reference grid, unless the card says something else (null: none)."""
    if "reference_grid" in options.model_fields_set:
        return options
    return options.model_copy(update={"reference_grid": card.modalities[0]})


def case_name(patient: str, session: str) -> str:
    """``patient``, or ``patient_session`` where there is one."""
    return f"{patient}_{session}" if session else patient


def image_file(path: Path, source: Path) -> ImageFile:
    """A file that a table or an index names, with the key it would have if it had been found below ``source``."""
    name = path.relative_to(source.parent).as_posix() if path.is_relative_to(source) else path.as_posix()
    return ImageFile(path, without_ending(name))


def found_file(
    file: ImageFile, role: str, groups: dict[str, str], rank: int = 0, volumes: Sequence[int] = (), done: str = ""
) -> Found:
    """A file with the reader that it needs.

    Args:
        volumes: of a four-dimensional NIfTI file, those whose mean is the image.
        done: what that means, in words.
    """
    if file.path.name.lower().endswith(ITK_ENDINGS):
        grid = _grid_or_none(partial(read_itk_grid, file.path))
        return Found(file, role, groups, rank, reader=read_itk, done="brought to NIfTI", grid=grid)
    if not volumes:
        return Found(file, role, groups, rank)
    grid = _grid_or_none(partial(read_grid, file.path, volumes))
    return Found(file, role, groups, rank, reader=partial(read_volume, volumes=tuple(volumes)), done=done, grid=grid)


def _grid_or_none(read: Callable[[], Grid]) -> Grid | None:
    """None where the header is faulty: the check of the cases says so, with all other faults."""
    try:
        return read()
    except InputError:
        return None


def without_ending(name: str) -> str:
    """A file name without the ending that says it is an image."""
    ending = next((e for e in (*IMAGE_ENDINGS, *ITK_ENDINGS, *PAIR_ENDINGS) if name.lower().endswith(e)), "")
    return name[: len(name) - len(ending)]


def index_file(source: Path, name: str, card: Card) -> Path:
    """``source`` if it is a file, else the file called ``name`` in it or in one of its folders.

    Raises:
        InputError: if there is none, or more than one.
    """
    source = source.resolve()
    if source.is_file():
        return source
    found = [source / name] if (source / name).is_file() else sorted(source.glob(f"*/{name}"))
    if len(found) != 1:
        raise InputError(
            f"--source {source}",
            found=f"{len(found)} files {name}" if source.is_dir() else "no such file or folder",
            expected=f"the folder of one {name} ({card.title})",
            fix=f"Point --source at one of {', '.join(str(path.parent) for path in found[:5])}." if found else "",
        )
    return found[0]


def channel_roles(
    names: Mapping[str, Any], options: SourceOptions, where: object, field: str
) -> dict[str, Modality | None]:
    """Channel number -> modality, from an index file's names of channels; None where the card does not want it.

    Raises:
        InputError: naming the first channel whose name is not known.
    """
    roles: dict[str, Modality | None] = {}
    for channel, name in names.items():
        try:
            roles[str(channel)] = options.modality_of(str(name))
        except KeyError:
            raise InputError(
                f"{where}: {field}.{channel}",
                found=repr(name),
                expected="a known modality",
                fix=f'Name it in the card: "modality_names": {{"{name}": "t1"}}, or null if it is not wanted.',
            ) from None
    return roles


def label_names_fit(labels: Mapping[str, Any], options: ConverterOptions, card: Card, where: object) -> None:
    """Compare the labels that an index file declares with the card's, name by name and value by value.

    Args:
        labels: name -> value, or values of a region (nnU-Net); values as in the files.

    Raises:
        InputError: if a value has no place in the card, or a name of both means another value.
    """
    if card.kind != "segmentation":
        return
    names = {name.lower(): {value} for name, value in card.labels.items()}
    regions = {name.lower(): set(values) for name, values in card.regions.items()}
    known = set(card.labels.values())
    for name, content in labels.items():
        is_region, key = isinstance(content, list), name.lower()
        stored = content if is_region else [content]
        values = [options.label_map.get(value, value) for value in stored]
        same_name = regions.get(key) if is_region else names.get(key, regions.get(key))
        if set(values) - known or same_name not in (None, set(values)):
            raise InputError(
                f"{where}: labels.{name}",
                found=f"{content}" + (f", which label_map makes {values}" if values != stored else ""),
                expected=f"what card {card.dataset_name} says: labels {card.labels}, regions {card.regions}",
                fix="Change the card's labels, or map the values with converter_options.label_map.",
            )


def read_rows(
    path: Path, delimiter: str | None = None, encoding: str = "utf-8-sig"
) -> list[tuple[int, dict[str, str]]]:
    """The rows of a table with their line numbers: column (lower case) -> text, empty where it says n/a.

    Args:
        delimiter: default: the tab in .tsv files, else whichever of comma, semicolon and tab the first line has most.

    Raises:
        InputError: if it is no table, a column is named twice, or a row has more or fewer cells than the first.
    """
    try:
        with path.open(encoding=encoding, newline="") as file:
            first = file.readline()
            file.seek(0)
            if delimiter is None:
                delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            path,
            found=f"a table that cannot be read ({error})",
            expected=f"a table of text in {encoding}",
            fix="Save it as UTF-8, or name its encoding in converter_options.encoding.",
        ) from error
    columns = [name.lower() for name in rows[0][1]] if rows else []
    named = [name for name in columns if name]  # spreadsheets leave empty columns behind
    if len(set(named)) < len(named) or not named:
        raise InputError(path, found=f"the columns {', '.join(columns) or '(none)'}", expected="columns, each once")
    for number, row in rows:
        if len(row) != len(columns):
            raise InputError(f"{path}: row {number}", found=f"{len(row)} cells", expected=f"{len(columns)}")
    return [
        (number, {c: "" if text.lower() in _NOTHING else text for c, text in zip(columns, row, strict=True)})
        for number, row in rows[1:]
    ]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def listed(numbers: Iterable[object], most: int = 10) -> str:
    """The first few of a list, for messages."""
    items = [str(number) for number in numbers]
    return ", ".join(items[:most]) + (" ..." if len(items) > most else "")
