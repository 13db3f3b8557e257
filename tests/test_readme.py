"""Every command of the README is run, with the smoke profile and small stand-ins for what one would download.

The first of each console script is run as users run it, the others in this process.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from mvp_bench.workspace import Workspace
from tests import consoles
from tests.models.foreign import nnssl_checkpoint, nnunet_network
from tests.toy import brats_release, toy_card, toy_dataset, write_cards

PROJECT = Path(__file__).resolve().parent.parent
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def block(name: str) -> list[str]:
    """The lines of the shell block that follows ``<!-- name -->``."""
    match = re.search(rf"<!-- {name} -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert match, f"no block {name}"
    return [line.split("  #")[0].strip() for line in match.group(1).strip().splitlines()]


def run(command: str, root: Path, as_users: bool = False) -> str:
    """Run a line of the README; returns what it prints."""
    script, *arguments = shlex.split(command)
    start = consoles.run if as_users else consoles.called
    verb = Path(script).name.removeprefix("mvp_")
    small = () if verb == "weights" else ("--profile", "smoke")  # nothing of a profile touches weights
    return start(verb, root, *arguments, *small)


@pytest.mark.slow
def test_main_job(tmp_path: Path) -> None:
    environment, install, job = block("main job")[0].split(" && ")
    assert environment == "python3 -m venv .venv" and install == ".venv/bin/pip install -e ."
    run(job, tmp_path)
    results = tmp_path / "results"
    cost = pd.read_csv(results / "cost.csv")
    assert len(cost) == 30 and (cost["status"] == "finished").all(), "ten tasks, three methods"
    for name in (
        "leaderboard.csv",
        "leaderboard_segmentation.csv",
        "leaderboard_classification.csv",
        "leaderboard.png",
    ):
        assert (results / name).is_file()


def test_tests_command() -> None:
    """What installs and starts this very suite in continuous integration; here only its form can be checked."""
    (line,) = block("tests")
    assert line == 'python3 -m venv .venv && .venv/bin/pip install -e ".[test]" && .venv/bin/python -m pytest'
    assert "<!-- tests -->" in (PROJECT / ".ci" / "run").read_text()


@pytest.mark.slow
def test_real_data(tmp_path: Path) -> None:
    release = brats_release(tmp_path / "downloads" / "ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData")
    other = brats_release(tmp_path / "more" / "BraTS2021_Training_Data", year=2021)
    root = tmp_path / "root"
    run(f"mvp_prepare -d 521 --source {other}", root)
    verbs = []
    for line in block("real data"):
        verbs.append(line.split()[0])
        as_users = verbs[-1] != "mvp_benchmark"  # which test_end_to_end.py runs so
        run(line.replace("~/downloads/BraTS2023-PED", str(release.parent)), root, as_users)
    assert verbs == ["mvp_prepare", "mvp_plan", "mvp_pretrain", "mvp_benchmark"]
    board = pd.read_csv(root / "results" / "leaderboard_segmentation.csv")
    assert set(board["method"]) == {"scratch", "mae", "brainmvp"} and set(board["source"]) == {"real"}

    mapping = tmp_path / "BraTS21-17_Mapping.csv"
    mapping.write_text("BraTS2021,BraTS2020,Local ID\nBraTS2021_00000,N/A,BraTS-PED-00001-000\n")
    audit = block("audit")
    assert [line.split()[1] for line in audit[:3]] == ["--check", "--crosswalks", "--overlap"]
    output = [run(line.replace(mapping.name, str(mapping)), root) for line in audit]
    assert "Dataset501" in output[0] and "Dataset521" in output[0]
    assert (root / "datasets" / "crosswalks" / mapping.name).is_file()
    board = pd.read_csv(root / "results" / "leaderboard_segmentation.csv")
    assert (board["leak_percent"].fillna(0) == 0).all(), "no task's patient was pre-trained on"


@pytest.mark.slow
def test_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    workspace = Workspace(tmp_path / "root")
    card = toy_card()
    write_cards(workspace.root, card)
    toy_dataset(workspace, card)
    checkpoint = nnssl_checkpoint(tmp_path / "checkpoint_final.pth", nnunet_network("resenc-smoke"))
    lines = block("weights")
    assert [line.split()[1] for line in lines] == ["inspect", "import", "--all", "export", "export"]
    for number, line in enumerate(lines):
        line = line.replace("~/downloads/checkpoint_final.pth", str(checkpoint))
        run(line.replace("results/", f"{workspace.results}/"), workspace.root, as_users=number == 0)
    board = pd.read_csv(workspace.results / "leaderboard_segmentation.csv").set_index("method")
    assert set(board.index) == {"scratch", "imported:openmind"}
    assert board.loc["imported:openmind", "leak_percent"].isna().all()
    exported = {path.name for path in tmp_path.glob("openmind_*")}
    assert exported == {"openmind_nnssl.pth", "openmind_nnunet.pth"}


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links(link: str) -> None:
    assert (PROJECT / link).exists(), link


def test_card_examples(tmp_path: Path) -> None:
    """The cards shown are valid, and find the files they speak of."""
    import json

    import nibabel as nib
    import numpy as np

    from mvp_bench.datasets.schema import Card
    from mvp_bench.registry import CONVERTERS

    texts = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    bids, generic = (Card.model_validate(json.loads(text)) for text in texts)
    for patient in ("a", "b"):
        (tmp_path / patient).mkdir()
        for name in ("T1c", "Flair", "seg"):
            image = nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
            nib.save(image, tmp_path / patient / f"{name}.nii.gz")
    conversion = CONVERTERS[generic.converter](tmp_path, generic, tmp_path / "out")
    assert {case.patient for case in conversion.cases.values()} == {"a", "b"}
    assert all(case.label and set(case.modalities) == {"t1c", "flair"} for case in conversion.cases.values())
    assert not conversion.excluded

    study = tmp_path / "study"
    for number, group in ((1, "hc"), (2, "pat")):
        folder = study / f"sub-{number:02d}" / "anat"
        folder.mkdir(parents=True)
        for suffix in ("T1w", "FLAIR"):
            image = nib.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
            nib.save(image, folder / f"sub-{number:02d}_{suffix}.nii.gz")
        with (study / "participants.tsv").open("a") as table:
            table.write("participant_id\tgroup\n" * (number == 1) + f"sub-{number:02d}\t{group}\n")
    conversion = CONVERTERS[bids.converter](study, bids, tmp_path / "out")
    assert {case.patient: case.class_name for case in conversion.cases.values()} == {
        "sub-01": "control",
        "sub-02": "patient",
    }
