"""sources.json: what a dataset was prepared from, so that a later command sees what has changed since.

Watched are the images and masks of the cases, every table and side file that the converter read, and the names in
every folder that it listed. A file counts as changed if its size or time is another; whether its content is, is seen
by its hash.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mvp_bench.datasets.catalog import field_error
from mvp_bench.datasets.preparation.reads import Reads
from mvp_bench.datasets.prepared import again
from mvp_bench.datasets.reading.conversion import Conversion
from mvp_bench.datasets.schema import Card, resolve_path
from mvp_bench.identity import checksum_file
from mvp_bench.sealed import CHECKSUM, read_sealed, write_sealed
from mvp_bench.workspace import Workspace

SOURCES = "sources.json"
SHOWN = 3
"""Files of a kind that are named in a message."""
_LITTER = "__MACOSX"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceFile(_Record):
    """One file, as it was when the dataset was prepared."""

    bytes: int
    changed: tuple[int, int]
    """Times (nanoseconds) at which its content, and its content or place, last changed."""
    hash: str = ""
    """XXH3 (128 bits, hex) of the content."""


class Sources(_Record):
    """The whole file. Names are relative to ``folder``, or absolute where a file lies elsewhere."""

    dataset: str
    folder: str
    """Folder of the release; relative to the dataset's folder inside the workspace, else absolute."""
    files: dict[str, SourceFile]
    folders: dict[str, list[str]]
    """Folder -> what was in it."""


@dataclass(frozen=True)
class SourceChanges:
    """Names of what is not as it was."""

    changed: tuple[str, ...] = ()
    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changed or self.added or self.removed)

    def in_words(self) -> str:
        """Counts and the first names."""
        kinds = (("changed", self.changed), ("added", self.added), ("removed", self.removed))
        return "; ".join(f"{_files(len(names))} {kind} since: {_listed(names)}" for kind, names in kinds if names)

    def listed(self) -> list[str]:
        """One entry per name."""
        kinds = (("changed", self.changed), ("added", self.added), ("removed", self.removed))
        return [f"{name} ({kind})" for kind, names in kinds for name in names]


def sources_changed(workspace: Workspace, card: Card) -> list[str]:
    """What a prepared dataset's sources differ in from what it was prepared from; empty if in nothing.

    Sizes, times and names in folders alone are looked at: cheap, and right unless a file was written anew with the
    same content, which ``mvp_prepare`` finds out.

    Raises:
        InputError: if sources.json is damaged.
    """
    sources = read_sources(workspace, card)
    if sources is None:
        return [f"{SOURCES} (removed)"]
    return _look(sources, _folder(workspace, card, sources)).listed()


def changes_in_content(workspace: Workspace, card: Card) -> SourceChanges:
    """What a prepared dataset's sources differ in by content, files with another size or time being read again.

    What turns out to be the same is noted in sources.json, so that it is not read once more.

    Raises:
        InputError: if sources.json is damaged.
    """
    sources = read_sources(workspace, card)
    if sources is None:
        return SourceChanges(removed=(SOURCES,))
    folder = _folder(workspace, card, sources)
    seen = _look(sources, folder)
    now = {name: _file(folder / name, checksum_file) for name in seen.changed}
    changed = tuple(name for name in seen.changed if (new := now[name]) is None or new.hash != sources.files[name].hash)
    same = {name: new for name, new in now.items() if new and name not in changed}
    if same:
        write_sources(workspace, card, sources.model_copy(update={"files": {**sources.files, **same}}))
    return SourceChanges(changed, seen.added, seen.removed)


def watched(card: Card, source: Path, stored: Callable[[Path], str], conversion: Conversion, reads: Reads) -> Sources:
    """What a conversion was made from, with sizes and times as they are now; the hashes are missing yet.

    Args:
        source: the release: a folder or a file.
        stored: a path as it is to be kept.
        reads: what the converter read.
    """
    folder = source if source.is_dir() else source.parent
    inside = [path for path in reads.files if path.is_relative_to(folder)]
    paths = {file for path in (*used_paths(conversion), *inside) for file in _files_of(path)}
    files = {_name(path, folder): file for path in sorted(paths) if (file := _file(path))}
    listed = sorted(path for path in reads.folders if path.is_relative_to(folder))
    folders = {_name(path, folder): names for path in listed if (names := _names(path)) is not None}
    return Sources(dataset=card.dataset_name, folder=stored(folder), files=files, folders=folders)


