"""Golden numbers: what a stage makes of fixed inputs, kept with the version of its arithmetic.

A stage whose numbers move while its version in ``mvp_bench.identity.RESULT_VERSIONS`` stays would let old results pass
for new ones. Its test calls :func:`check`; ``python -m tests.golden STAGE`` writes ``tests/golden/STAGE.json`` anew.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mvp_bench.identity import RESULT_VERSIONS
from mvp_bench.io import plain, read_json, write_json

FOLDER = Path(__file__).parent / "golden"
PRODUCERS = {"score": "tests.leaderboard.test_golden:numbers"}
"""Stage -> function without arguments that computes its numbers (JSON-able) from fixed inputs."""
INPUTS_CHANGED = "--inputs-changed"
_SHOWN = 8


def check(stage: str, numbers: Any, tolerance: float = 0.0) -> None:
    """Numbers of a stage must be the golden ones.

    Args:
        stage: of ``RESULT_VERSIONS``.
        numbers: nested dicts, lists, numbers and text.
        tolerance: relative difference of floats that passes, for stages whose last digits differ between types of
            processor.

    Raises:
        AssertionError: if they moved, or if the file is of another version.
    """
    again = f"`python -m tests.golden {stage}`"
    path = FOLDER / f"{stage}.json"
    assert path.is_file(), f"no golden numbers of {stage}: write them with {again}"
    golden = read_json(path)
    version = RESULT_VERSIONS[stage]  # type: ignore[index]
    moved = list(differences(golden["numbers"], _as_json(numbers), tolerance))
    told = "; ".join(moved[:_SHOWN]) + (f"; {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else "")
    assert not moved or golden["version"] != version, (
        f"the numbers of the stage {stage} moved ({told}): raise RESULT_VERSIONS[{stage!r}] in mvp_bench/identity.py, "
        f"so that results made before are made anew, and regenerate with {again}"
    )
    assert golden["version"] == version, (
        f"the golden numbers are of version {golden['version']}, RESULT_VERSIONS[{stage!r}] is {version}: "
        f"regenerate with {again}"
    )


def differences(golden: Any, found: Any, tolerance: float, where: str = "") -> Iterator[str]:
    """Each place where two nested values differ, in words."""
    if isinstance(golden, dict) and isinstance(found, dict):
        for name in dict.fromkeys([*golden, *found]):
            here = f"{where}.{name}" if where else str(name)
            if name not in found or name not in golden:
                yield f"{here} {'is gone' if name in golden else 'is new'}"
            else:
                yield from differences(golden[name], found[name], tolerance, here)
    elif isinstance(golden, list) and isinstance(found, list):
        if len(golden) != len(found):
            yield f"{where} has {len(found)} entries, not {len(golden)}"
        for index, (one, other) in enumerate(zip(golden, found, strict=False)):
            yield from differences(one, other, tolerance, f"{where}[{index}]")
    elif not _same(golden, found, tolerance):
        yield f"{where} is {found!r}, not {golden!r}"


def _same(golden: Any, found: Any, tolerance: float) -> bool:
    if tolerance and isinstance(golden, float) and isinstance(found, (float, int)):
        return math.isclose(golden, found, rel_tol=tolerance, abs_tol=tolerance)
    return (golden == found and isinstance(golden, type(found))) or golden is found


def _as_json(numbers: Any) -> Any:
    """Numbers as they come back from the file."""
    return json.loads(json.dumps(numbers, default=plain))


def regenerate(stage: str, inputs_changed: bool = False) -> None:
    """Write the golden numbers of a stage.

    Args:
        inputs_changed: the inputs of the test were changed, not the arithmetic: the version may stay.

    Raises:
        SystemExit: if the numbers moved, but the version did not.
    """
    module, _, name = PRODUCERS[stage].partition(":")
    numbers = _as_json(getattr(importlib.import_module(module), name)())
    path, version = FOLDER / f"{stage}.json", RESULT_VERSIONS[stage]  # type: ignore[index]
    if path.is_file() and not inputs_changed:
        golden = read_json(path)
        if golden["version"] == version and list(differences(golden["numbers"], numbers, 0.0)):
            raise SystemExit(
                f"The numbers moved, RESULT_VERSIONS[{stage!r}] is still {version}: raise it first. If only the inputs "
                f"of the test were changed, add {INPUTS_CHANGED}."
            )
    write_json(path, {"version": version, "numbers": numbers})
    print(f"{path}: version {version}")


if __name__ == "__main__":
    wanted = [argument for argument in sys.argv[1:] if argument != INPUTS_CHANGED]
    if len(wanted) != 1 or wanted[0] not in PRODUCERS:
        raise SystemExit(f"usage: python -m tests.golden STAGE [{INPUTS_CHANGED}], one of {', '.join(PRODUCERS)}")
    regenerate(wanted[0], INPUTS_CHANGED in sys.argv[1:])
