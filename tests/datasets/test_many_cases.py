"""A thousand cases in one run: memory stays flat, and a killed run goes on where it stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench.datasets.integrity import cases as integrity
from mvp_bench.datasets.integrity.case_check import Checked, CheckJob
from mvp_bench.datasets.integrity.report import load_integrity
from mvp_bench.datasets.journal import JOURNAL, STAGING
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.prepared import is_prepared, load_splits
from mvp_bench.datasets.schema import Card
from mvp_bench.workspace import Workspace

CASES = 1000
EDGE = 24
KB_PER_CASE = 40
"""Bound on the growth of the peak memory: names, hashes and facts of a case take about 23 KB, its voxels 121 KB."""
PREPARE = """
import resource, sys
from pathlib import Path
from mvp_bench.datasets.prepare import prepare_dataset
from mvp_bench.datasets.schema import Card
from mvp_bench.workspace import Workspace
root, source, card = sys.argv[1:]
prepare_dataset(Workspace(Path(root)).open(), Card.model_validate_json(card), source=Path(source))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def card() -> Card:
    return Card.model_validate(
        {
            "id": 700,
            "name": "Many",
            "title": "many",
            "kind": "segmentation",
            "modalities": ["t1"],
            "labels": {"background": 0, "lesion": 1},
            "regions": {"lesion": [1]},
            "split": {"stratify": "lesion_volume"},
            **{name: "none" for name in ("patient_rule", "licence", "access", "url", "citation")},
            "converter": "generic",
            "converter_options": {"images": {"t1": r"(?P<patient>p\d+)/t1"}, "label": r"(?P<patient>p\d+)/seg"},
        }
    )


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of cases -> release; the small one is the beginning of the large one."""
    top = tmp_path_factory.mktemp("many")
    generator = np.random.default_rng(0)
    sources = {CASES: top / "all", CASES // 5: top / "part"}
    for number in range(CASES):
        folder = sources[CASES] / f"p{number:04d}"
        folder.mkdir(parents=True)
        image = nib.Nifti1Image(generator.uniform(size=(EDGE,) * 3).astype(np.float64), np.eye(4))
        image.to_filename(folder / "t1.nii")
        label = np.zeros((EDGE,) * 3, np.uint8)
        label[: 1 + number % EDGE] = 1
        nib.Nifti1Image(label, np.eye(4)).to_filename(folder / "seg.nii")
    sources[CASES // 5].mkdir()
    for number in range(CASES // 5):
        (sources[CASES // 5] / f"p{number:04d}").symlink_to(sources[CASES] / f"p{number:04d}")
    return sources


def prepare(root: Path, source: Path, card: Card) -> subprocess.Popen:
    command = [sys.executable, "-c", PREPARE, str(root), str(source), card.model_dump_json(by_alias=True)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_memory_does_not_grow_with_the_number_of_cases(tmp_path: Path, releases: dict[int, Path], card: Card) -> None:
    peak_kb = {}
    for count, source in releases.items():
        run = prepare(tmp_path / str(count), source, card)
        peak_kb[count] = int(run.communicate()[0])
        assert run.returncode == 0
    splits = load_splits(Workspace(tmp_path / str(CASES)), card)
    assert [len(getattr(splits.folds[0], part)) for part in ("train", "val", "test")] == [600, 100, 300]
    fewer, more = sorted(releases)
    assert peak_kb[more] - peak_kb[fewer] < KB_PER_CASE * (more - fewer)


def test_killed_in_the_middle_it_goes_on(
    tmp_path: Path, releases: dict[int, Path], card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(tmp_path / "root").open()
    journal = workspace.dataset(card.dataset_name) / STAGING / JOURNAL
    run = prepare(workspace.root, releases[CASES], card)
    while lines(journal) < CASES // 3:
        assert run.poll() is None
        time.sleep(0.02)
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()
    finished = lines(journal)
    assert CASES // 3 <= finished < CASES and not is_prepared(workspace, card)
    with journal.open("a") as handle:
        handle.write('{"key": "cut in the mid')
    read: list[str] = []
    check_case = integrity.check_case

    def counted(job: CheckJob) -> Checked:
        read.append(job.case.patient)
        return check_case(job)

    monkeypatch.setattr(integrity, "check_case", counted)
    prepare_dataset(workspace, card, source=releases[CASES])
    assert len(read) == len(set(read)) == CASES - finished
    report = load_integrity(workspace, card)
    assert len(report.cases) == CASES and not journal.parent.exists()
    assert all(len(case.files) == 2 for case in report.cases.values())


def lines(path: Path) -> int:
    """Whole lines, each of them JSON."""
    if not path.is_file():
        return 0
    whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    return sum("result" in json.loads(line) for line in whole)
