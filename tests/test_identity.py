"""Keys: everything that counts moves them, what bears the mark does not, and order does not matter."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from mvp_bench import identity
from mvp_bench.config.marks import PROCESSES
from mvp_bench.identity import checksum_file, checksum_of, counted, hash_of, key_of


@dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    workers: Annotated[int, PROCESSES] = 2


class Model(BaseModel):
    name: str = "a"
    jobs: Annotated[int, PROCESSES] = 1


@dataclass(frozen=True)
class Outer:
    steps: int = 3
    inner: Inner = field(default_factory=Inner)
    model: Model = field(default_factory=Model)
    threads: Annotated[int, PROCESSES] = 1


def test_a_key_against_its_definition() -> None:
    content = {"stage": "plan", "version": identity.RESULT_VERSIONS["plan"], "settings": {"a": 1}, "needs": {"x": "y"}}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert key_of("plan", {"a": 1}, {"x": "y"}) == hashlib.sha256(text.encode()).hexdigest()


def test_marked_fields_are_left_out_at_every_depth() -> None:
    assert counted(Outer()) == {"steps": 3, "inner": {"rate": 0.1}, "model": {"name": "a"}}
    base = key_of("plan", Outer())
    assert base == key_of("plan", Outer(inner=Inner(workers=9), model=Model(jobs=7), threads=5))
    assert base != key_of("plan", Outer(inner=Inner(rate=0.2)))
    assert base != key_of("plan", Outer(model=Model(name="b")))


def test_the_result_version_of_the_stage_alone_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    plan, score = key_of("plan", {}), key_of("score", {})
    monkeypatch.setitem(identity.RESULT_VERSIONS, "plan", identity.RESULT_VERSIONS["plan"] + 1)
    assert key_of("plan", {}) != plan and key_of("score", {}) == score


@given(st.dictionaries(st.text(max_size=5), st.one_of(st.integers(), st.text(max_size=5), st.none()), max_size=6))
def test_order_does_not_matter_and_every_value_does(settings: dict[str, object]) -> None:
    turned = dict(reversed(list(settings.items())))
    assert key_of("plan", settings) == key_of("plan", turned)
    for name in settings:
        assert key_of("plan", {**settings, name: ["other"]}) != key_of("plan", settings)


def test_needs_count() -> None:
    assert key_of("plan", {}, {"a": "1"}) != key_of("plan", {}, {"a": "2"})
    assert key_of("plan", {}, {"a": None}) != key_of("plan", {}, {})


def test_checksums(tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_bytes(b"abc" * 1_000_000)
    assert checksum_file(file) == xxhash.xxh3_128(b"abc" * 1_000_000).hexdigest()
    assert checksum_of({"a": 1, "b": [2]}) == checksum_of({"b": [2], "a": 1}) != checksum_of({"a": 1, "b": [3]})
    assert hash_of({"a": 1}) == hash_of({"a": 1})
