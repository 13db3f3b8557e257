"""Attack a small workspace with random single changes: after each, the same commands must give the tables of a fresh
root with that change, to the byte, or end with a clear error.

    python tests/benchmarks/attack.py ROOT --changes 200

Deterministic by --seed, but for the moments at which processes are killed. Prints every change with what came of it,
and at the end how many of them ended well; exit code 1 if not all did.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.benchmarks.attacks.changes import Change, draw
from tests.benchmarks.attacks.site import Ended, Site, build, run_commands

CLEAR = (2, 3)
"""Exit codes of bad input and of failed cells."""


def main() -> int:
    """Build, attack, count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="empty folder to work in")
    parser.add_argument("--changes", type=int, default=200, help="number of changes")
    parser.add_argument("--first", type=int, default=0, help="number of the first change")
    parser.add_argument("--seed", type=int, default=0, help="seed of the changes")
    options = parser.parse_args()
    site = Site(options.root.resolve())
    build(site)
    expected = site.tables()
    good = 0
    for number in range(options.first, options.first + options.changes):
        began = time.monotonic()
        site.restore()
        change = draw(site, np.random.default_rng([options.seed, number]))
        verdict = judge(site, change, expected)
        good += not verdict.startswith("BAD")
        print(f"{number:4} {verdict} ({time.monotonic() - began:.0f} s): {change.text}", flush=True)
    print(f"{good} of {options.changes}")
    return 0 if good == options.changes else 1


def judge(site: Site, change: Change, expected: dict[str, bytes]) -> str:
    """Run the commands on the changed workspace and say what came of it."""
    ended = run_commands(site)
    if ended.code in CLEAR:
        return _error(ended)
    if ended.code:
        return f"BAD exit code {ended.code}\n{ended.output[-2000:]}"
    found = site.tables()
    if change.is_input:
        site.strip()
        fresh = run_commands(site)
        if fresh.code:
            return f"BAD tables, where a fresh root ends with exit code {fresh.code}\n{fresh.output[-1500:]}"
        expected = site.tables()
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return f"BAD other tables: {', '.join(different)}" if different else "same tables"


def _error(ended: Ended) -> str:
    lines = [line for line in ended.output.splitlines() if line.startswith(("error:", "failed"))]
    if "Traceback" in ended.output or not lines:
        return f"BAD error that is not clear\n{ended.output[-2000:]}"
    return f"clear error [{lines[0][:160]}]"


if __name__ == "__main__":
    sys.exit(main())
