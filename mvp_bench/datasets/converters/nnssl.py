"""nnssl's ``pretrain_data.json``: collection -> datasets -> subjects -> sessions -> images.

All images of a session are one case. Modalities are free text in nnssl: those that are not known (see
``modality_names``) are left out, and listed. A card::

    {"id": 613, "name": "Collection", "title": "Our unlabelled scans", "kind": "pretraining",
     "modalities": ["t1", "t2", "flair"],
     "patient_rule": "subject of pretrain_data.json", "split": {"ratio": [1, 0, 0]},
     "licence": "internal", "access": "none", "url": "none", "citation": "none",
     "converter": "nnssl",
     "converter_options": {"datasets": ["OASIS", "7"], "modality_names": {"T2star": null}}}

A path may begin with ``$nnssl_raw``: the folder that holds the file's own folder, unless the option ``nnssl_raw`` names
another. Sessions are not promised to be on one grid, so the other images are registered to the card's first modality
where they are not; ``"reference_grid": null`` makes other grids faults. Associated masks are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError

from mvp_bench.datasets.catalog import field_error
from mvp_bench.datasets.nnssl_export import CASE, FILE
from mvp_bench.datasets.reading.assembly import assemble
from mvp_bench.datasets.reading.conversion import Conversion, Found, Ignored, parse_options
from mvp_bench.datasets.reading.sources import (
    SourceOptions,
    case_name,
    found_file,
    image_file,
    index_file,
    onto_first_modality,
)
from mvp_bench.datasets.schema import Card
from mvp_bench.errors import InputError
from mvp_bench.io import read_json
from mvp_bench.registry import CONVERTERS

NO_SESSION = "ses-DEFAULT"
"""nnssl's session of subjects that have only one."""


class NnsslOptions(SourceOptions):
    """Options of the converter ``nnssl``."""

    align: Literal["header", "rigid"] = "rigid"
    datasets: list[str] = Field(default=[])
    """Indices or names of the collection's datasets that are read; default: all."""
    nnssl_raw: str | None = None
    """Folder that $nnssl_raw stands for; default: the folder above the one of pretrain_data.json."""


class _Image(BaseModel):
    name: str
    modality: str
    image_path: str


class _Session(BaseModel):
    session_info: dict[str, Any] | None = None
    images: list[_Image] = []


class _Subject(BaseModel):
    sessions: dict[str, _Session]


class _Dataset(BaseModel):
    name: str | None = None
    subjects: dict[str, _Subject]


class _Collection(BaseModel):
    datasets: dict[str, _Dataset]


@dataclass(frozen=True)
class _Entry:
    """One image with the groups of its case, and its place in the session."""

    image: _Image
    groups: dict[str, str]
    position: int


@CONVERTERS.register("nnssl", summary="nnssl's pretrain_data.json")
def convert(source: Path, card: Card, output: Path) -> Conversion:
    """Read a collection.

    Raises:
        InputError: if there is no such file, it has not the form, names an image that is not there or begins a path
            with another variable, or an option names a dataset that is not in it.
    """
    options = onto_first_modality(parse_options(NnsslOptions, card), card)
    path = index_file(source, FILE, card)
    try:
        collection = _Collection.model_validate(read_json(path))
    except ValidationError as error:
        raise field_error(path, error) from error
    raw = Path(options.nnssl_raw) if options.nnssl_raw else path.parent.parent
    ignored = Ignored(options.ignore)
    found: list[Found] = []
    for entry in _entries(_wanted(collection, options, path)):
        file = image_file(_resolved(entry.image.image_path, raw, path), raw)
        try:
            role = options.modality_of(entry.image.modality)
        except KeyError:
            role = None
        if role not in card.modalities:
            ignored.add(file, f"modality {entry.image.modality!r} is not in the card")
        elif not ignored.takes(file):
            found.append(found_file(file, role, entry.groups, entry.position))
    return assemble(found, ignored.exclusions(), options, card, path.parent, output, options.class_of)


def _wanted(collection: _Collection, options: NnsslOptions, path: Path) -> dict[str, _Dataset]:
    if not options.datasets:
        return collection.datasets
    names = {name: key for key, dataset in collection.datasets.items() for name in (dataset.name, key) if name}
    if unknown := [name for name in options.datasets if name not in names]:
        raise InputError(
            "converter_options.datasets", found=unknown[0], expected=f"one of {', '.join(names)}, as in {path}"
        )
    keys = {names[name] for name in options.datasets}
    return {key: dataset for key, dataset in collection.datasets.items() if key in keys}


def _entries(datasets: Mapping[str, _Dataset]) -> Iterator[_Entry]:
    """Subjects of several datasets may share a name, so there it begins with the dataset's index."""
    for key, dataset in datasets.items():
        for subject, content in dataset.subjects.items():
            patient = subject if len(datasets) == 1 else f"{key}_{subject}"
            for name, session in content.sessions.items():
                groups = _groups(patient, name, session.session_info or {})
                if "case" in groups and len(datasets) > 1:
                    groups["case"] = f"{key}_{groups['case']}"
                groups.setdefault("case", case_name(patient, groups["session"]))
                for position, image in enumerate(session.images):
                    yield _Entry(image, groups, position)


def _groups(patient: str, session: str, info: Mapping[str, Any]) -> dict[str, str]:
    groups = {"patient": patient, "session": "" if session == NO_SESSION else session}
    if CASE in info:
        groups |= {name: str(info.get(name) or "") for name in (CASE, "session", "site")}
    return groups


def _resolved(text: str, raw: Path, path: Path) -> Path:
    first, _, rest = text.partition("/")
    if first.startswith("$") and first != "$nnssl_raw":
        raise InputError(path, found=f"the path {text}", expected="absolute paths, or paths that begin with $nnssl_raw")
    resolved = raw / (rest if first == "$nnssl_raw" else text)
    if not resolved.is_file():
        raise InputError(
            path,
            found=f"{text}, which is not at {resolved}",
            expected="an image",
            fix="Name the folder that $nnssl_raw stands for in converter_options.nnssl_raw.",
        )
    return resolved
