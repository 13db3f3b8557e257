"""What no method, or not this one, can be pre-trained with is refused before data are touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mvp_bench.benchmark.settings import check_methods_fit
from mvp_bench.benchmark.verb import run_benchmark
from mvp_bench.errors import InputError
from mvp_bench.workspace import Workspace
from tests.benchmark.conftest import CONFIG


def test_settings_that_suit_the_methods_pass() -> None:
    check_methods_fit(CONFIG, ["mae", "brainmvp", "simclr"])


def test_every_method_that_cannot_use_them_is_named_at_once() -> None:
    alone = replace(CONFIG, pretrain=replace(CONFIG.pretrain, batch_size=1))
    check_methods_fit(alone, ["mae"])
    with pytest.raises(InputError) as caught:
        check_methods_fit(alone, ["mae", "brainmvp", "simclr"])
    text = str(caught.value)
    assert "--pretrain.batch-size (brainmvp): at least 2" in text and "--pretrain.batch-size (simclr)" in text
    assert "(mae)" not in text


def test_nothing_is_made_before(toys: Workspace) -> None:
    odd = replace(CONFIG, pretrain=replace(CONFIG.pretrain, patch_size=(16, 18, 16)))
    with pytest.raises(InputError, match=r"--pretrain\.patch-size \(mae\): found 16 x 18 x 16; expected multiples of"):
        run_benchmark(toys, odd)
    assert not list(toys.results.rglob("*.json")) and not list(toys.plans.rglob("plan.json"))
    with pytest.raises(InputError, match=r"preset of mae"):
        run_benchmark(toys, replace(CONFIG, pretrain=replace(CONFIG.pretrain, preset="paper")))
