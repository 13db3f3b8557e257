"""The console scripts: called in this process, which spares their imports, or started as their users start them."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from mvp_bench import cli

BIN = Path(sys.executable).parent
MINUTES = 15
"""A script that takes longer hangs."""


def called(verb: str, root: Path, *arguments: object) -> str:
    """What ``mvp_<verb>`` prints when it is run in this process; it has to succeed."""
    command = [f"mvp_{verb}", "--root", str(root), *map(str, arguments)]
    printed = io.StringIO()
    with patch.object(sys, "argv", command), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            getattr(cli, verb)()
        except SystemExit as ended:
            assert not ended.code, f"{' '.join(command)}: {printed.getvalue()[-4000:]}"
    return printed.getvalue()


def start(verb: str, root: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start the script ``mvp_<verb>`` in a process of its own."""
    command = [str(BIN / f"mvp_{verb}"), "--root", str(root), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(verb: str, root: Path, *arguments: object) -> str:
    """What the script ``mvp_<verb>`` prints when it is run in a process of its own; it has to succeed."""
    process = start(verb, root, *arguments)
    output, _ = process.communicate(timeout=60 * MINUTES)
    assert process.returncode == 0, output[-4000:]
    return output
