"""The house: imports run downwards and in no circle, names are unique, files and functions are small, help is quick."""

from __future__ import annotations

import ast
import itertools
import re
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


def graph() -> dict[str, set[str]]:
    """Module -> the modules of the package that it imports, inside functions too."""
    names = {_module(path): path for path in MODULES}
    found: dict[str, set[str]] = {name: set() for name in names}
    for name, path in names.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mvp_bench"):
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    found[name].add(whole if whole in names else node.module)
            elif isinstance(node, ast.Import):
                found[name] |= {alias.name for alias in node.names if alias.name in names}
        found[name] &= names.keys() - {name}
    return found


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Groups of nodes that reach each other: those from which one comes back to where one started."""
    reach: dict[str, set[str]] = {}
    for start in edges:
        seen: set[str] = set()
        todo = list(edges[start])
        while todo:
            node = todo.pop()
            if node not in seen:
                seen.add(node)
                todo += edges.get(node, ())
        reach[start] = seen
    back = {start: tuple(sorted(n for n in reach[start] if start in reach.get(n, ()))) for start in edges}
    groups = {group for start, group in back.items() if start in reach[start]}
    return [list(group) for group in sorted(groups)]


def test_no_circle_of_files() -> None:
    assert circles(graph()) == []


def test_no_circle_of_folders() -> None:
    """Among the folders in one folder; a package's own files may use its folders, and be used by them."""
    rooms: dict[str, set[str]] = {}
    for module, imports in graph().items():
        for other in imports:
            shared = 0
            for one, two in zip(module.split("."), other.split("."), strict=False):
                if one != two:
                    break
                shared += 1
            parts, others = module.split(".")[:-1], other.split(".")
            others = others if (PACKAGE.parent / Path(*others)).is_dir() else others[:-1]
            if len(parts) > shared and len(others) > shared:
                rooms.setdefault(".".join(parts[: shared + 1]), set()).add(".".join(others[: shared + 1]))
    assert circles(rooms) == []


def test_a_circle_is_found() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_class_names_are_unique() -> None:
    places: dict[str, list[str]] = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(_module(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


PREPOSITIONS = ("Of", "For", "In", "With", "To", "On", "By", "From", "At", "Into")
PREPOSITION_FIRST = re.compile(rf"^(?:{'|'.join(PREPOSITIONS)})\b")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_docstrings_begin_with_what_a_thing_is(path: Path) -> None:
    """Public ones, of modules, classes and functions, and the strings under fields that serve as help."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            name = getattr(node, "name", "")
            if not name.startswith("_"):
                assert not PREPOSITION_FIRST.match(ast.get_docstring(node) or ""), f"{name or path.name}"
            for field, text in _field_texts(node):
                assert field.startswith("_") or not PREPOSITION_FIRST.match(text), f"{name}.{field}: {text}"


def _field_texts(node: ast.AST) -> list[tuple[str, str]]:
    body = getattr(node, "body", [])
    found = []
    for before, text in itertools.pairwise(body):
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str):
            target = before.target if isinstance(before, ast.AnnAssign) else getattr(before, "targets", [None])[0]
            if isinstance(target, ast.Name):
                found.append((target.id, text.value.value.strip()))
    return found


LONGEST = 50
"""Lines of a function; ruff counts its branches (PLR0912, at most 12)."""
JUSTIFIED = {
    "mvp_bench.datasets.reading.assembly.assemble": "not split yet",
    "mvp_bench.datasets.reading.case_plan.plan_case": "not split yet",
    "mvp_bench.models.weights.initialise_encoder": "half of it says what its arguments are",
}
"""Function -> why it is longer."""


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_functions_stay_small(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            name = f"{_module(path)}.{node.name}"
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONGEST or name in JUSTIFIED, f"{name}: {lines} lines"


UNPICKLERS = ("load_pickle", r"pickle\.loads?\b", r"Unpickler\(", r"joblib\.load", "allow_pickle=True")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_is_unpickled(path: Path) -> None:
    """What loads pickles, under whatever name, stands nowhere in the package; torch reads tensors and plain values."""
    assert not re.search("|".join(UNPICKLERS), path.read_text())
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert any(k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords)


@pytest.mark.parametrize("verb", VERBS)
def test_help_is_quick_and_complete(verb: str) -> None:
    command = [str(Path(sys.executable).parent / verb), "--help"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < 2.0, "seconds of processor time, which other processes do not disturb"
    for option in ("--root", "--verbose"):
        assert option in text
    assert ("--help-all" in text) == (verb != "mvp_weights"), "which has no options for experts"
    assert ("--profile" in text) == (verb != "mvp_weights"), "checkpoints of others are the same under all profiles"
    assert ("--seed" in text) == (verb != "mvp_plan"), "nothing is drawn in planning"


@pytest.mark.parametrize("tool", [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]], ids=" ".join)
def test_linters_are_clean(tool: list[str]) -> None:
    run = subprocess.run([sys.executable, "-m", *tool], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
