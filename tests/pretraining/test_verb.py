"""mvp_pretrain: bad input is one message and exit code 2; --dry-run, --estimate, presets."""

from __future__ import annotations

import json
import resource
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch

from mvp_bench import cli
from mvp_bench.config.groups import PretrainConfig
from mvp_bench.config.profiles import PROFILES
from mvp_bench.pretraining.engine import Engine
from mvp_bench.pretraining.estimate import Estimate, EstimateOptions
from mvp_bench.pretraining.methods.brainmvp import BrainMvpOptions
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace
from tests.toy import toy_card, toy_dataset, write_cards

Verb = Callable[..., tuple[int, str, str]]
TOY = ("-d", 903, "--profile", "smoke", "--workers", 1, "--device", "cpu")


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Verb:
    """Run mvp_pretrain in this process: exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mvp_pretrain", "--root", str(tmp_path / "root"), *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.pretrain()
        texts = capsys.readouterr()
        return int(stopped.value.code or 0), texts.out, texts.err

    return call


@pytest.fixture
def toy(tmp_path: Path) -> Callable[[Sequence[str]], Workspace]:
    """A workspace with one prepared dataset of the given modalities."""

    def make(modalities: Sequence[str] = ("t1", "flair")) -> Workspace:
        workspace = Workspace(tmp_path / "root").open()
        card = toy_card("pretraining", 903, tuple(modalities))
        write_cards(workspace.root, card)
        toy_dataset(workspace, card)
        return workspace

    return make


BAD = {
    "unknown preset": (["--preset", "papr"], ["preset of brainmvp", "'papr'", "paper"]),
    "unknown encoder": (["--encoder", "resenc-smok"], ["encoder", "'resenc-smok'", "Did you mean", "resenc-smoke"]),
    "unknown method": (["--method", "brainmpv"], ["method", "'brainmpv'", "Did you mean brainmvp"]),
    "patch": (["--patch-size", 16, 18, 16], ["--patch-size", "16 x 18 x 16", "multiples of 4"]),
    "patch of nothing": (["--patch-size", 0, 16, 16], ["--patch-size", "0 x 16 x 16"]),
    "batch of one": (["--batch-size", 1], ["--batch-size", "no negatives", "gradient"]),
    "no GPU": (["--device", "cuda:31"], ["--device", "cuda:31"]),
    "no device": (["--device", "gpu"], ["--device", "'gpu'"]),
    "half precision on a CPU": (["--precision", "fp16"], ["--precision", "fp16 on a CPU"]),
    "no step": (["--steps", 0], ["--steps", "0"]),
    "no accumulation": (["--accumulation", 0], ["--accumulation"]),
    "average": (["--ema-decay", 1.0], ["--ema-decay"]),
    "rate": (["--learning-rate", -1.0], ["--learning-rate"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_settings_are_refused_before_data_are_touched(verb: Verb, tmp_path: Path, name: str) -> None:
    arguments, words = BAD[name]
    code, _, text = verb("--profile", "smoke", "--device", "cpu", "--phantom", *arguments)
    assert code == 2, text
    assert text.startswith("error: ") and text.count("\n") == 1
    for word in words:
        assert word in text
    assert not list((tmp_path / "root").glob("datasets/*/dataset.json"))
    assert not list((tmp_path / "root").glob("results/pretraining/*"))


def test_no_data(verb: Verb, tmp_path: Path) -> None:
    code, _, text = verb("--profile", "smoke", "--device", "cpu")
    assert code == 2 and text.startswith("error: pre-training data: found no prepared dataset")
    assert "mvp_prepare" in text and "--phantom" in text
    assert not list((tmp_path / "root").glob("results/pretraining/*"))


def test_one_modality_only(verb: Verb, toy: Callable[..., Workspace]) -> None:
    workspace = toy(["t1"])
    code, _, text = verb(*TOY)
    assert code == 2 and "one modality in every case" in text and "--cross-modal-start" in text
    assert not list(workspace.pretraining.rglob("*.pt")) and not list(workspace.pretraining.rglob("*.json"))
    assert verb(*TOY, "--cross-modal-start", 1.0)[0] == 0


def test_a_template_grid_too_small_for_a_case(verb: Verb, toy: Callable[..., Workspace]) -> None:
    toy()
    code, _, text = verb(*TOY, "--template-shape", 8, 40, 40)
    assert code == 2 and "--template-shape: found 8 x 40 x 40" in text
    assert "along z" in text and "Dataset903_Toy903/case" in text
    assert verb(*TOY, "--template-shape", 40, 40, 40)[0] == 0


def test_a_dry_run_prints_the_configuration_and_makes_nothing(verb: Verb, tmp_path: Path) -> None:
    code, text, _ = verb("--dry-run", "--device", "cpu", "--preset", "official", "--steps", 7, "--mask-ratio", 0.5)
    assert code == 0 and not (tmp_path / "root").exists()
    content = json.loads(text)
    assert content["pretrain"]["steps"] == 7 and content["options"]["mask_ratio"] == 0.5
    assert content["pretrain"]["accumulation"] == 2 and content["options"]["weight_distillation"] == 10.0
    assert content["resolved"]["cases_per_step"] == 6 and content["resolved"]["device"] == "cpu"
    assert set(content["pretrain"]) == {f.name for f in fields(PretrainConfig)}
    assert set(content["options"]) == {f.name for f in fields(BrainMvpOptions)}
    assert verb("--dry-run", "--device", "cpu", "--patch-size", 5, 5, 5)[0] == 2


@pytest.mark.parametrize("preset", list(BrainMvpOptions.presets()))
def test_a_preset_is_a_whole_configuration(verb: Verb, preset: str) -> None:
    content = json.loads(verb("--dry-run", "--device", "cpu", "--profile", "smoke", "--preset", preset)[1])
    loop = BrainMvpOptions.loops()[preset]
    assert content["encoder"]["name"] == loop["encoder"]
    for name, value in loop.items():
        if name != "encoder":
            assert content["pretrain"][name] == (list(value) if isinstance(value, tuple) else value), name
    named = {f.name for f in fields(PretrainConfig)} | {"encoder"}
    assert set(loop) <= named and set(BrainMvpOptions.loops()) == set(BrainMvpOptions.presets())
    assert ENCODERS[loop["encoder"]].stride <= 16


def test_published_loops() -> None:
    paper, official = BrainMvpOptions.loops()["paper"], BrainMvpOptions.loops()["official"]
    assert paper["steps"] == 1500 * 156 and (paper["batch_size"], official["accumulation"]) == (3, 2)
    assert paper["learning_rate"] == 3e-4 and paper["weight_decay"] == 1e-5 and paper["gradient_clip"] is None
    assert paper["patch_size"] == (96, 96, 96) and paper["spacing"] == 1.0


def test_an_estimate_is_printed_and_nothing_is_kept(
    verb: Verb, toy: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = toy()
    timed: list[int] = []
    durations = Engine.durations
    monkeypatch.setattr(Engine, "durations", lambda self, steps: timed.append(steps) or durations(self, steps))
    code, text, _ = verb(*TOY, "--steps", 500, "--estimate", "--method", "mae")
    assert code == 0
    assert timed == [20 + EstimateOptions().skipped]
    for word in ("time: ", " h for 500 steps", "250 checkpoints", "memory: ", "disk: ", "free"):
        assert word in text, text
    assert not workspace.pretraining.exists()


def test_an_estimate_adds_up() -> None:
    found = Estimate(
        steps=7200,
        step_s=0.5,
        save_s=2.0,
        saves=1800,
        checkpoint_bytes=3_000_000,
        memory_mb=100.0,
        workers_mb=0.0,
        cases_bytes=0,
        free_bytes=5_000_000,
        device="cpu",
    )
    assert found.hours == pytest.approx(2.0) and found.disk_bytes == 6_000_000
    assert "too small" in found.text()


def test_the_estimate_is_about_right(verb: Verb, toy: Callable[..., Workspace]) -> None:
    """Within a factor of three of what the run then takes, whichever of two estimates around it is nearer (this machine
    may be busy)."""
    import re

    workspace = toy()
    arguments = (*TOY, "--steps", 60, "--checkpoint-every", 30, "--method", "mae")

    def seconds() -> float:
        return float(re.search(r"time: ([\d.e-]+) h", verb(*arguments, "--estimate")[1]).group(1)) * 3600  # type: ignore

    before = seconds()
    assert verb(*arguments)[0] == 0
    after = seconds()
    (folder,) = workspace.pretraining.iterdir()
    taken = json.loads((folder / "encoder.json").read_text())["cost"]["wall_time_s"]
    assert min(before, after) / 3 < taken < 3 * max(before, after)


def test_interrupted_by_a_full_disk_is_one_message(
    verb: Verb, toy: Callable[..., Workspace], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = toy()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    code, _, text = verb(*TOY, "--method", "mae")
    assert code == 2 and "checkpoint_last.pt" in text and "No space left" in text and text.startswith("error: ")
    assert not list(workspace.pretraining.rglob("*.tmp*")) and not list(workspace.pretraining.rglob("encoder.*"))


MAE = (*TOY, "--method", "mae")


@pytest.fixture
def stopped(verb: Verb, toy: Callable[..., Workspace]) -> Path:
    """A run's checkpoint; the run lacks its last file."""
    workspace = toy()
    assert verb(*MAE)[0] == 0
    (folder,) = workspace.pretraining.iterdir()
    (folder / "encoder.json").unlink()
    return folder / "checkpoint_last.pt"


