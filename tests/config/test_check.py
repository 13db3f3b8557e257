"""One check for all options: every fault in a single message, named as typed, with what stands there and the range."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pytest

from mvp_bench.config.check import Fault, check, faults_of, refuse
from mvp_bench.config.defaults import defaults, resolved
from mvp_bench.config.fields import options_of, within
from mvp_bench.config.groups import CheckConfig, PhantomConfig, RegistrationConfig
from mvp_bench.config.profiles import PROFILES
from mvp_bench.config.ranges import RISING, Count, InnerShare, Seed, Share
from mvp_bench.config.verbs import BenchmarkConfig, PlanConfig, PrepareConfig, PretrainVerbConfig, WeightsConfig
from mvp_bench.errors import InputError
from mvp_bench.registry import METHODS

VERBS = (PrepareConfig, PlanConfig, PretrainVerbConfig, BenchmarkConfig, WeightsConfig)


def config(**changes: Any) -> BenchmarkConfig:
    return replace(resolved(defaults(BenchmarkConfig, "smoke")), **changes)


def one(**changes: Any) -> Fault:
    """The single fault of a configuration."""
    (fault,) = faults_of(config(**changes))
    return fault


@pytest.mark.parametrize("profile", list(PROFILES))
@pytest.mark.parametrize("kind", VERBS, ids=lambda kind: kind.__name__)
def test_defaults_pass(kind: type, profile: str) -> None:
    check(resolved(defaults(kind, profile)))


@pytest.mark.parametrize("method", list(METHODS))
def test_presets_pass(method: str) -> None:
    options = METHODS[method].Options
    for preset in [options(), *(options.presets().values() if hasattr(options, "presets") else ())]:
        check(preset)


def test_a_fault_is_named_as_typed() -> None:
    loop = replace(config().segmentation, momentum=1.5)
    fault = one(segmentation=loop)
    assert fault == Fault("--segmentation.momentum", "1.5", "a number above 0 and below 1")
    assert one(seeds=(0, -1)).option == "--seeds"
    assert one(runtime=replace(config().runtime, threads=0)).option == "--threads", "flat groups bear no prefix"
    assert one(phantom_config=PhantomConfig(spacing_mm=0)).option == "--phantom.spacing-mm"


def test_all_faults_come_in_one_message() -> None:
    bad = config(
        segmentation=replace(config().segmentation, epochs=0, gradient_clip=0.0),
        classification=replace(config().classification, dropout=1.0),
        workers=0,
    )
    with pytest.raises(InputError) as caught:
        check(bad)
    text = str(caught.value)
    for words in (
        "--segmentation.epochs: a whole number of at least 1 (found 0)",
        "--segmentation.gradient-clip: a number above 0 or None (found 0.0)",
        "--classification.dropout: a number of at least 0 and below 1 (found 1.0)",
        "--workers: a whole number from 1 to 1024 (found 0)",
    ):
        assert words in text
    assert text.startswith("4 options: found")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10**400])
def test_numbers_that_are_none_are_refused_everywhere(value: Any) -> None:
    """Every numeric option of every verb."""
    tried = 0
    for kind in VERBS:
        base = resolved(defaults(kind, "smoke"))
        for option in options_of(kind):
            current = option.of(base)
            if isinstance(current, bool) or not isinstance(current, (int, float)):
                continue
            changed = with_value(base, option.path, value)
            assert [fault.option for fault in faults_of(changed) if fault.option == option.name], option.name
            tried += 1
    assert tried > 100


def with_value(config: Any, path: tuple[str, ...], value: Any) -> Any:
    """The configuration with one option changed, unchecked."""
    first, *rest = path
    inner = with_value(getattr(config, first), tuple(rest), value) if rest else value
    return replace(config, **{first: inner})


def test_seeds_have_32_bits() -> None:
    assert not list(faults_of(config(seed=2**32 - 1)))
    assert one(seed=2**32).expected == "a whole number from 0 to 4294967295"
    last = resolved(replace(defaults(BenchmarkConfig, "full"), seed=2**32 - 1, profile="full"))
    assert [fault.option for fault in faults_of(last)] == ["--seeds"], "three from it on"


def test_nothing_at_all_is_refused() -> None:
    for name in ("methods", "folds", "seeds", "label_budgets"):
        assert one(**{name: ()}).found == "none"


def test_rules_between_options() -> None:
    short = replace(config().segmentation, epochs=3, warmup_epochs=3)
    assert one(segmentation=short).expected == "below --epochs, which is 3"
    assert one(all=True, tasks=("501",)).option == "--all"
    found = list(faults_of(CheckConfig(min_spacing_mm=3, max_spacing_mm=2)))
    assert [fault.option for fault in found] == ["--min-spacing-mm"]
    found = list(faults_of(RegistrationConfig(shrink_factors=(4, 2, 1), min_step_mm=5.0)))
    assert [fault.option for fault in found] == ["--shrink-factors", "--min-step-mm"]


def test_unknown_names_are_faults_with_the_nearest_ones() -> None:
    fault = one(encoder="resenc-xxl")
    assert fault.option == "--encoder" and "Did you mean" in fault.fix and "resenc-l" in fault.fix
    base = resolved(defaults(PretrainVerbConfig, "smoke"))
    (fault,) = faults_of(replace(base, pretrain=replace(base.pretrain, method="maee")))
    assert fault.option == "--method" and "mae" in fault.fix


def test_equal_faults_of_two_configurations_are_said_once() -> None:
    with pytest.raises(InputError, match=r"^--x: found 1; expected 2\.$"):
        refuse([Fault("--x", "1", "2"), Fault("--x", "1", "2")])
    refuse([])


@dataclass(frozen=True)
class Ranged:
    """Fields of several types."""

    share: Share = 0.5
    inner: InnerShare = 0.5
    seed: Seed = 0
    pair: Annotated[tuple[Count, Count], RISING] = (1, 2)
    maybe: Count | None = None


def test_ranges_in_words() -> None:
    said = {option.name: within(option.hint) for option in options_of(Ranged)}
    assert said == {
        "--share": "a number from 0 to 1",
        "--inner": "a number above 0 and below 1",
        "--seed": "a whole number from 0 to 4294967295",
        "--pair": "2 values, each a whole number of at least 1, in rising order",
        "--maybe": "a whole number of at least 1 or None",
    }


def test_what_lies_in_its_range_is_accepted() -> None:
    check(Ranged(share=0, inner=1e-9, pair=(2, 2), maybe=3))
    assert [f.option for f in faults_of(Ranged(pair=(2, 1), maybe=0))] == ["--pair", "--maybe"]
