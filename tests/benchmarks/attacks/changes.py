"""Single changes, drawn at random: what a disk, a colleague or another command may do to a workspace."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from tests.benchmarks.attacks.site import Site, benchmark, finish, save, start


@dataclass(frozen=True)
class Change:
    """What was done, and whether the input of the commands changed (then a fresh root has other results)."""

    text: str
    is_input: bool = False


Kind = Callable[[Site, np.random.Generator], Change | None]


def draw(site: Site, rng: np.random.Generator) -> Change:
    """Make one change to the workspace; the kinds are equally likely."""
    while True:
        kind = KINDS[int(rng.integers(len(KINDS)))]
        if (change := kind(site, rng)) is not None:
            return change


def _made(site: Site) -> list[Path]:
    """Every file that the commands made, locks and logs aside."""
    folders = [
        site.work / "plans",
        site.work / "results",
        *(p for p in (site.work / "datasets").iterdir() if p.is_dir()),
    ]
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    return sorted(path for path in files if path.suffix not in (".lock", ".log"))


def _choose(items: list[Any], rng: np.random.Generator) -> Any:
    return items[int(rng.integers(len(items)))] if items else None


def flipped_byte(site: Site, rng: np.random.Generator) -> Change:
    """One bit of any file that the commands made."""
    path = _choose(_made(site), rng)
    data = bytearray(path.read_bytes())
    place = int(rng.integers(len(data)))
    data[place] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(data))
    return Change(f"bit of byte {place} flipped in {path.relative_to(site.work)}")


def swapped_files(site: Site, rng: np.random.Generator) -> Change | None:
    """Two files of one ending exchange their contents."""
    one = _choose(_made(site), rng)
    other = _choose([p for p in _made(site) if p.suffix == one.suffix and p.read_bytes() != one.read_bytes()], rng)
    if other is None:
        return None
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    return Change(f"{one.relative_to(site.work)} and {other.relative_to(site.work)} swapped")


def lost_file(site: Site, rng: np.random.Generator) -> Change:
    """A file that the commands made is gone."""
    path = _choose(_made(site), rng)
    path.unlink()
    return Change(f"{path.relative_to(site.work)} deleted")


def cut_file(site: Site, rng: np.random.Generator) -> Change:
    """A file that the commands made ends early."""
    path = _choose(_made(site), rng)
    data = path.read_bytes()
    path.write_bytes(data[: int(rng.integers(len(data)))])
    return Change(f"{path.relative_to(site.work)} cut")


def json_field(site: Site, rng: np.random.Generator) -> Change | None:
    """One value anywhere in a JSON file that the commands made."""
    path = _choose([p for p in _made(site) if p.suffix == ".json"], rng)
    content = json.loads(path.read_text())
    where = _alter(content, rng)
    if where is None:
        return None
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    return Change(f"{where} changed in {path.relative_to(site.work)}")


def _alter(content: Any, rng: np.random.Generator) -> str | None:
    """Change one leaf in place; returns where."""
    leaves: list[tuple[Any, Any, str]] = []

    def walk(node: Any, name: str) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            if isinstance(value, (dict, list)) and value:
                walk(value, f"{name}.{key}")
            else:
                leaves.append((node, key, f"{name}.{key}"))

    walk(content, "")
    if not leaves:
        return None
    holder, key, where = leaves[int(rng.integers(len(leaves)))]
    value = holder[key]
    if isinstance(value, bool):
        holder[key] = not value
    elif isinstance(value, (int, float)):
        holder[key] = value + 1
    elif isinstance(value, str):
        holder[key] = value + "x"
    else:
        holder[key] = "something" if value is None else None
    return where


def source_voxels(site: Site, rng: np.random.Generator) -> Change:
    """A scan of the release is replaced by another version of itself."""
    path = _choose(sorted(site.source.rglob("*.nii.gz")), rng)
    data = np.array(nib.load(path).dataobj)
    if path.name.startswith("seg"):
        data = np.roll(data, 1, axis=int(rng.integers(3)))
    else:
        data = np.where(data != 0, data + rng.normal(0, 5, data.shape), 0).astype(np.float32)
    save(path, data)
    return Change(f"new voxels in {path.relative_to(site.work)}", is_input=True)


def source_byte(site: Site, rng: np.random.Generator) -> Change:
    """One bit of a scan of the release."""
    path = _choose(sorted(site.source.rglob("*.nii.gz")), rng)
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(bytes(data))
    return Change(f"bit flipped in {path.relative_to(site.work)}", is_input=True)


def table_cell(site: Site, rng: np.random.Generator) -> Change:
    """A cell of a table of the release is corrected."""
    path = _choose(sorted(site.source.glob("*/table.csv")), rng)
    rows = list(csv.reader(io.StringIO(path.read_text())))
    row, column = 1 + int(rng.integers(len(rows) - 1)), int(rng.integers(len(rows[0])))
    before = rows[row][column]
    if rows[0][column] == "patient":
        rows[row][column] = f"{before}b"
    elif rows[0][column] == "class":
        rows[row][column] = "large" if before == "small" else "small"
    else:
        other = 1 + int(rng.integers(len(rows) - 1))
        rows[row][column] = rows[other][column]
    path.write_text("\n".join(",".join(cells) for cells in rows) + "\n")
    return Change(f"{path.relative_to(site.work)}: {before} -> {rows[row][column]} in row {row}", is_input=True)


def table_row(site: Site, rng: np.random.Generator) -> Change:
    """A patient is taken out of a table."""
    path = _choose(sorted(site.source.glob("*/table.csv")), rng)
    lines = path.read_text().splitlines()
    gone = lines.pop(1 + int(rng.integers(len(lines) - 1)))
    path.write_text("\n".join(lines) + "\n")
    return Change(f"{path.relative_to(site.work)}: row {gone} taken out", is_input=True)


CARD_EDITS: dict[int, list[tuple[str, Any]]] = {
    701: [
        ("regions", {"whole": [1, 2], "rim": [2]}), ("regions", {"all": [1, 2], "core": [1]}),
        ("labels", {"background": 0, "middle": 1, "rim": 2}), ("modalities", ["flair", "t1"]), ("modalities", ["t1"]),
        ("split", {"scheme": "k_fold", "k": 3}), ("split", {"scheme": "ratio", "ratio": [3, 0, 3]}), ("metrics", []),
        ("title", "Another title"), ("licence", "CC0"),
    ],
    702: [
        ("classes", ["large", "small"]), ("metrics", ["auroc"]), ("metrics", ["balanced_accuracy", "accuracy"]),
        ("modalities", ["t1"]), ("split", {"scheme": "ratio", "stratify": "class"}), ("name", "Sizes2"),
        ("converter_options", {"class_map": {"small": "large", "large": "small"}}), ("citation", "Somebody"),
    ],
}  # fmt: skip


def card_field(site: Site, rng: np.random.Generator) -> Change:
    """A field of a card is edited."""
    number = _choose(sorted(CARD_EDITS), rng)
    field, value = _choose(CARD_EDITS[number], rng)
    path = site.work / "datasets" / f"card{number}.json"
    card = json.loads(path.read_text())
    card[field] = value
    path.write_text(json.dumps(card, indent=1))
    return Change(f"card {number}: {field} = {value}", is_input=True)


OTHERS: tuple[tuple[str, ...], ...] = (
    ("mvp_plan", "-d", "701", "--profile", "smoke", "--encoder", "resenc-smoke", "--max-patch-edge", "16"),
    ("mvp_plan", "-d", "701", "--profile", "smoke", "--encoder", "plain-smoke"),
    ("mvp_plan", "-d", "702", "--profile", "smoke", "--encoder", "resenc-smoke", "--spacing", "6", "6", "6"),
    ("mvp_benchmark", "--seeds", "1"),
    ("mvp_benchmark",),
    ("mvp_prepare", "--check", "--all"),
)


def other_command(site: Site, rng: np.random.Generator) -> Change:
    """Another command works in the same root while the benchmark makes up for lost results."""
    _lose_results(site, rng)
    other = _choose(list(OTHERS), rng)
    command = [*other, "--root", str(site.work), "--workers", "1"]
    if other[0] == "mvp_benchmark":
        command = benchmark(site, *other[1:])
    beside = start(command, site.root / "other.txt")
    time.sleep(float(rng.uniform(0, 1.5)))
    finish(start(benchmark(site), site.root / "first.txt"))
    finish(beside)
    if "--seeds" in other:  # its cells are rows of their own right: they do not belong to the results that are compared
        _forget_seed(site, 1)
    return Change(f"beside: {' '.join(other)}")


def killed(site: Site, rng: np.random.Generator) -> Change:
    """The benchmark is killed at a random moment while it makes up for lost results."""
    _lose_results(site, rng)
    running = start(benchmark(site), site.root / "first.txt")
    after = float(rng.uniform(0, 8))
    time.sleep(after)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    finish(running)
    return Change(f"killed after {after:.1f} s")


def _lose_results(site: Site, rng: np.random.Generator) -> None:
    cells = sorted((site.work / "results" / "cells").glob("*/*/*"))
    for cell in cells:
        if rng.random() < 0.5:
            shutil.rmtree(cell)
    if rng.random() < 0.3:
        shutil.rmtree(site.work / "plans")
    if rng.random() < 0.3:
        shutil.rmtree(site.work / "results" / "pretraining")


def _forget_seed(site: Site, seed: int) -> None:
    for cell in (site.work / "results" / "cells").glob(f"*/*/*-seed{seed}-*"):
        shutil.rmtree(cell)


KINDS: tuple[Kind, ...] = (
    flipped_byte, flipped_byte, swapped_files, lost_file, cut_file, json_field, json_field, source_voxels, source_byte,
    table_cell, table_row, card_field, other_command, killed,
)  # fmt: skip
