"""mvp_pretrain --list, and --method NAME --help, for every registered method."""

from __future__ import annotations

import re
import sys
from dataclasses import fields, replace

import pytest
from rich.console import Console

from mvp_bench import cli
from mvp_bench.config.groups import PretrainConfig
from mvp_bench.config.profiles import PROFILES
from mvp_bench.pretraining.listing import budget, fitting_encoders, methods_table
from mvp_bench.pretraining.methods.mae import MaskedAutoencoder
from mvp_bench.registry import ENCODERS, METHODS


def shown(loop: PretrainConfig, profile: str, width: int) -> str:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(methods_table(loop, profile))
    return captured.get()


def test_every_method_has_a_line_with_all_its_facts() -> None:
    text = shown(PROFILES["mini"].pretrain, "mini", 600)
    for name in METHODS:
        (line,) = (row for row in text.splitlines() if re.match(rf"│ {name} ", row))
        facts = METHODS[name].declaration
        for part in (METHODS.summary(name), facts.modalities, facts.budget, fitting_encoders(name)):
            assert f" {part} " in line, (name, part)


def test_nothing_is_cut_off_in_a_narrow_terminal() -> None:
    cells = [re.split(r"[│┃]", line)[1:-1] for line in shown(PROFILES["mini"].pretrain, "mini", 100).splitlines()]
    columns = [
        "".join("".join(column).split()) for column in zip(*(row for row in cells if len(row) == 5), strict=True)
    ]
    for name in METHODS:
        facts = METHODS[name].declaration
        for column, text in zip(columns, (name, METHODS.summary(name), facts.modalities), strict=False):
            assert "".join(text.split()) in column
        assert "".join(facts.budget.split()) in columns[-1]


def test_the_caption_is_the_budget_of_the_profile() -> None:
    mini = PROFILES["mini"].pretrain
    mini = replace(mini, steps=1500, batch_size=4, patch_size=(32, 40, 32))
    assert budget(mini, "mini").endswith(
        "(profile mini): 1,500 steps x batch 4 x patch 32 x 40 x 32 = 245,760,000 voxels, in each process"
    )
    assert "profile full" in budget(PROFILES["full"].pretrain, "full") and "250,000 steps" in budget(
        PROFILES["full"].pretrain, "full"
    )
    assert "batch 4 x 3 x patch" in budget(replace(mini, accumulation=3), "mini")
    text = shown(mini, "mini", 600)
    assert budget(mini, "mini") in text


def test_encoders_are_named_as_briefly_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fitting_encoders("mae") == "all"
    names = list(ENCODERS)
    plain = [name for name in names if name.startswith("plain-")]
    accepted = {*plain, "resenc-mini"}
    reason = classmethod(lambda cls, encoder: "" if encoder.name in accepted else "no")
    monkeypatch.setattr(MaskedAutoencoder, "misfit", reason)
    assert fitting_encoders("mae") == "plain-* resenc-mini"


def test_list_prints_and_makes_nothing(monkeypatch: pytest.MonkeyPatch, capsys, tmp_path) -> None:
    root = tmp_path / "root"
    monkeypatch.setattr(
        sys, "argv", ["mvp_pretrain", "--list", "--root", str(root), "--profile", "smoke", "--steps", "7"]
    )
    with pytest.raises(SystemExit) as stopped:
        cli.pretrain()
    text = capsys.readouterr().out
    assert not stopped.value.code and not root.exists()
    assert "brainmvp" in text and "profile smoke): 7 steps x batch 2 x patch 16 x 16 x 16" in text


@pytest.mark.parametrize("name", list(METHODS))
def test_help_shows_every_field_of_a_method(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mvp_pretrain", "--method", name, "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.pretrain()
    assert not stopped.value.code
    text = capsys.readouterr().out
    assert f"mvp_pretrain --method {name}" in text
    for field in fields(METHODS[name].Options):
        assert re.search(rf"--(no-)?{field.name.replace('_', '-')}\b", text), field.name


@pytest.mark.parametrize("arguments", [["--method", "mae", "--help"], ["--help", "--method=mae"]])
def test_help_of_a_method_comes_before_the_verbs(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["mvp_pretrain", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.pretrain()
    text = capsys.readouterr().out
    assert not stopped.value.code
    assert 0 <= text.index("--mask-ratio") < text.index("--batch-size")


def test_help_of_an_unknown_method(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["mvp_pretrain", "--method", "brainmpv", "--help"])
    with pytest.raises(SystemExit) as stopped:
        cli.pretrain()
    assert stopped.value.code == 2
    assert "Did you mean brainmvp" in capsys.readouterr().err
