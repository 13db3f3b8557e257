"""``mvp_plan``: fingerprint, plan and preprocess datasets."""

from __future__ import annotations

from mvp_bench.config.verbs import PlanConfig
from mvp_bench.datasets.catalog import expand, load_cards
from mvp_bench.datasets.prepared import is_prepared
from mvp_bench.errors import InputError
from mvp_bench.parallel import worker_pool
from mvp_bench.planning.plan import plan_dataset, print_plans
from mvp_bench.registry import ENCODERS
from mvp_bench.workspace import Workspace


def run_plan(workspace: Workspace, config: PlanConfig) -> None:
    """Plan the datasets that are named, or all that are prepared, and print the plans.

    Raises:
        InputError: if there is none.
    """
    known = load_cards(workspace.root)
    cards = expand(known, config.datasets)
    if config.all:
        cards = [card for card in known.values() if not card.members and is_prepared(workspace, card)]
    if not cards:
        raise InputError("mvp_plan", found="no dataset", expected="-d ID ... or --all with prepared datasets")
    spec = ENCODERS[config.encoder]
    with worker_pool(config.workers) as pool:
        print_plans([plan_dataset(workspace, card, spec, config.planning, pool) for card in cards])
