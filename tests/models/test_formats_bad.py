"""Checkpoints that cannot be used: one message that names file and reason, and nothing is left behind."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mvp_bench.errors import InputError
from mvp_bench.models.formats.exporting import export_checkpoint
from mvp_bench.models.formats.importing import ImportChoices, encoder_from_checkpoint, import_checkpoint
from mvp_bench.models.formats.raw import read_raw
from mvp_bench.models.record import WEIGHTS_FILE
from mvp_bench.registry import ENCODERS
from tests.models.foreign import make_run, nnssl_checkpoint, nnssl_plan, nnunet_network


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return nnssl_checkpoint(tmp_path / "files" / "checkpoint_final.pth", nnunet_network("resenc-smoke"))


def changed(path: Path, **changes: Any) -> Path:
    """The checkpoint with other values at the top level."""
    torch.save(torch.load(path, weights_only=True) | changes, path)
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["network_weights"]


def refused(path: Path, *words: str, choices: ImportChoices | None = None) -> None:
    folder = path.parent.parent / "results" / "run"
    with pytest.raises(InputError) as error:
        import_checkpoint(path, folder, choices)
    for word in (path.name, *words):
        assert word in str(error.value)
    assert not folder.parent.exists() or not list(folder.parent.iterdir()), "something is left behind"


def test_missing_file(path: Path) -> None:
    refused(path.with_name("nowhere.pth"), "no such file")


@pytest.mark.parametrize("kept", [0.9, 0.5, 0.01, 0])
def test_truncated(path: Path, kept: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(path, "not a whole checkpoint", "copy it again")


def test_truncated_safetensors(tmp_path: Path) -> None:
    file = tmp_path / "files" / "weights.safetensors"
    file.parent.mkdir()
    save_file({"a": torch.zeros(100)}, file)
    file.write_bytes(file.read_bytes()[:-10])
    refused(file, "not a whole checkpoint")


def test_text_is_no_checkpoint(path: Path) -> None:
    path.write_text("<html>Quota exceeded</html>")
    refused(path, "not a whole checkpoint")


class Evil:
    """Runs code when unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("evil-was-here"),)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (Namespace(lr=0.1), "argparse.Namespace"),
        (torch.nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (Path("x"), "pathlib"),
    ],
)
def test_pickled_code_is_refused_by_name(path: Path, content: Any, name: str) -> None:
    changed(path, args=content)
    refused(path, name, "would run code", "weights_only=False", "If you trust its source")


