"""mvp_weights: what it prints, where it writes, how it refuses."""

from __future__ import annotations

import resource
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from mvp_bench import cli
from mvp_bench.models.record import read_record
from tests.models.foreign import make_run, nnssl_checkpoint, nnunet_network

Weights = Callable[..., tuple[int, str, str]]


@pytest.fixture
def weights(monkeypatch, capsys, tmp_path: Path) -> Weights:
    """Run the verb in this process; returns exit code, standard output, standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["mvp_weights", *map(str, arguments), "--root", str(tmp_path / "root")])
        with pytest.raises(SystemExit) as stopped:
            cli.weights()
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return nnssl_checkpoint(tmp_path / "OpenMind.pth", nnunet_network("resenc-smoke"))


def test_inspect(weights: Weights, path: Path, tmp_path: Path) -> None:
    code, out, _ = weights("inspect", path)
    assert code == 0
    rows = dict(line.split("  ", 1) for line in out.splitlines() if "  " in line)
    rows = {name.strip(): value.strip() for name, value in rows.items()}
    assert rows["format"] == "nnssl" and rows["encoder"] == "resenc-smoke" and rows["can be imported"] == "yes"
    assert rows["spacing (z, y, x)"] == "1 x 1 x 1 mm" and rows["templates"] == "none"
    assert "encoder" in rows["tensors"] and "loaded" in out and "unused" in out
    assert not (tmp_path / "root").exists(), "a look leaves nothing behind"


def test_inspect_describes_what_does_not_fit(weights: Weights, path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["network_weights"]["encoder.stages.1.blocks.0.conv2.norm.weight"]
    del content["network_weights"]["encoder.stages.1.blocks.0.conv2.all_modules.1.weight"]
    torch.save(content, path)
    code, out, _ = weights("inspect", path)
    assert code == 0 and "none here" in out
    code, out, _ = weights("inspect", path, "--encoder", "resenc-smoke")
    assert code == 0 and "no: 1 tensors do not fit" in out and "missing" in out


def test_import_inspect_export(weights: Weights, path: Path, tmp_path: Path) -> None:
    code, out, _ = weights("import", path, "--name", "openmind", "--licence", "CC-BY-SA-4.0")
    run = tmp_path / "root" / "results" / "pretraining" / "openmind"
    assert code == 0 and "resenc-smoke" in out
    assert read_record(run).licences == ["CC-BY-SA-4.0"]
    code, out, _ = weights("inspect", run)
    assert code == 0 and "imported" in out and "CC-BY-SA-4.0" in out
    code, out, _ = weights("export", run, "--format", "nnunet", "--modalities", "t1", "t2", "--out", tmp_path / "o.pth")
    assert code == 0 and "-pretrained_weights" in out
    state = torch.load(tmp_path / "o.pth", weights_only=True)["network_weights"]
    assert state["encoder.stem.convs.0.conv.weight"].shape[1] == 2


def test_import_is_named_like_the_file(weights: Weights, path: Path, tmp_path: Path) -> None:
    assert weights("import", path)[0] == 0
    assert (tmp_path / "root" / "results" / "pretraining" / "OpenMind" / "encoder.json").is_file()


def test_own_weights_without_their_folder(weights: Weights, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / "encoder.safetensors").rename(tmp_path / "lost.safetensors")
    code, out, _ = weights("inspect", tmp_path / "lost.safetensors")
    assert code == 0 and "mvp_bench encoder" in out and "resenc-smoke" in out


@pytest.mark.parametrize("action", ["inspect", "import", "export"])
def test_bad_files_end_with_code_2(weights: Weights, tmp_path: Path, action: str) -> None:
    broken = tmp_path / "broken.pth"
    broken.write_bytes(b"PK\x03\x04 nothing")
    code, _, err = weights(action, broken)
    assert code == 2 and err.startswith("error: ") and "broken.pth" in err and "Traceback" not in err
    results = tmp_path / "root" / "results" / "pretraining"
    assert not results.exists() or not list(results.iterdir())


def test_no_file(weights: Weights) -> None:
    code, _, err = weights("import")
    assert code == 2 and "no file" in err


@pytest.mark.parametrize("action", ["import", "export"])
def test_unknown_modality(weights: Weights, path: Path, action: str) -> None:
    code, _, err = weights(action, path, "--modalities", "t1,flare")
    assert code == 2 and "flair" in err


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden"])
def test_runs_stay_in_their_folder(weights: Weights, path: Path, name: str) -> None:
    code, _, err = weights("import", path, "--name", name)
    assert code == 2 and "--name" in err


def _without(content: dict[str, Any], name: str) -> None:
    for alias in (name, name.replace("conv1.conv.", "conv1.all_modules.0.")):
        del content["network_weights"][alias]


BAD: dict[str, tuple[Callable[[dict[str, Any]], object] | None, list[str]]] = {
    "truncated": (None, ["not a whole checkpoint", "copy it again"]),
    "missing tensor": (
        lambda c: _without(c, "encoder.stages.1.blocks.0.conv1.conv.weight"),
        ["1 missing"],
    ),
    "unexpected tensor": (
        lambda c: c["network_weights"].update({"encoder.stages.7.weight": torch.zeros(3)}),
        ["1 unexpected", "encoder.stages.7.weight"],
    ),
    "pickled": (lambda c: c.update(args=Namespace(lr=0.1)), ["argparse.Namespace", "would run code", "weights_only"]),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_checkpoints_are_not_imported(weights: Weights, path: Path, tmp_path: Path, name: str) -> None:
    change, words = BAD[name]
    if change is None:
        path.write_bytes(path.read_bytes()[:-300])
    else:
        content = torch.load(path, weights_only=True)
        change(content)
        torch.save(content, path)
    code, _, err = weights("import", path, "--encoder", "resenc-smoke")
    assert code == 2 and err.startswith("error: ") and "Traceback" not in err
    for word in ("OpenMind.pth", *words):
        assert word in err
    assert not list((tmp_path / "root").glob("results/pretraining/*"))


def test_weights_of_another_encoder_are_not_imported(weights: Weights, path: Path, tmp_path: Path) -> None:
    code, _, err = weights("import", path, "--encoder", "resenc-mini")
    assert code == 2 and "OpenMind.pth" in err and "do not fit" in err and "resenc-mini" in err
    assert not list((tmp_path / "root").glob("results/pretraining/*"))


@pytest.mark.parametrize("action", ["import", "export"])
def test_a_full_disk(weights: Weights, path: Path, tmp_path: Path, action: str) -> None:
    make_run(tmp_path / "run")
    target = tmp_path / "out.pth"
    arguments = (path,) if action == "import" else (tmp_path / "run", "--out", target)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # files end there, as on a full disk
    try:
        code, _, err = weights(action, *arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert code == 2 and err.startswith("error: ") and "cannot be written" in err and "Traceback" not in err
    assert not target.exists() and not list((tmp_path / "root").glob("results/pretraining/[!.]*"))
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_files_name_becomes_one_that_a_method_can_have(weights: Weights, path: Path, tmp_path: Path) -> None:
    odd = path.rename(path.with_name("Brain MVP, final.pth"))
    code, out, _ = weights("import", odd)
    assert code == 0 and "scratch,imported:Brain_MVP__final" in out
    assert (tmp_path / "root/results/pretraining/Brain_MVP__final/encoder.json").is_file()
    code, _, err = weights("import", odd, "--name", "brain mvp")
    assert code == 2 and "--name" in err