def used_paths(conversion: Conversion) -> set[Path]:
    """Everything that the cases are made from: files, and folders of DICOM series."""
    derived = conversion.derived
    made = {target for item in derived for target in (item.target, *(target for _, target in item.companions))}
    used = {Path(path) for case in conversion.cases.values() for path in (*case.images.values(), case.label) if path}
    for item in derived:
        named = (item.source, item.grid, item.mask, item.header, item.transform, *(one for one, _ in item.companions))
        used |= {path for path in named if path is not None}
        if isinstance(item.reader, partial):
            arguments = (*item.reader.args, *item.reader.keywords.values())
            used |= {argument for argument in arguments if isinstance(argument, Path)}
    return used - made


def with_hashes(sources: Sources, folder: Path, known: Mapping[Path, str]) -> Sources:
    """The record with the hash of every file: what was read anyway is not read again.

    Args:
        folder: of the release.
        known: file -> hash.
    """
    files = {}
    for name, file in sources.files.items():
        path = folder / name
        files[name] = file.model_copy(update={"hash": known.get(path) or checksum_file(path)})
    return sources.model_copy(update={"files": files})


def read_sources(workspace: Workspace, card: Card) -> Sources | None:
    """sources.json of a prepared dataset; None if it is gone.

    Raises:
        InputError: if it is damaged or was edited.
    """
    path = workspace.dataset(card.dataset_name) / SOURCES
    if not path.is_file():
        return None
    content = read_sealed(path, again(card))
    del content[CHECKSUM]
    try:
        return Sources.model_validate(content)
    except ValidationError as error:
        raise field_error(path, error) from error


def write_sources(workspace: Workspace, card: Card, sources: Sources) -> None:
    """Write sources.json."""
    write_sealed(workspace.dataset(card.dataset_name) / SOURCES, sources.model_dump(mode="json"))


def _look(sources: Sources, folder: Path) -> SourceChanges:
    """Differences in names, sizes and times."""
    changed, added, removed = [], set(), set()
    for name, before in sources.files.items():
        now = _file(folder / name)
        if now is None:
            removed.add(name)
        elif (now.bytes, now.changed) != (before.bytes, before.changed):
            changed.append(name)
    for parent, before_names in sources.folders.items():
        names = set(_names(folder / parent) or ())
        for name in names - set(before_names):
            added |= {_name(file, folder) for file in _files_of(folder / parent / name)}
        removed |= {_below(parent, name) for name in set(before_names) - names}
    folders = {str(above) for name in removed for above in Path(name).parents}  # their files say it
    return SourceChanges(tuple(changed), tuple(sorted(added)), tuple(sorted(removed - folders)))


def _below(parent: str, name: str) -> str:
    return name if parent == "." else f"{parent}/{name}"


def _file(path: Path, hashed: Callable[[Path], str] | None = None) -> SourceFile | None:
    """A file as it is now; None if it is not there."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            return None
        digest = hashed(path) if hashed else ""
    except OSError:
        return None
    return SourceFile(bytes=status.st_size, changed=(status.st_mtime_ns, status.st_ctime_ns), hash=digest)


def _files_of(path: Path) -> list[Path]:
    """The file itself, or all files in a folder."""
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]


def _names(folder: Path) -> list[str] | None:
    """What is in a folder, hidden files and litter left out; None if there is none."""
    try:
        names = sorted(entry.name for entry in os.scandir(folder))
    except OSError:
        return None
    return [name for name in names if not name.startswith(".") and name != _LITTER]


def _name(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _folder(workspace: Workspace, card: Card, sources: Sources) -> Path:
    """The release, as an absolute path."""
    return resolve_path(workspace.dataset(card.dataset_name).resolve(), sources.folder)


def _files(count: int) -> str:
    return f"{count} file{'s' * (count != 1)}"


def _listed(names: Iterable[str]) -> str:
    """The first few names."""
    items = list(names)
    return ", ".join(items[:SHOWN]) + (f" and {len(items) - SHOWN} more" if len(items) > SHOWN else "")
