"""Help: whole English sentences, noun first; ranges; one name, one meaning; experts' options apart."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Annotated

import pytest

from mvp_bench.config.defaults import defaults
from mvp_bench.config.fields import Option, options_of, plain_type, within
from mvp_bench.config.helping import print_help, short_range
from mvp_bench.config.marks import EXPERT, Off
from mvp_bench.config.ranges import Count, Encoder, Share
from mvp_bench.config.verbs import BenchmarkConfig, PlanConfig, PrepareConfig, PretrainVerbConfig, WeightsConfig
from mvp_bench.registry import METHODS

VERBS = (PrepareConfig, PlanConfig, PretrainVerbConfig, BenchmarkConfig, WeightsConfig)
NOT_NOUNS = (
    " a an the that these this those it all every each no not only such than what when where whether which how above "
    "after as at before below beside besides between both by during for from if in into of off on out over through to "
    "together too under until up while with within without and are is can go take compare count draw keep leave make "
    "predict print put read say show turn use write "
)
"""Words that no help begins with: prepositions, articles, verbs."""


def all_options() -> list[tuple[str, Option]]:
    """Every option of every verb and method."""
    found = [(kind.__name__, option) for kind in VERBS for option in options_of(kind)]
    return found + [(name, option) for name in METHODS for option in options_of(METHODS[name].Options)]


OPTIONS = all_options()


def test_every_help_is_a_sentence_that_begins_with_a_noun() -> None:
    wrong = []
    for owner, option in OPTIONS:
        first = re.match(r"[\w'/-]+", option.help)
        ends = option.help.endswith((".", ")"))
        if first is None or not first[0][0].isupper() or f" {first[0].lower()} " in NOT_NOUNS or not ends:
            wrong.append(f"{owner} {option.name}: {option.help}")
    assert not wrong, "\n".join(wrong)


def test_every_option_has_a_range() -> None:
    without = [f"{owner} {option.name}" for owner, option in OPTIONS if not within(option.hint)]
    assert not without
    print(f"{len(OPTIONS)} options of {len(VERBS)} verbs and {len(list(METHODS))} methods have a range")


def first_sentence(text: str) -> str:
    """What an option is, before what is special here."""
    return re.split(r"\.(?: |$)", text, maxsplit=1)[0]


def test_one_name_one_meaning() -> None:
    """Options of one name begin with one sentence, wherever they stand."""
    meanings = defaultdict(set)
    for _, option in OPTIONS:
        meanings[option.path[-1]].add(first_sentence(option.help))
    several = {name: texts for name, texts in meanings.items() if len(texts) > 1}
    assert not several


def test_one_meaning_one_name() -> None:
    names = defaultdict(set)
    for _, option in OPTIONS:
        names[first_sentence(option.help)].add(option.path[-1])
    several = {text: found for text, found in names.items() if len(found) > 1}
    assert not several


def test_switches_that_are_on_say_what_turning_them_off_does() -> None:
    for kind in VERBS:
        for profile in ("full", "mini"):
            base = defaults(kind, profile)
            for option in options_of(kind):
                if plain_type(option.hint) is bool and option.of(base) is True:
                    assert any(isinstance(mark, Off) for mark in option.hint.__metadata__), option.name
    for name in METHODS:
        options = METHODS[name].Options
        for option in options_of(options):
            if plain_type(option.hint) is bool and option.of(options()) is True:
                assert any(isinstance(mark, Off) for mark in option.hint.__metadata__), f"{name} {option.name}"


@dataclass(frozen=True)
class Helped:
    """Some options."""

    plain: Share = 0.5
    """Share of something."""
    rare: Annotated[Share, EXPERT] = 0.5
    """Share of something that few ask for."""
    maybe: Count | None = None
    """Count of something. Default: what the data say."""
    encoder: Encoder = "resenc-l"
    """Encoder of something."""
    switch: Annotated[bool, Off("Something is not done.")] = True
    """Something that is done."""


def helped(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    print_help("mvp_x", arguments, Helped(), about="What it does.")
    return " ".join(capsys.readouterr().out.replace("│", " ").split())


def test_help_shows_ranges_and_what_switches_do(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "--help")
    assert "What it does." in text and "usage: mvp_x" in text
    assert "Share of something. (default: 0.5; from 0 to 1)" in text
    assert "--no-switch Something is not done." in text and "Something that is done" not in text
    assert "--rare" not in text and "--help-all" in text
    assert "--maybe INT Count of something. Default: what the data say. (at least 1)" in text
    assert "--encoder NAME Encoder of something. (default: resenc-l)" in text


def test_options_for_experts_are_in_the_long_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = helped(capsys, "--help-all")
    assert "--rare FLOAT Share of something that few ask for." in text and "left out" not in text


@pytest.mark.parametrize("kind", VERBS, ids=lambda kind: kind.__name__)
def test_help_is_shorter_than_the_long_help(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for argument in ("--help", "--help-all"):
        print_help("mvp_x", [argument], defaults(kind, "mini"), about="")
        shown[argument] = capsys.readouterr().out
    for option in options_of(kind):
        name = re.escape(option.name.removeprefix("--").rpartition(".")[2])
        pattern = rf"{re.escape(option.name.rpartition('.')[0])}[.]?(?:--)?(?:no-)?{name}\b"
        assert re.search(pattern, shown["--help-all"]) or not option.name.startswith("-"), option.name
        if option.expert:
            assert option.name + " " not in shown["--help"], option.name


def test_ranges_in_few_words() -> None:
    assert short_range(Share) == "from 0 to 1"
    assert short_range(bool) == ""
