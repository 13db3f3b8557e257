"""Strict loading: every tensor accounted for, or an error and nothing changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mvp_bench.errors import InputError
from mvp_bench.models.weights import (
    adapt_stem,
    aliases,
    encoder_state,
    initialise_encoder,
    load_state,
    save_encoder,
    stem_name,
)
from mvp_bench.registry import ENCODERS

SPEC = ENCODERS["resenc-smoke"]
STEM = "stem.convs.0.conv"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(1)
    save_encoder(SPEC.build(1), tmp_path / "encoder.safetensors", SPEC.name)
    return tmp_path / "encoder.safetensors"


def test_round_trip(saved: Path) -> None:
    state, preset = load_state(saved)
    assert preset == "resenc-smoke"
    encoder = SPEC.build(1)
    report = initialise_encoder(encoder, state, "repeat", 1)
    assert len(report.loaded) == len(state) == len(aliases(encoder))
    assert not report.adapted and not report.new
    assert report.elements_loaded == report.elements_total == SPEC.parameters
    for name, tensor in encoder_state(encoder).items():
        assert torch.equal(tensor, state[name])


def test_every_tensor_is_written_once(saved: Path) -> None:
    state, _ = load_state(saved)
    assert sum(t.numel() for t in state.values()) == SPEC.parameters
    assert len(SPEC.build(1).state_dict()) > len(state)


def test_stem_is_the_first_convolution() -> None:
    assert stem_name(SPEC.build(1)) == STEM


def test_reinit_leaves_the_stem_alone(saved: Path) -> None:
    state, _ = load_state(saved)
    torch.manual_seed(5)
    encoder = SPEC.build(4)
    before = encoder.get_submodule(STEM).weight.detach().clone()
    report = initialise_encoder(encoder, state, "reinit", 4)
    assert set(report.new) == {f"{STEM}.weight", f"{STEM}.bias"}
    assert torch.equal(encoder.get_submodule(STEM).weight, before)
    assert len(report.loaded) == len(state) - 2
    assert "new" in report.table() and STEM in report.table()


@given(st.integers(2, 5))
@settings(max_examples=4, deadline=None)
def test_identical_channels_under_repeat_give_the_single_channel_output(channels: int) -> None:
    torch.manual_seed(0)
    single = SPEC.build(1)
    many = SPEC.build(channels)
    report = initialise_encoder(many, encoder_state(single), "repeat", channels)
    assert report.adapted == (f"{STEM}.weight",)
    image = torch.randn(1, 1, 8, 8, 8)
    for one, several in zip(single(image), many(image.repeat(1, channels, 1, 1, 1)), strict=True):
        assert torch.allclose(one, several, atol=1e-4)


def test_by_modality() -> None:
    kernel = torch.randn(4, 3, 3, 3, 3)
    known = ("t1", "t2", "flair")
    assert adapt_stem(kernel, "by_modality", 3, known, known) is kernel
    adapted = adapt_stem(kernel, "by_modality", 2, ("flair", "adc"), known)
    assert torch.equal(adapted[:, 0], kernel[:, 2] * 1.5)
    assert torch.allclose(adapted[:, 1], kernel.mean(1) * 1.5)
    shared = torch.randn(4, 1, 3, 3, 3)
    assert torch.equal(adapt_stem(shared, "by_modality", 2, ("t1", "adc")), adapt_stem(shared, "repeat", 2))
    with pytest.raises(InputError, match="by_modality"):
        adapt_stem(kernel, "by_modality", 2, (), known)


def test_truncated_file(saved: Path) -> None:
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_state(saved)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    torch.save(SPEC.build(1).state_dict(), tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match="never opened"):
        load_state(tmp_path / "encoder.safetensors")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_state(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("stages.1.blocks.0.conv1.conv.weight"), "is missing"),
        (lambda s: s.update({"stages.1.blocks.0.conv1.conv.weight": torch.zeros(1)}), "has shape"),
        (lambda s: s.update({"decoder.weight": torch.zeros(1)}), "decoder.weight"),
    ],
)
def test_anything_but_a_perfect_match_changes_nothing(change, message: str) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    encoder, state = SPEC.build(1), encoder_state(SPEC.build(1))
    before = encoder_state(encoder)
    change(state)
    with pytest.raises(InputError, match=message):
        initialise_encoder(encoder, state, "repeat", 1, where="file.safetensors")
    after = encoder_state(encoder)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_of_another_encoder() -> None:
    with pytest.raises(InputError, match="another encoder"):
        initialise_encoder(SPEC.build(1), encoder_state(ENCODERS["resenc-mini"].build(1)), "reinit", 1)


def test_both_names_of_a_shared_tensor_are_accepted() -> None:
    encoder = SPEC.build(1)
    full = encoder.state_dict()  # every alias, as nnU-Net writes it
    report = initialise_encoder(SPEC.build(1), full, "repeat", 1)
    assert len(report.loaded) == len(aliases(encoder))
