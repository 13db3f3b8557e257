"""A small workspace to be attacked: two tasks in tables of scans, cards, and the commands that make results of them."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SHAPE = (24, 26, 22)
SPACING_MM = 4.0
PATIENTS = {701: 6, 702: 8}
"""Dataset -> patients."""
LIMIT_S = 240
"""A command that takes longer hangs."""
OVERLAP = ("--overlap.no-images",)
"""Heads of a few voxels are all alike."""
SMALL = (
    "--profile", "smoke", "--encoder", "resenc-smoke", "--segmentation.epochs", "1", "--classification.epochs", "1",
    "--segmentation.iterations-per-epoch", "1", "--pretrain.steps", "2", "--statistics.bootstrap-samples", "20",
    "--segmentation.validation-iterations", "0",
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """Folders of the attack below one root: ``work`` is changed and run, ``pristine`` is a copy of it, finished."""

    root: Path

    @property
    def work(self) -> Path:
        """The workspace, with ``source`` in it."""
        return self.root / "work"

    @property
    def source(self) -> Path:
        """The release: tables and scans."""
        return self.work / "source"

    @property
    def pristine(self) -> Path:
        """The finished workspace."""
        return self.root / "pristine"

    def restore(self) -> None:
        """Bring ``work`` back to the finished state, with the times of all files."""
        shutil.rmtree(self.work, ignore_errors=True)
        shutil.copytree(self.pristine, self.work, symlinks=True)

    def strip(self) -> None:
        """Leave only what a user gives in ``work``: cards, crosswalks and the release."""
        for folder in ("plans", "results"):
            shutil.rmtree(self.work / folder, ignore_errors=True)
        for folder in (self.work / "datasets").glob("Dataset*"):
            if folder.is_dir():
                shutil.rmtree(folder)

    def tables(self) -> dict[str, bytes]:
        """The result tables but for cost.csv, which holds times."""
        return {p.name: p.read_bytes() for p in sorted((self.work / "results").glob("*.csv")) if p.name != "cost.csv"}


def build(site: Site) -> None:
    """Write scans, tables and cards, and run the commands once."""
    shutil.rmtree(site.root, ignore_errors=True)
    for number in PATIENTS:
        _release(site.source / str(number), number)
    (site.work / "datasets").mkdir(parents=True)
    for card in (_segmentation(), _classification()):
        (site.work / "datasets" / f"card{card['id']}.json").write_text(json.dumps(card, indent=1))
    ended = run_commands(site)
    assert ended.code == 0, ended.output[-3000:]
    shutil.copytree(site.work, site.pristine, symlinks=True)


@dataclass(frozen=True)
class Ended:
    """How the commands ended: the first exit code that is not 0, and all that was printed."""

    code: int
    output: str


def commands(site: Site) -> list[list[str]]:
    """The commands of a user, again and again the same."""
    rest = ["--root", str(site.work), "--workers", "1"]
    prepare = [["mvp_prepare", "-d", str(n), "--source", str(site.source / str(n)), *rest] for n in PATIENTS]
    return [*prepare, benchmark(site)]


def benchmark(site: Site, *more: str) -> list[str]:
    """The last of the commands."""
    names = ["--tasks", *map(str, PATIENTS), "--pretrain-datasets", "701", "--methods", "scratch", "mae"]
    plain = ["--root", str(site.work), "--workers", "1"]
    return ["mvp_benchmark", *names, *plain, *SMALL, *OVERLAP, *more]


def run_commands(site: Site, patches: Mapping[str, int] | None = None) -> Ended:
    """Run the commands one after the other until one fails.

    Args:
        patches: see :func:`start`.
    """
    text = ""
    for command in commands(site):
        ended = finish(start(command, site.root / "output.txt", patches))
        text += ended.output
        if ended.code:
            return Ended(ended.code, text)
    return Ended(0, text)


@dataclass(frozen=True)
class Running:
    """A command in a process of its own."""

    process: Any
    output: Path
    since: float

    @property
    def pid(self) -> int:
        """Of the process, which leads a group of its own."""
        return int(self.process.pid)


def start(command: list[str], output: Path, patches: Mapping[str, int] | None = None) -> Running:
    """Run a console script in a fork of a server that has imported torch and nnU-Net.

    Args:
        output: file for what it prints.
        patches: stage -> version of its arithmetic, where the command is to have another.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.benchmarks.attacks.preloaded"])
    output.write_text("")
    process = context.Process(target=_child, args=(command, output, dict(patches or {})))
    process.start()
    return Running(process, output, time.monotonic())


