"""nnssl and nnU-Net: in, out, and stock nnU-Net trains from what we write."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from mvp_bench.config.profiles import SMOKE
from mvp_bench.errors import InputError
from mvp_bench.finetuning.weights import load_into
from mvp_bench.models.formats.exporting import export_checkpoint
from mvp_bench.models.formats.importing import ImportChoices, encoder_from_checkpoint, import_checkpoint
from mvp_bench.models.weights import adapt_stem, encoder_state, initialise_encoder, load_pretrained
from mvp_bench.parallel import Inline
from mvp_bench.planning.plan import plan_dataset
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace
from tests.models.foreign import make_run, nnssl_checkpoint, nnunet_checkpoint, nnunet_network
from tests.stock import preprocess_with_stock_nnunet
from tests.toy import toy_card, toy_dataset

STEM = "stem.convs.0.conv.weight"


def same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


# ------------------------------------------------------------------------------------------------------------------- in


@pytest.mark.parametrize("encoder", ["resenc-smoke", "resenc-mini", "plain-smoke"])
def test_nnssl_into_ours(tmp_path: Path, encoder: str) -> None:
    network = nnunet_network(encoder)
    changes = {"key_to_stem": network.key_to_stem, "keys_to_in_proj": list(network.keys_to_in_proj)}
    path = nnssl_checkpoint(tmp_path / "checkpoint_final.pth", network, **changes)
    record = import_checkpoint(path, tmp_path / "run")
    state, again = load_pretrained(tmp_path / "run")
    assert again == record and record.encoder == encoder and record.method == "imported"
    same(state, encoder_state(network.encoder))
    assert record.origin is not None and record.origin.format == "nnssl"
    assert record.origin.citation == "He et al. 2022." and record.origin.details["trainer"] == "BaseMAETrainer"
    assert record.data == [] and "data" in record.origin.unknown and record.source == "unknown"
    report = (tmp_path / "run" / "load_report.txt").read_text()
    assert f"{len(state)} of {len(state)} tensors of {encoder} come from it" in report
    assert "decoder.stages" in report, "tensors that are left out are listed, too"


def test_features_are_the_original_networks(tmp_path: Path) -> None:
    network = nnunet_network("resenc-smoke").eval()
    encoder, _ = encoder_from_checkpoint(nnssl_checkpoint(tmp_path / "c.pth", network))
    image = torch.randn(1, 1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for ours, theirs in zip(encoder.eval()(image), network.encoder(image), strict=True):
            assert torch.equal(ours, theirs)


def test_transposed_network_is_turned_back(tmp_path: Path) -> None:
    """A plan that moves axis 2 to the front: the network sees (x, z, y) where ours sees (z, y, x)."""
    network = nnunet_network("resenc-smoke").eval()
    path = nnssl_checkpoint(
        tmp_path / "c.pth",
        network,
        pretrain_plan={"transpose_forward": [2, 0, 1], "configurations": {"x": {"patch_size": [16, 16, 16]}}},
    )
    encoder, _ = encoder_from_checkpoint(path)
    image = torch.randn(1, 1, 8, 12, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = network.encoder(image.permute(0, 1, 4, 2, 3))[-1].permute(0, 1, 3, 4, 2)
        assert torch.allclose(encoder.eval()(image)[-1], theirs, atol=1e-5)
        assert not torch.allclose(network.encoder(image)[-1], theirs, atol=1e-2)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_wrappers_prefixes_are_taken_off(tmp_path: Path, prefix: str) -> None:
    network = nnunet_network("resenc-smoke")
    path = nnssl_checkpoint(tmp_path / "c.pth", network)
    content = torch.load(path, weights_only=True)
    content["network_weights"] = {prefix + n: t for n, t in content["network_weights"].items()}
    torch.save(content, path)
    import_checkpoint(path, tmp_path / "run")
    same(load_pretrained(tmp_path / "run")[0], encoder_state(network.encoder))


def test_nnunet_checkpoint_keeps_its_channels_by_name(tmp_path: Path) -> None:
    network = nnunet_network("resenc-smoke", channels=3)
    path = nnunet_checkpoint(tmp_path / "checkpoint_final.pth", network, "resenc-smoke", ("T1", "T2_FLAIR", "T1ce"))
    record = import_checkpoint(path, tmp_path / "run")
    assert record.stem_modalities == ["t1", "flair", "t1c"] and record.spacing == (1.5, 1.0, 1.0)
    state, _ = load_pretrained(tmp_path / "run")
    same(state, encoder_state(network.encoder))
    encoder = ENCODERS["resenc-smoke"].build(2)
    initialise_encoder(
        encoder, state, "by_modality", 2, modalities=["flair", "pd"], stem_modalities=record.stem_modalities
    )
    kernel = state[STEM]
    assert torch.allclose(encoder.state_dict()[STEM][:, 0], kernel[:, 1] * 1.5)
    assert torch.allclose(encoder.state_dict()[STEM][:, 1], kernel.mean(1) * 1.5)


@pytest.mark.parametrize("rule", ["reinit", "repeat", "by_modality"])
def test_stem_rules_on_several_channels(tmp_path: Path, rule) -> None:
    network = nnunet_network("resenc-smoke", channels=2)
    path = nnunet_checkpoint(tmp_path / "c.pth", network, "resenc-smoke", ("t1", "flair"))
    torch.manual_seed(11)
    fresh = ENCODERS["resenc-smoke"].build(3).state_dict()[STEM]
    torch.manual_seed(11)
    encoder, report = encoder_from_checkpoint(path, 3, rule, ["flair", "t1", "t2"])
    kernel = network.encoder.state_dict()[STEM]
    expected = fresh if rule == "reinit" else adapt_stem(kernel, rule, 3, ["flair", "t1", "t2"], ["t1", "flair"])
    assert torch.equal(encoder.state_dict()[STEM], expected)
    assert (report.count("new"), report.count("adapted")) == ((2, 0) if rule == "reinit" else (0, 1))
    for name, tensor in encoder_state(network.encoder).items():
        if not name.startswith("stem.convs.0.conv"):
            assert torch.equal(encoder.state_dict()[name], tensor)


def test_fine_tuning_takes_an_imported_run(tmp_path: Path) -> None:
    network = nnunet_network("resenc-smoke", channels=2)
    import_checkpoint(nnunet_checkpoint(tmp_path / "c.pth", network, "resenc-smoke", ("t1", "flair")), tmp_path / "run")
    job: Any = SimpleNamespace(pretrained=tmp_path / "run", encoder="resenc-smoke", stem="by_modality", folder=tmp_path)
    encoder = ENCODERS["resenc-smoke"].build(2)
    counts = load_into(encoder, job, ["flair", "t1"])
    assert counts["adapted"] == 1 and counts["new"] == 0
    assert torch.equal(encoder.state_dict()[STEM], network.encoder.state_dict()[STEM][:, [1, 0]])


def test_a_bare_network(tmp_path: Path) -> None:
    network = nnunet_network("resenc-smoke")
    torch.save({"model": network.state_dict(), "epoch": 3}, tmp_path / "bare.ckpt")
    record = import_checkpoint(tmp_path / "bare.ckpt", tmp_path / "run")
    assert record.encoder == "resenc-smoke" and record.origin is not None and "spacing" in record.origin.unknown
    same(load_pretrained(tmp_path / "run")[0], encoder_state(network.encoder))


def test_unnamed_channels_need_names(tmp_path: Path) -> None:
    network = nnunet_network("resenc-smoke", channels=2)
    path = nnssl_checkpoint(tmp_path / "c.pth", network)
    with pytest.raises(InputError, match="2 input channels and no names"):
        import_checkpoint(path, tmp_path / "run")
    with pytest.raises(InputError, match="t1ce"):
        import_checkpoint(path, tmp_path / "run", ImportChoices(modalities=("t1ce", "t2")))
    record = import_checkpoint(path, tmp_path / "run", ImportChoices(modalities=("t2", "flair")))
    assert record.stem_modalities == ["t2", "flair"]


# ------------------------------------------------------------------------------------------------------------------ out


def test_out_and_in_again(tmp_path: Path) -> None:
    module = make_run(tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "out.pth", "nnssl")
    record = import_checkpoint(tmp_path / "out.pth", tmp_path / "back")
    same(load_pretrained(tmp_path / "back")[0], encoder_state(module))
    assert record.modalities == ["t1", "flair"] and record.stem_modalities == []
    assert record.origin is not None and record.origin.details["exported_from"]["method"] == "mae"


@pytest.mark.parametrize("encoder", ["resenc-smoke", "plain-smoke"])
def test_adaptation_plan_leads_nnunet_to_every_tensor(tmp_path: Path, encoder: str) -> None:
    """nnU-Net's reader in short: below the plan's keys lie, name for name, the network's own submodules."""
    module = make_run(tmp_path / "ours", encoder)
    export_checkpoint(tmp_path / "ours", tmp_path / "out.pth", "nnssl")
    content = torch.load(tmp_path / "out.pth", weights_only=True)
    plan = content["nnssl_adaptation_plan"]
    json.dumps(plan)
    architecture = plan["architecture_plans"]
    assert architecture["arch_class_name"].endswith(("ResidualEncoderUNet", "PlainConvUNet"))
    network = nnunet_network(encoder)
    for key, own in ((plan["key_to_encoder"], network.key_to_encoder), (plan["key_to_stem"], network.key_to_stem)):
        below = {n[len(key) + 1 :]: t for n, t in content["network_weights"].items() if n.startswith(f"{key}.")}
        network.get_submodule(own).load_state_dict(below)  # strict
    same(encoder_state(network.encoder), encoder_state(module))
    assert list(plan["keys_to_in_proj"]) == list(network.keys_to_in_proj)
    for name in plan["keys_to_in_proj"]:
        assert content["network_weights"][f"{name}.weight"].shape[1] == plan["pretrain_num_input_channels"] == 1


