"""Two tiny tasks and something to pre-train on."""

from __future__ import annotations

import pytest

from mvp_bench.config.profiles import SMOKE
from mvp_bench.config.verbs import BenchmarkConfig
from mvp_bench.workspace import Workspace
from tests.toy import toy_card, toy_dataset, write_cards

CONFIG = BenchmarkConfig(
    tasks=("901", "902"),
    methods=("scratch", "mae"),
    pretrain_datasets=("901", "903"),
    encoder="resenc-smoke",
    profile="smoke",
    workers=1,
    seeds=(0,),
    planning=SMOKE.planning,
    pretrain=SMOKE.pretrain.loop,
    segmentation=SMOKE.segmentation,
    classification=SMOKE.classification,
    runtime=SMOKE.runtime,
    statistics=SMOKE.statistics,
)


@pytest.fixture
def toys(workspace: Workspace) -> Workspace:
    cards = [toy_card("segmentation", 901), toy_card("classification", 902), toy_card("pretraining", 903)]
    write_cards(workspace.root, *cards)
    for card in cards:
        toy_dataset(workspace, card)
    return workspace
