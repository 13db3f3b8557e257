"""The console scripts' manners: one message for what the user can mend, exit code 2, nothing half-written."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from mvp_bench import cli
from mvp_bench.workspace import Workspace
from tests.toy import brats_release, toy_card, toy_dataset, write_cards

Verb = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch, capsys, tmp_path: Path) -> Verb:
    """Run a verb in this process; returns exit code and standard error."""

    def call(verb: str, *arguments: object, root: Path | None = None) -> tuple[int, str]:
        monkeypatch.setattr(
            sys, "argv", [f"mvp_{verb}", "--root", str(root or tmp_path / "root"), *map(str, arguments)]
        )
        with pytest.raises(SystemExit) as stopped:
            getattr(cli, verb)()
        return int(stopped.value.code or 0), capsys.readouterr().err

    return call


def one_message(result: tuple[int, str], *words: str) -> None:
    code, text = result
    assert code == 2, text
    assert text.startswith("error: ") and "Traceback" not in text
    for word in words:
        assert word in text


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """Six tiny patients in the layout of BraTS2023-PED, without fault."""
    return brats_release(tmp_path / "release" / "ASNR-MICCAI-BraTS2023-PED-Challenge-TrainingData")


def image(release: Path, number: int, suffix: str) -> Path:
    name = f"BraTS-PED-{number:05d}-000"
    return release / name / f"{name}-{suffix}.nii.gz"


def rewrite(path: Path, change: Callable[[np.ndarray], np.ndarray], affine: np.ndarray | None = None) -> None:
    volume = nib.load(path)
    data = change(np.array(volume.dataobj))
    nib.save(nib.Nifti1Image(data, volume.affine if affine is None else affine), path)


def test_a_sound_release_is_prepared_and_listed(run: Verb, release: Path, tmp_path: Path, capsys) -> None:
    assert run("prepare", "-d", 501, "--source", release)[0] == 0
    content = json.loads((tmp_path / "root/datasets/Dataset501_BraTS2023-PED/dataset.json").read_text())
    assert content["mvp_bench"]["source"] == "real" and content["numTraining"] == 6
    assert run("prepare", "--list")[0] == 0


def test_unknown_dataset(run: Verb) -> None:
    one_message(run("plan", "-d", "BraTS2023-PEDD"), "BraTS2023-PED")
    one_message(run("prepare", "-d", 999), "999")


def test_dataset_not_prepared(run: Verb) -> None:
    one_message(run("plan", "-d", 501), "not prepared", "--source", "--phantom")
    one_message(run("benchmark", "--tasks", 501), "not prepared")
    one_message(run("benchmark", "--all"), "--phantom")
    one_message(run("pretrain"), "no prepared dataset")


def prepared_nothing(tmp_path: Path) -> bool:
    return not (tmp_path / "root/datasets/Dataset501_BraTS2023-PED/dataset.json").exists()


def test_truncated_file(run: Verb, release: Path, tmp_path: Path) -> None:
    victim = image(release, 1, "t2w")
    victim.write_bytes(victim.read_bytes()[:-200])
    one_message(run("prepare", "-d", 501, "--source", release), victim.name)
    assert prepared_nothing(tmp_path)


def test_nan(run: Verb, release: Path, tmp_path: Path) -> None:
    victim = image(release, 2, "t1c")
    rewrite(victim, lambda a: np.where(a > 1.5, np.nan, a))
    one_message(run("prepare", "-d", 501, "--source", release), victim.name)
    assert prepared_nothing(tmp_path)


def test_other_grid(run: Verb, release: Path, tmp_path: Path) -> None:
    victim = image(release, 3, "t2f")
    rewrite(victim, lambda a: a, affine=np.diag([1.5, 1, 1, 1]))
    one_message(run("prepare", "-d", 501, "--source", release), victim.name)
    assert prepared_nothing(tmp_path)


def test_undeclared_label(run: Verb, release: Path, tmp_path: Path) -> None:
    victim = image(release, 4, "seg")
    rewrite(victim, lambda a: np.where(a == 3, 7, a).astype(np.uint8))
    one_message(run("prepare", "-d", 501, "--source", release), victim.name, "7")
    assert prepared_nothing(tmp_path)


def test_region_empty_everywhere(run: Verb, release: Path, tmp_path: Path) -> None:
    for number in range(6):
        rewrite(image(release, number, "seg"), lambda a: np.where(a == 3, 1, a).astype(np.uint8))
    one_message(run("prepare", "-d", 501, "--source", release), "ET")
    assert prepared_nothing(tmp_path)


def test_too_few_patients(run: Verb, release: Path, tmp_path: Path) -> None:
    import shutil

    for number in range(1, 6):
        shutil.rmtree(image(release, number, "seg").parent)
    one_message(run("prepare", "-d", 501, "--source", release), "patients")
    assert prepared_nothing(tmp_path)


def test_patient_in_two_splits(run: Verb, tmp_path: Path) -> None:
    workspace = Workspace(tmp_path / "root").open()
    card = toy_card()
    write_cards(workspace.root, card)
    toy_dataset(workspace, card)
    path = workspace.dataset(card.dataset_name) / "splits.json"
    splits = json.loads(path.read_text())
    splits["patients"][splits["folds"][0]["test"][0]] = splits["patients"][splits["folds"][0]["train"][0]]
    path.write_text(json.dumps(splits))
    one_message(
        run("benchmark", "--tasks", 901, "--profile", "smoke", "--methods", "scratch", "--workers", 1), "splits.json"
    )
    assert not list(workspace.cells.glob("*/*/*"))


def test_card_with_a_wrong_field(run: Verb, tmp_path: Path) -> None:
    folder = tmp_path / "root" / "datasets"
    folder.mkdir(parents=True)
    card = json.loads(toy_card().model_dump_json(by_alias=True))
    (folder / "mine.json").write_text(json.dumps({**card, "modalitys": ["t1"]}))
    one_message(run("prepare", "-d", 901), "mine.json", "modalitys", "modalities")


def test_unwritable_root(run: Verb, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    one_message(run("prepare", "-d", 501, "--phantom", root=tmp_path / "file"), "--root")


def test_unknown_names(run: Verb, tmp_path: Path) -> None:
    one_message(run("benchmark", "--all", "--phantom", "--methods", "brainmpv"), "brainmvp")
    one_message(run("benchmark", "--all", "--phantom", "--methods", "imported:mine"), "imported:mine", "mvp_weights")
    one_message(run("pretrain", "--method", "maee"), "mae")
    one_message(run("benchmark", "--all", "--phantom", "--encoder", "resenc-xxl"), "resenc-l")
    assert run("prepare", "--no-such-option")[0] == 2


def test_pretraining_takes_the_options_of_its_method(run: Verb, tmp_path: Path, capsys) -> None:
    assert run("pretrain", "--list")[0] == 0
    workspace = Workspace(tmp_path / "root").open()
    card = toy_card("pretraining", 903)
    write_cards(workspace.root, card)
    toy_dataset(workspace, card)
    command = ("-d", 903, "--profile", "smoke", "--workers", 1, "--method", "mae", "--mask-ratio")
    assert run("pretrain", *command, 0.5)[0] == 0
    (folder,) = workspace.pretraining.iterdir()
    assert '"mask_ratio": 0.5' in (folder / "encoder.json").read_text()
    assert run("pretrain", *command, 0.5, "--no-such-field", 1)[0] == 2
    one_message(run("pretrain", *command, 0.5, "--preset", "papre"), "preset of mae", "papre")


@pytest.fixture
def pretrained(run: Verb, tmp_path: Path) -> Path:
    """A workspace with one toy task and an encoder pre-trained for it."""
    root = tmp_path / "root"
    workspace = Workspace(root).open()
    cards = [toy_card("classification", 902), toy_card("pretraining", 903)]
    write_cards(root, *cards)
    for card in cards:
        toy_dataset(workspace, card)
    assert benchmark_toys(run)[0] == 0
    return next(workspace.pretraining.iterdir())


def benchmark_toys(run: Verb, *more: object) -> tuple[int, str]:
    arguments = ("--tasks", 902, "--pretrain-datasets", 903, "--methods", "mae", "--workers", 1, "--profile", "smoke")
    return run("benchmark", *arguments, *more)


def cells(tmp_path: Path) -> int:
    return len(list((tmp_path / "root/results/cells").rglob("cell.json")))


def test_damaged_weights(run: Verb, pretrained: Path, tmp_path: Path) -> None:
    weights = pretrained / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    one_message(benchmark_toys(run, "--seeds", 5), "encoder.safetensors")
    assert cells(tmp_path) == 1, "nothing was begun"


def test_weights_of_another_encoder(run: Verb, pretrained: Path, tmp_path: Path) -> None:
    record = json.loads((pretrained / "encoder.json").read_text())
    (pretrained / "encoder.json").write_text(json.dumps({**record, "encoder": "resenc-mini"}))
    one_message(benchmark_toys(run, "--seeds", 5), "resenc-mini")
    assert cells(tmp_path) == 1


def test_imported_weights_are_checked_first(run: Verb, pretrained: Path, tmp_path: Path) -> None:
    arguments = ("--tasks", 902, "--workers", 1, "--profile", "smoke", "--methods")
    one_message(run("benchmark", *arguments, "imported:mea"), "imported:mea", f"one of {pretrained.name}")
    mine = f"imported:{pretrained.name}"
    one_message(run("benchmark", *arguments, mine, "--encoder", "resenc-mini"), pretrained.name, "resenc-smoke")
    weights = pretrained / "encoder.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    one_message(run("benchmark", *arguments, mine), "encoder.safetensors")
    assert cells(tmp_path) == 1, "nothing was begun"


def test_damaged_checkpoint(run: Verb, pretrained: Path) -> None:
    (pretrained / "encoder.json").unlink()
    (pretrained / "checkpoint_last.pt").write_bytes(b"PK not a checkpoint")
    options = ("--profile", "smoke", "--workers", 1, "--threads", 1)
    one_message(run("pretrain", "-d", 903, "--method", "mae", *options), "checkpoint_last.pt")


def test_phantom_and_real_never_meet(run: Verb, release: Path) -> None:
    assert run("prepare", "-d", 501, "--source", release)[0] == 0
    one_message(run("prepare", "-d", 501, "--phantom", "--profile", "smoke"), "--root")


OUT_OF_RANGE = {
    "no epoch": ("benchmark", ["--segmentation.epochs", 0], ["--segmentation.epochs", "found 0", "at least 1"]),
    "less than none": ("benchmark", ["--classification.epochs", -1], ["--classification.epochs", "found -1"]),
    "no gradient": ("benchmark", ["--segmentation.gradient-clip", 0], ["--segmentation.gradient-clip", "above 0"]),
    "no gradient in pre-training": ("pretrain", ["--gradient-clip", 0], ["--gradient-clip", "found 0.0", "above 0"]),
    "runaway": ("benchmark", ["--segmentation.momentum", 1.5], ["--segmentation.momentum", "1.5", "below 1"]),
    "nothing left": ("benchmark", ["--classification.dropout", 1], ["--classification.dropout", "below 1"]),
    "no resampling": ("benchmark", ["--statistics.bootstrap-samples", 0], ["--statistics.bootstrap-samples", "from 1"]),
    "resamplings": ("benchmark", ["--statistics.bootstrap-samples", -5], ["--statistics.bootstrap-samples", "-5"]),
    "no interval": ("benchmark", ["--statistics.confidence", 0], ["--statistics.confidence", "above 0 and below 1"]),
    "certainty": ("benchmark", ["--statistics.confidence", 2], ["--statistics.confidence", "found 2.0"]),
    "no seed": ("benchmark", ["--statistics.winner-seeds", 0], ["--statistics.winner-seeds", "at least 1"]),
    "no process": ("benchmark", ["--workers", 0], ["--workers", "found 0", "from 1"]),
    "no method": ("benchmark", ["--methods"], ["--methods", "found none"]),
    "no fold": ("benchmark", ["--folds"], ["--folds", "found none"]),
    "a negative fold": ("benchmark", ["--folds", -1], ["--folds", "found -1"]),
    "no voxel": ("plan", ["--spacing", 0, 1, 1], ["--spacing", "0.01"]),
    "no voxel either": ("benchmark", ["--planning.spacing", 1, 1, 0], ["--planning.spacing", "found 1.0 1.0 0.0"]),
    "threads": ("benchmark", ["--threads", 100000], ["--threads", "found 100000", "from 1 to 1024"]),
    "threads of pre-training": ("pretrain", ["--threads", 1000], ["--threads", "logical cores of this machine"]),
    "a device": ("benchmark", ["--device", "gpu"], ["--device", "'gpu'", "auto, cpu, cuda or cuda:N"]),
    "a GPU": ("benchmark", ["--device", "cuda:99"], ["--device", "cuda:99"]),
    "precision": ("benchmark", ["--device", "cpu", "--precision", "fp16"], ["--precision", "fp16 on a CPU"]),
    "64 bits": ("benchmark", ["--seeds", 2**64], ["--seeds", "4294967295"]),
    "no number": ("pretrain", ["--learning-rate", "nan"], ["--learning-rate", "found nan"]),
    "infinity": ("benchmark", ["--pretrain.learning-rate", "inf"], ["--pretrain.learning-rate", "found inf"]),
    "of a method": ("pretrain", ["--method", "mae", "--mask-ratio", 2], ["--mask-ratio", "found 2.0", "below 1"]),
    "rise": ("benchmark", ["--segmentation.warmup-epochs", 9], ["--segmentation.warmup-epochs", "below"]),
    "workers": ("prepare", ["-d", 501, "--phantom", "--workers", 0], ["--workers", "found 0"]),
    "both": ("prepare", ["-d", 501, "--all"], ["--all", "both"]),
    "a name": ("weights", ["import", "x.pth", "--name", "../x"], ["--name", "'../x'", "no dot in front"]),
}
"""Name of a test -> verb, arguments, words of the one message."""


@pytest.mark.parametrize("name", OUT_OF_RANGE)
def test_numbers_out_of_range_are_refused_before_anything_is_made(run: Verb, tmp_path: Path, name: str) -> None:
    verb, arguments, words = OUT_OF_RANGE[name]
    smoke = () if verb == "weights" else ("--profile", "smoke")
    phantom = ("--phantom", "--tasks", 501) if verb == "benchmark" else ("--phantom",) if verb == "pretrain" else ()
    one_message(run(verb, *smoke, *phantom, *arguments), *words)
    assert not list((tmp_path / "root").rglob("dataset.json")) and not list((tmp_path / "root").rglob("cell.json"))


def test_everything_wrong_is_said_at_once(run: Verb) -> None:
    many = ("--mask-ratio", 2, "--steps", 0, "--loaders", -1, "--encoder", "resenc-xxl", "--device", "tpu")
    code, text = run("pretrain", "--method", "mae", "--phantom", *many)
    assert code == 2 and text.startswith("error: 5 options: ") and text.count("\n") == 6
    for option in ("--mask-ratio", "--steps", "--loaders", "--encoder", "--device"):
        assert f"\n  {option}: " in text


def test_more_memory_than_there_is_is_a_warning(run: Verb, tmp_path: Path) -> None:
    one_message(run("pretrain", "--profile", "smoke", "--planning.memory-gb", 9000), "no prepared dataset")
    (log,) = (tmp_path / "root").rglob("mvp_pretrain.log")
    assert "--planning.memory-gb is 9000" in log.read_text()


def test_names_of_the_version_before_are_understood_once_more(run: Verb) -> None:
    code, text = run("benchmark", "--profile", "smoke", "--phantom", "--all", "--jobs=0", "--label-fractions", 2)
    assert code == 2
    assert "warning: --jobs is called --workers now" in text and "--label-fractions is called --label-budgets" in text
    assert "  --workers: a whole number from 1" in text and "--label-budgets: " in text


def test_commas_and_blanks_part_names_and_nothing_is_done_twice() -> None:
    from mvp_bench.config.command import parse
    from mvp_bench.config.verbs import BenchmarkConfig

    arguments = ["--methods", "scratch,mae", "mae", "--seeds", "1,2", "1", "--profile", "smoke"]
    config = parse(BenchmarkConfig, "mvp_benchmark", arguments)
    assert config.methods == ("scratch", "mae") and config.seeds == (1, 2) and config.profile == "smoke"


def test_profile_and_seeds_are_settled_with_the_options() -> None:
    from mvp_bench.config.command import parse
    from mvp_bench.config.verbs import BenchmarkConfig

    smoke = parse(BenchmarkConfig, "mvp_benchmark", ["--profile=smoke", "--seed", "7"])
    assert (smoke.profile, smoke.seeds, smoke.encoder) == ("smoke", (7,), "resenc-smoke")
    full = parse(BenchmarkConfig, "mvp_benchmark", ["--profile", "mini", "--profile", "full", "--seed", "7"])
    assert (full.profile, full.seeds, full.encoder) == ("full", (7, 8, 9), "resenc-l")
    assert parse(BenchmarkConfig, "mvp_benchmark", []).profile in ("full", "mini")
