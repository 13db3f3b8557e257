"""Trouble at the edges: one message that names the file, and no hang."""

from __future__ import annotations

import errno
import fcntl
import gzip
import logging
import os
import pickle
import resource
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import Timeout

from mvp_bench.edges import MACHINE, outermost, reading, require_regular, writing
from mvp_bench.errors import InputError, MachineError
from mvp_bench.io import lock, read_json, write_json
from mvp_bench.progress import log, start_logging


def system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@pytest.mark.parametrize(
    "error",
    [
        system(errno.EACCES),
        system(errno.EISDIR),
        EOFError("Compressed file ended"),
        zlib.error("Error -3"),
        gzip.BadGzipFile("Not a gzipped file"),
        OverflowError("too large"),
        RecursionError("maximum recursion depth exceeded"),
        UnicodeDecodeError("utf-8", b"\xe9", 0, 1, "invalid"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_file_that_cannot_be_read_is_bad_input(error: Exception, tmp_path: Path) -> None:
    said = r"t1\.nii: found what cannot be read \(.+\); expected an image"
    with pytest.raises(InputError, match=said) as caught, reading(tmp_path / "t1.nii", "an image", "Mend it."):
        raise error
    assert type(caught.value) is InputError and caught.value.fix == "Mend it."


@pytest.mark.parametrize("error", [*map(system, MACHINE), MemoryError()], ids=str)
def test_trouble_of_the_machine_is_no_fault_of_the_file(error: Exception, tmp_path: Path) -> None:
    for stand in (reading, writing, outermost):
        with (
            pytest.raises(MachineError, match=r"t1\.nii: found it cannot be .*goes on from where it stopped") as caught,
            stand(tmp_path / "t1.nii"),
        ):
            raise error
        assert caught.value.expected and caught.value.fix


def test_a_kind_of_error_survives_the_way_between_processes() -> None:
    error = pickle.loads(pickle.dumps(MachineError("disk", found="full", expected="room", fix="Free some.")))
    assert type(error) is MachineError and error.fix == "Free some."


def test_the_file_that_the_system_names_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"^/there/x\.bin: "), writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", "/there/x.bin")


def test_libraries_say_it_in_the_systems_words(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="room on the disk"), outermost(tmp_path):
        raise RuntimeError(f"cannot write: {os.strerror(errno.ENOSPC)} (os error 28)")
    with pytest.raises(RuntimeError, match="shapes"), outermost(tmp_path):
        raise RuntimeError("shapes differ")
    with pytest.raises(KeyError), outermost(tmp_path):
        raise KeyError("a bug stays a bug")


def test_libraries_that_do_not_say_it_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="array"), writing(tmp_path / "a.b2nd", also=(RuntimeError,)):
        raise RuntimeError("Error while creating the array")

    def full(**_: object) -> None:
        raise system(errno.ENOSPC)

    monkeypatch.setattr("mvp_bench.edges.tempfile.TemporaryFile", full)
    with pytest.raises(MachineError, match="No space left"), writing(tmp_path / "a.b2nd", also=(RuntimeError,)):
        raise RuntimeError("Error while creating the array")


def test_bad_input_goes_through(tmp_path: Path) -> None:
    for stand in (reading, writing, outermost):
        with pytest.raises(InputError, match="column"), stand(tmp_path):
            raise InputError("table", found="no column", expected="one")


def test_an_atomic_file_without_room(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write_json(tmp_path / "a.json", {"old": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(MachineError, match=r"a\.json: found it cannot be written"):
            write_json(tmp_path / "a.json", list(range(10_000)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert read_json(tmp_path / "a.json") == {"old": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize(("make", "kind"), [(_folder, "a folder"), (_pipe, "a named pipe"), (_device, "a device")])
@pytest.mark.timeout(20)
def test_only_ordinary_files_are_read(make: Callable[[Path], None], kind: str, tmp_path: Path) -> None:
    make(tmp_path / "x.json")
    for read in (require_regular, read_json):
        with pytest.raises(InputError, match=rf"x\.json: found {kind}; expected an ordinary file"):
            read(tmp_path / "x.json")


def test_links_to_nothing(tmp_path: Path) -> None:
    (tmp_path / "x.json").symlink_to(tmp_path / ".git/annex/objects/x")
    with pytest.raises(InputError, match=r"found a link to .*annex/objects/x, where there is nothing"):
        read_json(tmp_path / "x.json")
    with pytest.raises(InputError, match="no such file"):
        read_json(tmp_path / "y.json")


def test_a_nesting_beyond_measure(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"x\.json: found not JSON"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
@pytest.mark.timeout(20)
def test_a_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise system(number)

    monkeypatch.setattr(fcntl, "flock", flock)
    said = r"\.plan\.lock: found a lock that cannot be had .*--root"
    with pytest.raises(MachineError, match=said), lock(tmp_path / "plan"):
        pass


def test_a_lock_that_is_held(tmp_path: Path) -> None:
    with lock(tmp_path / "plan"), pytest.raises(Timeout):
        lock(tmp_path / "plan").acquire(timeout=0)
    with lock(tmp_path / "plan"):
        pass


def test_a_log_file_on_a_full_disk_is_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    start_logging(tmp_path, "verb", verbose=False)
    (file,) = [handler for handler in log.handlers if isinstance(handler, logging.FileHandler)]

    def full(*_: object) -> None:
        raise system(errno.ENOSPC)

    monkeypatch.setattr(logging.FileHandler, "flush", full)
    log.info("something")
    monkeypatch.undo()
    assert "Traceback" not in capsys.readouterr().err and file not in log.handlers
    for handler in list(log.handlers):
        log.removeHandler(handler)
