"""mvp_weights: what it prints, where it writes, how it refuses."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

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
