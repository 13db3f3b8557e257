"""The house: imports run downwards, help is quick, files stay small, ruff and the type checker are clean."""

from __future__ import annotations

import ast
import resource
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "mvp_bench"
BASE = ("workspace", "identity", "sealed", "io", "edges", "config", "registry", "errors", "progress", "parallel")
LAYERS = (
    "cli",
    "benchmark",
    "evaluation",
    "leaderboard",
    "finetuning",
    "pretraining",
    "models",
    "planning",
    "training",
    "cells",
    "metrics",
    "datasets",
    BASE,
)
NNUNET = ("planning", "finetuning/segmentation", "evaluation", "workspace.py")
VERBS = ("mvp_prepare", "mvp_plan", "mvp_pretrain", "mvp_benchmark", "mvp_weights")
MODULES = sorted(PACKAGE.rglob("*.py"))


def layer(module: str) -> int:
    """Position of ``mvp_bench.x.y`` in the order, 0 on top."""
    part = module.split(".")[1] if "." in module else ""
    for index, name in enumerate(LAYERS):
        if part == name or (isinstance(name, tuple) and part in name):
            return index
    return len(LAYERS)  # mvp_bench itself


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    own = layer("mvp_bench." + relative.parts[0].removesuffix(".py"))
    for name in imported(path):
        if name.startswith("mvp_bench"):
            assert layer(name) >= own, f"{relative} imports {name}"
            assert not name.startswith("mvp_bench.cli"), "nothing imports cli"
        if name.split(".")[0] == "nnunetv2":
            assert str(relative).startswith(NNUNET), f"{relative} imports nnunetv2"


@pytest.mark.parametrize("path", sorted((PACKAGE / "leaderboard").rglob("*.py")), ids=lambda p: p.name)
def test_leaderboards_follow_from_the_cells_alone(path: Path) -> None:
    allowed = {"leaderboard", "cells", "metrics", *BASE}
    used = {name.split(".")[1] for name in imported(path) if name.startswith("mvp_bench.")}
    assert used <= allowed, f"{path.name} imports {sorted(used - allowed)}"


def test_the_order_is_checked() -> None:
    assert (
        layer("mvp_bench.cli") < layer("mvp_bench.benchmark.grid") < layer("mvp_bench.planning") < layer("mvp_bench.x")
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_stay_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_quick_and_complete(verb: str) -> None:
    command = [str(Path(sys.executable).parent / verb), "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 2.0, "seconds of processor time, which other processes do not disturb"
    for option in ("--root", "--verbose", "--help-all"):
        assert option in text or (option == "--help-all" and verb == "mvp_weights"), "the last has none for experts"
    assert ("--profile" in text) == (verb != "mvp_weights"), "checkpoints of others are the same under all profiles"
    assert ("--seed" in text) == (verb != "mvp_plan"), "nothing is drawn in planning"


@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join)
def test_linters_are_clean(tool: list[str]) -> None:
    run = subprocess.run([sys.executable, "-m", *tool], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