def test_no_code_is_run(path: Path, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    changed(path, args=Evil())
    refused(path, "would run code")
    assert not (tmp_path / "evil-was-here").exists()


def test_the_advice_helps(path: Path, monkeypatch) -> None:
    """The file that the message's command writes is accepted, adaptation plan and all."""
    changed(path, args=Namespace(lr=0.1))
    with pytest.raises(InputError) as error:
        import_checkpoint(path, path.parent / "run")
    monkeypatch.chdir(path.parent)
    exec(error.value.fix.split('python -c "')[1].rstrip('"'), {})
    record = import_checkpoint(path.with_name("weights.pt"), path.parent / "run")
    assert record.encoder == "resenc-smoke" and record.origin is not None and record.origin.format == "nnssl"


def test_missing_tensor(path: Path) -> None:
    state = weights(path)
    name = next(n for n in state if n.startswith("encoder.stages.1") and n.endswith("conv1.conv.weight"))
    for alias in (name, name.replace("conv1.conv.", "conv1.all_modules.0.")):
        del state[alias]
    changed(path, network_weights=state)
    refused(path, "1 missing", choices=ImportChoices(encoder="resenc-smoke"))
    refused(path, "nearest, resenc-smoke")


def test_unexpected_tensor(path: Path) -> None:
    changed(path, network_weights=weights(path) | {"encoder.stages.7.weight": torch.zeros(3)})
    refused(path, "1 unexpected (e.g. encoder.stages.7.weight)", choices=ImportChoices(encoder="resenc-smoke"))


def test_wrong_shape(path: Path) -> None:
    state = weights(path)
    name = "encoder.stages.1.blocks.0.conv2.norm.weight"
    changed(path, network_weights=state | {name: torch.zeros(3)})
    refused(path, "mismatch", name.removesuffix("weight"), choices=ImportChoices(encoder="resenc-smoke"))


@pytest.mark.parametrize("values", [[float("nan")], [float("inf"), float("-inf")]])
def test_not_finite(path: Path, values: list[float]) -> None:
    state = weights(path)
    state["encoder.stages.1.blocks.0.conv2.norm.weight"][: len(values)] = torch.tensor(values)
    changed(path, network_weights=state)
    refused(path, "1 not finite")


def test_other_encoder(path: Path) -> None:
    refused(path, "tensors that do not fit", "resenc-mini", choices=ImportChoices(encoder="resenc-mini"))


def test_unknown_encoder_lists_near_names(path: Path) -> None:
    with pytest.raises(InputError, match="Did you mean resenc-"):
        import_checkpoint(path, path.parent / "run", ImportChoices(encoder="resenc-smok"))


def test_topology_that_no_encoder_has(path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Conv3d(1, 7, 3))
    state = {f"encoder.stages.{n}": t for n, t in network.state_dict().items()}
    changed(path, network_weights=state)
    refused(path, "no encoder here", "resenc-l")


def test_strides_are_compared_where_stated(path: Path) -> None:
    architecture = ENCODERS["resenc-smoke"].architecture()["arch_kwargs"]
    strides = [[1, 1, 1], [1, 2, 2], [2, 2, 2]]
    plan = nnssl_plan(architecture_plans={"arch_class_name": "x", "arch_kwargs": architecture | {"strides": strides}})
    changed(path, nnssl_adaptation_plan=plan)
    refused(path, "[1, 2, 2]", "strides")


@pytest.mark.parametrize(
    ("changes", "word"),
    [({"key_to_encoder": None}, "key_to_encoder"), ({"key_to_encoder": "eva", "key_to_stem": "down"}, "'eva'")],
)
def test_adaptation_plan_that_leads_nowhere(path: Path, changes: dict[str, Any], word: str) -> None:
    changed(path, nnssl_adaptation_plan=nnssl_plan(**changes))
    refused(path, "nnssl_adaptation_plan", word)


def test_contradicting_aliases(path: Path) -> None:
    state = weights(path)
    name = "encoder.stem.convs.0.all_modules.0.weight"
    state[name] = state[name] + 1
    changed(path, network_weights=state)
    refused(path, "mismatch", name)


def test_no_tensors(path: Path) -> None:
    torch.save({"epoch": 1}, path)
    refused(path, "no tensors")
    torch.save([1, 2], path)
    refused(path, "a list at the top level")


def test_folder_with_something_else(path: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    before = (tmp_path / "run" / WEIGHTS_FILE).read_bytes()
    with pytest.raises(InputError, match="a run of mae"):
        import_checkpoint(path, tmp_path / "run")
    assert (tmp_path / "run" / WEIGHTS_FILE).read_bytes() == before


def test_same_import_twice_is_done_already(path: Path, tmp_path: Path) -> None:
    first = import_checkpoint(path, tmp_path / "run")
    stamp = (tmp_path / "run" / WEIGHTS_FILE).stat().st_mtime_ns
    assert import_checkpoint(path, tmp_path / "run") == first
    assert (tmp_path / "run" / WEIGHTS_FILE).stat().st_mtime_ns == stamp
    with pytest.raises(InputError, match="same file's import with"):
        import_checkpoint(path, tmp_path / "run", ImportChoices(licence="CC-BY-4.0"))


def test_export_of_a_damaged_run(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "run" / WEIGHTS_FILE).write_bytes((tmp_path / "run" / WEIGHTS_FILE).read_bytes()[:-4])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        export_checkpoint(tmp_path / "run", tmp_path / "out.pth", "nnssl")
    with pytest.raises(InputError, match="finished pre-training"):
        export_checkpoint(tmp_path / "nowhere", tmp_path / "out.pth", "nnssl")
    assert not (tmp_path / "out.pth").exists()


def test_export_where_nothing_can_be_written(tmp_path: Path) -> None:
    make_run(tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export_checkpoint(tmp_path / "run", tmp_path / "file" / "out.pth", "nnssl")


def test_half_precision_is_widened(path: Path) -> None:
    state = weights(path)
    changed(path, network_weights={n: t.half() for n, t in state.items()})
    encoder, report = encoder_from_checkpoint(path)
    assert not report.faults
    name = "stages.1.blocks.0.conv2.norm.weight"
    found = encoder.state_dict()[name]
    assert found.dtype == torch.float32 and torch.equal(found, state[f"encoder.{name}"].half().float())


def test_numbers_of_numpy_are_no_code(path: Path) -> None:
    import numpy as np

    changed(path, best=np.float64(0.5), epochs=np.int64(3))
    assert float(read_raw(path).content["best"]) == 0.5
