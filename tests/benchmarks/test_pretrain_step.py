"""The benchmark of a pre-training step runs, and its naive reference computes the same losses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SMALL = ["--encoder", "uniformer-smoke", "--patch", "32", "--steps", "1", "--volume", "48", "48", "40"]
EXACT = ["--threads", "1", "--precision", "fp32"]


def test_the_step_benchmark_runs_and_its_two_loops_agree() -> None:
    script = Path(__file__).with_name("pretrain_step.py")
    done = subprocess.run([sys.executable, str(script), *SMALL, *EXACT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ratios = dict(re.findall(r"^(time|memory|delivery|losses): ([\d.e+-]+) ", done.stdout, flags=re.MULTILINE))
    assert set(ratios) == {"time", "memory", "delivery", "losses"}
    assert float(ratios["losses"]) < 1e-4  # float32 on both sides, an optimiser step between
