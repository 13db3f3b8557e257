"""What is known of a leak: unknown is empty and says why, 0 means that everything was compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvp_bench.cells.leak import LEAK_FILE, leak_of, read_leak, unknown_leak, write_leak

PED = "Dataset501_BraTS2023-PED"


@pytest.mark.parametrize(
    ("shared", "not_compared", "percent", "note"),
    [
        ([], "", 0.0, ""),
        (["p1"], "", 25.0, ""),
        ([], "images of A", None, "not compared: images of A"),
        (["p1"], "images of A", 25.0, "at least: not compared: images of A"),
    ],
)
def test_leaks(shared: list[str], not_compared: str, percent: float | None, note: str) -> None:
    leak = leak_of(4, shared, not_compared)
    assert (leak.leak_percent, leak.note, leak.test_patients, leak.shared) == (percent, note, 4, shared)


def test_no_test_patients_are_no_zero() -> None:
    assert leak_of(0, []).leak_percent is None and leak_of(0, []).note


def test_the_file(cells) -> None:
    folder, spec = cells.write(PED, "mae"), cells.spec(PED, "mae")
    (folder / LEAK_FILE).unlink()
    assert read_leak(folder, spec) == unknown_leak("not looked for")
    leak = leak_of(4, ["p1"])
    write_leak(folder, leak)
    assert read_leak(folder, spec) == leak
    written = (folder / LEAK_FILE).stat().st_mtime_ns
    write_leak(folder, leak)
    assert (folder / LEAK_FILE).stat().st_mtime_ns == written, "not touched without need"
    write_leak(folder, unknown_leak("nobody knows"))
    assert read_leak(folder, spec).note == "nobody knows"


def test_nothing_is_written_where_nothing_was_run(tmp_path: Path) -> None:
    write_leak(tmp_path / "none", leak_of(4, []))
    assert not (tmp_path / "none").exists()


def test_scratch_has_seen_nobody(cells) -> None:
    folder = cells.write(PED, "scratch")
    assert read_leak(folder, cells.spec(PED, "scratch")).leak_percent == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"leak_percent": 12}', '{"leak_percent": 101}'])
def test_a_damaged_file_is_unknown_and_mended(cells, text: str) -> None:
    folder, spec = cells.write(PED, "mae"), cells.spec(PED, "mae")
    (folder / LEAK_FILE).write_text(text)
    leak = read_leak(folder, spec)
    assert leak.leak_percent is None and "damaged" in leak.note and str(folder) not in leak.note
    write_leak(folder, leak_of(4, []))
    assert read_leak(folder, spec).leak_percent == 0


def test_an_edited_number_is_unknown(cells) -> None:
    folder, spec = cells.write(PED, "mae"), cells.spec(PED, "mae")
    write_leak(folder, leak_of(4, ["p1"]))
    (folder / LEAK_FILE).write_text((folder / LEAK_FILE).read_text().replace("25.0", "0.0"))
    assert read_leak(folder, spec).leak_percent is None