def test_stem_of_an_export_follows_the_rule(tmp_path: Path) -> None:
    module = make_run(tmp_path / "ours", stem_modalities=("t1", "flair"))
    channels = ("flair", "t2", "t1")
    for rule in ("repeat", "by_modality"):
        export_checkpoint(tmp_path / "ours", tmp_path / "out.pth", "nnunet", channels, rule)  # type: ignore[arg-type]
        weights = torch.load(tmp_path / "out.pth", weights_only=True)["network_weights"]
        expected = adapt_stem(module.state_dict()[STEM], rule, 3, channels, ("t1", "flair"))  # type: ignore[arg-type]
        assert torch.equal(weights[f"encoder.{STEM}"], expected)


def test_networks_that_nnunet_has_not_are_refused(tmp_path: Path) -> None:
    make_run(tmp_path / "ours", "unet3d-smoke")
    with pytest.raises(InputError, match="stock nnU-Net does not have"):
        export_checkpoint(tmp_path / "ours", tmp_path / "out.pth", "nnssl")
    assert not list(tmp_path.glob("*.pth*"))


@pytest.mark.parametrize("kind", ["nnssl", "nnunet"])
def test_stock_nnunet_trains_from_an_export(workspace: Workspace, tmp_path: Path, monkeypatch, kind) -> None:
    """The real loader of nnU-Net's -pretrained_weights, and one short epoch of its own trainer on the CPU."""
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    card = toy_card()
    toy_dataset(workspace, card)
    planned = plan_dataset(workspace, card, ENCODERS["resenc-smoke"], SMOKE.planning, Inline())
    preprocess_with_stock_nnunet(workspace, planned)
    module = make_run(tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "out.pth", kind, card.modalities)

    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "nnunet"))
    cpu = torch.device("cpu")
    trainer = get_trainer_from_args(card.dataset_name, "3d_fullres", 0, plans_identifier="plan", device=cpu)
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    maybe_load_checkpoint(trainer, False, False, str(tmp_path / "out.pth"))
    check_loaded(trainer.network, module, planned.configuration["patch_size"])
    if kind == "nnunet":  # the same tensors: one training will do
        return

    before = {n: t.clone() for n, t in trainer.network.encoder.state_dict().items()}
    trainer.run_training()
    assert (Path(trainer.output_folder) / "checkpoint_final.pth").is_file()
    assert any(not torch.equal(t, before[n]) for n, t in trainer.network.encoder.state_dict().items())

    # What nnU-Net has trained comes back as well.
    record = import_checkpoint(Path(trainer.output_folder) / "checkpoint_final.pth", tmp_path / "back")
    assert record.stem_modalities == list(card.modalities) and record.encoder == "resenc-smoke"
    same(load_pretrained(tmp_path / "back")[0], encoder_state(trainer.network.encoder))


def check_loaded(network: nn.Module, module: nn.Module, patch: list[int]) -> None:
    """Every encoder tensor is ours, and two identical channels give what one gives ours."""
    expected = encoder_state(module)
    expected[STEM] = adapt_stem(expected[STEM], "repeat", 2)
    same(encoder_state(network.encoder), expected)
    image = torch.randn(1, 1, *patch, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.allclose(network.encoder(image.repeat(1, 2, 1, 1, 1))[-1], module(image)[-1], atol=1e-4)