def _identity(content: dict[str, Any], group: str, **fields: Any) -> None:
    identity = json.loads(content["identity"])
    identity[group].update(fields)
    content["identity"] = json.dumps(identity)


CHECKPOINTS: dict[str, tuple[Callable[[dict[str, Any]], object], list[str]]] = {
    "missing tensor": (lambda c: c["method"].pop(next(iter(c["method"]))), ["do not fit the run", "Missing key"]),
    "unexpected tensor": (lambda c: c["method"].update(more=torch.zeros(1)), ["do not fit the run", "more"]),
    "pickled": (lambda c: c.update(log=Namespace(rows=[])), ["pickled code"]),
    "another configuration": (
        lambda c: _identity(c, "pretrain", learning_rate=0.5),
        [f"pretrain.learning_rate 0.5, now {PROFILES['smoke'].pretrain.learning_rate}", "delete"],
    ),
    "another encoder": (
        lambda c: _identity(c, "encoder", name="resenc-mini"),
        ["encoder.name 'resenc-mini', now 'resenc-smoke'"],
    ),
}


@pytest.mark.parametrize("name", ["truncated", *CHECKPOINTS])
def test_checkpoints_that_cannot_be_gone_on_from(verb: Verb, stopped: Path, name: str) -> None:
    if name == "truncated":
        stopped.write_bytes(stopped.read_bytes()[:-500])
        words = ["not a whole checkpoint"]
    else:
        change, words = CHECKPOINTS[name]
        content = torch.load(stopped, weights_only=True)
        change(content)
        torch.save(content, stopped)
    before = stopped.read_bytes()
    code, _, text = verb(*MAE)
    assert code == 2 and text.startswith("error: ") and text.count("\n") == 1
    for word in ("checkpoint_last.pt", *words):
        assert word in text
    assert stopped.read_bytes() == before and not stopped.with_name("encoder.json").exists()


def test_a_disk_that_is_full_indeed(verb: Verb, toy: Callable[..., Workspace]) -> None:
    """No file may grow beyond 50 kB: what a full disk does to torch's writer, without a disk to fill."""
    workspace = toy()
    assert verb(*MAE, "--steps", 1)[0] == 0  # the data are ready
    (done,) = workspace.pretraining.iterdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        code, _, text = verb(*MAE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and text.startswith("error: ") and text.count("\n") == 1
    assert "cannot be written" in text and "checkpoint_last.pt" in text and "goes on from the last checkpoint" in text
    (folder,) = set(workspace.pretraining.iterdir()) - {done}
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} <= {"log.csv"}
    assert verb(*MAE)[0] == 0, "with room, the same command ends"
