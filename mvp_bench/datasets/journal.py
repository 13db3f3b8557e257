"""Work that is not done twice: finished steps of a preparation, kept until it is complete.

The journal holds one JSON line per finished step, written when the step ends. After ``kill -9`` the same request finds
them again; a line that was cut is dropped. A step is known by its files' paths, sizes and times of change, so a file
that was replaced meanwhile is read again.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from mvp_bench.edges import writing
from mvp_bench.errors import InputError, MachineError
from mvp_bench.identity import code_version, hash_of
from mvp_bench.io import read_json, write_json
from mvp_bench.parallel import run_all

STAGING = ".staging"
"""Folder of an unfinished preparation within the dataset's folder."""
REQUEST, JOURNAL = "request.json", "journal.jsonl"
"""Files in it."""
Job = TypeVar("Job")
Result = TypeVar("Result")


class Journal:
    """Results by key, kept in a file; without a path nothing is kept. Only what an earlier run left is held in memory.

    Args:
        path: the file; made with the first result.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._results: dict[str, Any] = {}
        if path is None or not path.is_file():
            return
        whole = 0
        with path.open("rb") as handle:
            for line in handle:
                try:
                    record = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    record = None
                if record is None:
                    break
                self._results[record["key"]] = record["result"]
                whole += len(line)
        with path.open("r+b") as handle:
            handle.truncate(whole)  # so that the next line does not continue a cut one

    def __len__(self) -> int:
        return len(self._results)

    def __contains__(self, key: str) -> bool:
        return key in self._results

    def __getitem__(self, key: str) -> Any:
        return self._results[key]

    def add(self, key: str, result: Any) -> None:
        """Keep a JSON-able result."""
        if self._path is None:
            return
        with writing(self._path), self._path.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({"key": key, "result": result}) + "\n")


def run_kept(
    pool: Executor,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    keys: Sequence[str],
    result_type: type[Result],
    description: str,
    journal: Journal,
) -> list[Result]:
    """As :func:`~mvp_bench.parallel.run_all`, but jobs whose key the journal holds are not run again.

    Args:
        keys: one per job, see :func:`step_key`.
        result_type: dataclass or pydantic model; turned into JSON and back by pydantic.
    """
    adapter: TypeAdapter[Result] = TypeAdapter(result_type)
    todo = [index for index, key in enumerate(keys) if key not in journal]

    def keep(position: int, result: Result) -> None:
        journal.add(keys[todo[position]], adapter.dump_python(result, mode="json"))

    new = dict(zip(todo, run_all(pool, function, [jobs[i] for i in todo], description, keep), strict=True))
    return [new[index] if index in new else adapter.validate_python(journal[key]) for index, key in enumerate(keys)]


def step_key(what: object, paths: Sequence[Path]) -> str:
    """What a step is known by: what is done (JSON-able), and the paths, sizes and times of change of its files."""
    return hash_of([what, [_state(path) for path in paths]])


def _state(path: Path) -> list[Any]:
    if path.is_dir():  # a DICOM series
        return [str(path), [_state(file) for file in sorted(path.rglob("*")) if file.is_file()]]
    if not path.is_file():
        return [str(path)]
    status = path.stat()
    return [str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns]


@contextlib.contextmanager
def staging_folder(folder: Path, request: Any) -> Iterator[tuple[Path, Journal]]:
    """A folder for files made anew, and the journal of what is finished.

    What a killed run of the same request (and program) left is taken over; anything else found there is removed. On
    success and on bad input the folder goes, and the dataset's folder with it if nothing came of it. Any other end
    (a kill, Ctrl-C, a full disk) leaves it for the next run.
    """
    staging = folder / STAGING
    known_by = {"request": request, "code": code_version()}
    marker = staging / REQUEST
    if not marker.is_file() or read_json(marker) != known_by:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        write_json(marker, known_by)
    try:
        yield staging, Journal(staging / JOURNAL)
    except MachineError:
        raise
    except InputError:
        _remove(staging, folder)
        raise
    _remove(staging, folder)


def _remove(staging: Path, folder: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    if not any(folder.iterdir()):
        folder.rmdir()
