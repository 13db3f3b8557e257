"""Sealed records: whatever is changed in the file is noticed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.sealed import read_sealed, write_sealed


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_sealed(tmp_path / "a.json", {"b": (1, 2), "a": Path("x"), "n": {"z": None}})
    content = read_sealed(tmp_path / "a.json", "again")
    assert {k: v for k, v in content.items() if k != "checksum"} == {"b": [1, 2], "a": "x", "n": {"z": None}}
    assert list(content)[:2] == ["b", "a"], "order is kept"


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path, place: int, bit: int) -> None:
    path = tmp_path / "a.json"
    write_sealed(path, {"name": "abc", "values": [1, 2.5, -3], "nested": {"key": "ü"}})
    before = json.loads(path.read_bytes())
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        assert read_sealed(path, "Do it again.") == before
    except InputError as error:
        assert str(path) in str(error)


def test_older_files_are_recognised(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    with pytest.raises(InputError, match="older format"):
        read_sealed(tmp_path / "a.json", "")
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        read_sealed(tmp_path / "a.json", "")
