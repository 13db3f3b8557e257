"""The guard over golden numbers is itself guarded: it fails where it must, and says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvp_bench import identity
from tests import golden


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A stage with numbers that a test can move."""
    numbers = [0.1 + 0.2, 1.0]
    monkeypatch.setattr(golden, "FOLDER", tmp_path)
    monkeypatch.setitem(golden.PRODUCERS, "score", f"{__name__}:produced")
    monkeypatch.setitem(globals(), "NUMBERS", numbers)
    monkeypatch.setitem(identity.RESULT_VERSIONS, "score", 1)
    return numbers


NUMBERS: list[float] = []


def produced() -> dict[str, object]:
    return {"values": NUMBERS, "nested": {"text": "a"}}


def test_numbers_that_stay_pass(stage: list[float]) -> None:
    with pytest.raises(AssertionError, match=r"no golden numbers.*python -m tests\.golden score"):
        golden.check("score", produced())
    golden.regenerate("score")
    golden.check("score", produced())
    golden.regenerate("score")


def test_numbers_that_move_fail_and_say_what_to_do(stage: list[float]) -> None:
    golden.regenerate("score")
    stage[0] = 0.3  # a bit less than 0.1 + 0.2
    message = r"values\[0\] is 0\.3, not 0\.30000000000000004.*raise RESULT_VERSIONS\['score'\].*tests\.golden score"
    with pytest.raises(AssertionError, match=message):
        golden.check("score", produced())
    golden.check("score", produced(), tolerance=1e-9)
    with pytest.raises(SystemExit, match="raise it first"):
        golden.regenerate("score")


def test_a_raised_version_is_regenerated(stage: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    golden.regenerate("score")
    stage[0] = 7.0
    monkeypatch.setitem(identity.RESULT_VERSIONS, "score", 2)
    with pytest.raises(AssertionError, match=r"of version 1.*is 2: regenerate"):
        golden.check("score", produced())
    golden.regenerate("score")
    golden.check("score", produced())


def test_other_inputs_are_not_other_arithmetic(stage: list[float]) -> None:
    golden.regenerate("score")
    stage.append(3.0)
    golden.regenerate("score", inputs_changed=True)
    golden.check("score", produced())


@pytest.mark.parametrize(
    ("found", "told"),
    [
        ({"a": [1, 2]}, ["a has 2 entries, not 1", "b is gone"]),
        ({"a": [1.0], "b": None, "c": 1}, ["a[0] is 1.0, not 1", "c is new"]),
        ({"a": [True], "b": None}, ["a[0] is True, not 1"]),
    ],
)
def test_every_difference_is_told(found: dict, told: list[str]) -> None:
    assert list(golden.differences({"a": [1], "b": None}, found, 0.0)) == told


def test_golden_files_are_of_known_stages() -> None:
    assert {path.stem for path in golden.FOLDER.glob("*.json")} == set(golden.PRODUCERS)
    assert set(golden.PRODUCERS) <= set(identity.RESULT_VERSIONS)
