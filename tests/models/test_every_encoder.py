"""What holds for every family of encoders: all methods, both fine-tunings and all stem rules run with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mvp_bench.config.groups import StemRule
from mvp_bench.config.profiles import SMOKE
from mvp_bench.datasets.prepared import load_splits
from mvp_bench.errors import InputError
from mvp_bench.finetuning.job import FineTuneJob
from mvp_bench.finetuning.segmentation import SegmentationTrainer
from mvp_bench.models.decoders import skip_free_decoder, unet_decoder
from mvp_bench.models.networks.segmentation import EncoderUNet
from mvp_bench.models.weights import aliases, encoder_state, initialise_encoder, load_state, save_encoder, stem_name
from mvp_bench.parallel import Inline
from mvp_bench.planning.plan import plan_dataset
from mvp_bench.pretraining.census import take_census
from mvp_bench.pretraining.method import Context, resolve_options
from mvp_bench.pretraining.sampling import PatchSampler
from mvp_bench.pretraining.source import PretrainSource
from mvp_bench.registry import ENCODERS, METHODS
from mvp_bench.workspace import Workspace
from tests.models.test_plain import network_of
from tests.pretraining.fake_store import brains
from tests.toy import toy_card, toy_dataset
from tests.tuning import fine_tune_job, scored

FAMILIES = ["plain-smoke", "unet3d-smoke", "uniformer-smoke", "swinunetr-smoke"]
OWN_NETWORK = [name for name in FAMILIES if not name.startswith("plain")]
EDGE = {"swinunetr-smoke": 32}
"""Patch edge in voxels, 16 where nothing stands."""
MODALITIES = ("t1", "t2")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


FEWER: dict[tuple[str, str], dict[str, Any]] = {
    ("voco", "swinunetr-smoke"): {"grid": (2, 1, 1), "targets": 3},
    ("pcrlv2", "swinunetr-smoke"): {"local_crops": 1},
    ("simclr", "swinunetr-smoke"): {"crop_edge": 1.0},
}
"""Crops are no smaller than two voxels of the deepest map: 64^3 there."""


def patch_for(kind: Any, options: Any, name: str) -> tuple[int, int, int]:
    """A small patch; cubic, and twice as large, for methods whose crops of it would be too small for the encoder."""
    edge = EDGE.get(name, 16)
    try:
        kind.check_settings(options, ENCODERS[name], (2 * edge, edge, edge), 4)
    except InputError:
        kind.check_settings(options, ENCODERS[name], (2 * edge,) * 3, 4)
        return (2 * edge,) * 3
    return 2 * edge, edge, edge


LONG = {("voco", "swinunetr-smoke"), ("pcrlv2", "swinunetr-smoke")}
"""Many crops of 64^3 voxels: they take longer than all others together."""


@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(method, name, marks=[pytest.mark.slow] if (method, name) in LONG else [])
        for method in METHODS
        for name in FAMILIES
    ],
)
def test_methods_train_the_whole_encoder(name: str, method: str) -> None:
    kind, options = METHODS[method], resolve_options(method, None, "smoke")
    options = replace(options, **FEWER.get((method, name), {}))
    if kind.misfit(ENCODERS[name]):
        with pytest.raises(InputError, match=f"--encoder: found {name}; expected one of .*resenc-l"):
            kind.check_settings(options, ENCODERS[name], (32, 32, 32), 4)
        return
    patch = patch_for(kind, options, name)
    shape = tuple(max(36, edge + 4) for edge in patch)
    store = brains(2, MODALITIES, (shape[0], shape[1], shape[2]))
    source = PretrainSource("Dataset521_Fake", store, "phantom", licence="CC0")
    census = take_census([source])
    batch_size = max(2, kind.declaration.min_batch)
    context = Context.of(census, ENCODERS[name], patch, batch_size, 10)
    torch.manual_seed(0)
    built = kind(options, context)
    sampler = PatchSampler([source], census.modalities, patch, batch_size, built.sampling(), 0, 10)
    terms = built(sampler[0], 9, torch.Generator().manual_seed(0))
    loss = torch.stack([term.weight * term.value for term in terms.values()]).sum()
    loss.backward()
    assert loss.isfinite()
    assert [n for n, p in built.encoder.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
    assert built.encoder.get_submodule(stem_name(built.encoder)).weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_one_deepest_voxel_is_too_few_for_pre_training(name: str) -> None:
    spec = ENCODERS[name]
    census = take_census([PretrainSource("Dataset521_Fake", brains(1, MODALITIES), "phantom")])
    context = Context.of(census, spec, (spec.stride,) * 3, 2, 10)
    with pytest.raises(InputError, match="--patch-size"):
        METHODS["mae"](METHODS["mae"].Options(), context)


@pytest.mark.parametrize("name", FAMILIES)
def test_decoders(name: str) -> None:
    torch.manual_seed(0)
    spec, edge = ENCODERS[name], EDGE.get(name, 16)
    maps = spec.build(1)(torch.randn(2, 1, 2 * edge, edge, edge))
    alone = [torch.zeros_like(m) for m in maps[:-1]] + maps[-1:]
    for linear in (False, True):
        decoder = skip_free_decoder(spec, linear=linear)
        assert decoder(maps).shape == (2, 1, 2 * edge, edge, edge)
        assert torch.equal(decoder(maps), decoder(alone))
    decoder = unet_decoder(spec)
    assert decoder(maps).shape == (2, 1, 2 * edge, edge, edge)
    assert not torch.allclose(decoder(maps), decoder(alone), atol=1e-3)
    decoder(maps).sum().backward()
    assert [n for n, p in decoder.named_parameters() if p.grad is None] == [], "a layer that nothing uses"


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("rule", ["reinit", "repeat", "by_modality"])
def test_stem_rules(name: str, rule: StemRule, tmp_path: Path) -> None:
    torch.manual_seed(0)
    spec, edge = ENCODERS[name], EDGE.get(name, 16)
    single, many = spec.build(1).eval(), spec.build(3).eval()
    save_encoder(single, tmp_path / "encoder.safetensors", spec.name)
    state, preset = load_state(tmp_path / "encoder.safetensors")
    assert preset == name
    report = initialise_encoder(many, state, rule, 3, modalities=("t1", "t2", "adc"))
    stem = f"{stem_name(many)}.weight"
    assert (report.new if rule == "reinit" else report.adapted)[0] == stem
    assert len(report.loaded) + len(report.adapted) + len(report.new) == len(aliases(many)) == len(state)
    if rule != "reinit":
        image = torch.randn(1, 1, edge, edge, 2 * edge)
        with torch.inference_mode():
            for one, several in zip(single(image), many(image.repeat(1, 3, 1, 1, 1)), strict=True):
                assert torch.allclose(one, several, atol=1e-3)


@pytest.mark.parametrize("name", OWN_NETWORK)
def test_network_from_the_plans_entry(name: str) -> None:
    torch.manual_seed(0)
    spec = ENCODERS[name]
    architecture = spec.architecture()
    assert architecture["arch_kwargs"]["encoder"] == name
    network = network_of(architecture, 2, 3)
    assert isinstance(network, EncoderUNet)
    assert set(encoder_state(network.encoder)) == set(encoder_state(spec.build(2)))
    strides = np.cumprod([row[0] for row in architecture["arch_kwargs"]["strides"]])
    image = torch.randn(1, 2, 64, 32, 32)
    assert network(image).shape == (1, 3, 64, 32, 32)
    network.decoder.deep_supervision = True
    outputs = network(image)
    # nnU-Net scales the reference by 1 / strides of every resolution but the last.
    assert [tuple(o.shape[2:]) for o in outputs] == [(64 // s, 32 // s, 32 // s) for s in strides[:-1]]
    sum(o.square().mean() for o in outputs).backward()
    assert [n for n, p in network.named_parameters() if p.grad is None] == []
    small, large = (network.compute_conv_feature_map_size((e, 32, 32)) for e in (64, 128))
    assert large == pytest.approx(2 * small, rel=0.02) and small > 0  # Swin pads maps to whole windows


def test_plan_for_an_encoder_that_has_changed_is_refused() -> None:
    architecture = ENCODERS["uniformer-smoke"].architecture()
    architecture["arch_kwargs"]["features"] = [8, 16, 64]
    with pytest.raises(InputError, match="plan again"):
        network_of(architecture, 1, 2)


def job_for(workspace: Workspace, name: str, kind: str) -> FineTuneJob:
    card = toy_card(kind)
    toy_dataset(workspace, card)
    planning = replace(SMOKE.planning, max_patch_edge=64) if name in EDGE else SMOKE.planning
    planned = plan_dataset(workspace, card, ENCODERS[name], replace(planning, memory_gb=0.1), Inline())
    assert all(edge % ENCODERS[name].stride == 0 for edge in planned.configuration["patch_size"])
    assert np.prod(ENCODERS[name].deepest(planned.configuration["patch_size"])) > 1
    fold = load_splits(workspace, card).folds[0]
    fold = fold.model_copy(update={"val": [], "test": fold.test[:1]})
    config = (
        replace(SMOKE.segmentation, epochs=1, iterations_per_epoch=1, augment=False)
        if kind == "segmentation"
        else replace(SMOKE.classification, epochs=1)
    )
    return fine_tune_job(planned, fold, config, workspace.results / name, encoder=name, seed=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_segmentation(workspace: Workspace, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_for(workspace, name, "segmentation")
    networks = []
    original = SegmentationTrainer.set_up

    def note(self: SegmentationTrainer, *arguments: Any) -> None:
        original(self, *arguments)
        networks.append(self.network)

    monkeypatch.setattr(SegmentationTrainer, "set_up", note)
    table = scored(job)
    assert len(table) == len(job.regions)
    assert pd.read_csv(job.folder / "log.csv")["train_loss"].notna().all()
    assert job.plan["mvp_bench"]["encoder"] == name
    assert set(encoder_state(networks[0].encoder)) == set(encoder_state(ENCODERS[name].build(2)))


@pytest.mark.parametrize("name", FAMILIES)
def test_classification(workspace: Workspace, name: str) -> None:
    job = job_for(workspace, name, "classification")
    assert scored(job)["case"].unique().tolist() == job.fold.test


@pytest.mark.parametrize("name", FAMILIES)
def test_no_patch_smaller_than_two_deepest_voxels(workspace: Workspace, name: str) -> None:
    card = toy_card()
    toy_dataset(workspace, card, shape=(6, 6, 6))
    config = replace(SMOKE.planning, memory_gb=1.0, max_patch_edge=64)
    spec = ENCODERS[name]
    patch = plan_dataset(workspace, card, spec, config, Inline()).configuration["patch_size"]
    assert np.prod(spec.deepest(patch)) >= 2
    with pytest.raises(InputError, match="max-patch-edge"):
        plan_dataset(workspace, card, spec, replace(config, max_patch_edge=spec.stride), Inline())