def _child(command: list[str], output: Path, patches: Mapping[str, int]) -> None:
    import traceback

    from mvp_bench import cli, identity

    os.setsid()
    sink = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    identity.RESULT_VERSIONS.update(patches)  # type: ignore[arg-type]
    sys.argv = command
    scripts: Mapping[str, Callable[[], None]] = {
        "mvp_prepare": cli.prepare,
        "mvp_plan": cli.plan,
        "mvp_benchmark": cli.benchmark,
    }
    code = 0
    try:
        scripts[command[0]]()
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


def finish(running: Running, limit: float = LIMIT_S) -> Ended:
    """Wait for a command; one that hangs is killed (code 124)."""
    running.process.join(max(0.0, running.since + limit - time.monotonic()))
    hangs = running.process.exitcode is None
    if hangs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.process.join()
    return Ended(124 if hangs else int(running.process.exitcode), running.output.read_text(errors="replace"))


# ----------------------------------------------------------------------------------------------------------------- data


def _release(folder: Path, number: int) -> None:
    rows = ["patient,t1,flair," + ("label" if number == 701 else "class")]
    for index in range(PATIENTS[number]):
        name = f"p{number}{index:02d}"
        (folder / name).mkdir(parents=True)
        images, mask, large = _head(number * 100 + index)
        for modality, image in images.items():
            save(folder / name / f"{modality}.nii.gz", image)
        last = "large" if large else "small"
        if number == 701:
            save(folder / name / "seg.nii.gz", mask)
            last = f"{name}/seg.nii.gz"
        rows.append(f"{name},{name}/t1.nii.gz,{name}/flair.nii.gz,{last}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")


def _head(seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, bool]:
    rng = np.random.default_rng(seed)
    axes = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    brain = sum(a**2 for a in axes) < 0.8
    large = seed % 2 == 0
    centre = rng.uniform(-0.25, 0.25, 3)
    distance = np.sqrt(sum((a - c) ** 2 for a, c in zip(axes, centre, strict=True)))
    inner, outer = (0.25, 0.5) if large else (0.18, 0.35)
    mask = np.where(distance < inner, 1, np.where(distance < outer, 2, 0)) * brain
    images = {}
    for channel, modality in enumerate(("t1", "flair")):
        plain = 100 + 30 * axes[channel] + rng.normal(0, 8, SHAPE)
        images[modality] = ((plain + 40 * (mask > 0) + 20 * (mask == 1)) * brain).astype(np.float32)
    return images, mask.astype(np.uint8), large


def save(path: Path, array: np.ndarray) -> None:
    """Write a NIfTI file."""
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = [-SPACING_MM * (n - 1) / 2 for n in array.shape]
    nib.save(nib.Nifti1Image(array, affine), path)


def _card(number: int, name: str, kind: str, **fields: object) -> dict[str, object]:
    return {
        "id": number, "name": name, "title": "Made for an attack", "kind": kind, "modalities": ["t1", "flair"],
        "patient_rule": "column patient", "split": {"scheme": "ratio"}, "licence": "none", "access": "none",
        "url": "none", "citation": "none", "converter": "table", "converter_options": {}, **fields,
    }  # fmt: skip


def _segmentation() -> dict[str, object]:
    labels = {"background": 0, "core": 1, "rim": 2}
    return _card(701, "Lumps", "segmentation", labels=labels, regions={"whole": [1, 2], "core": [1]}, metrics=["dice"])


def _classification() -> dict[str, object]:
    return _card(702, "Sizes", "classification", classes=["small", "large"], metrics=["accuracy"])
