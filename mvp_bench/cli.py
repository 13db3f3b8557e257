"""The console scripts: parse, call, print. Exit codes: 0 done, 2 bad input, 3 some cells failed.

Help must be quick: torch and nnunetv2 are imported only once the options are known.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from mvp_bench.config import (
    PROFILES,
    BenchmarkConfig,
    CommonConfig,
    PlanConfig,
    PrepareConfig,
    PretrainVerbConfig,
    ProfileValues,
    resolve_profile,
)
from mvp_bench.errors import InputError
from mvp_bench.progress import console, log, start_logging
from mvp_bench.workspace import Workspace, code_version, hash_of

C = TypeVar("C", bound=CommonConfig)
BAD_INPUT, SOME_FAILED = 2, 3


def prepare() -> None:
    """mvp_prepare: a public release, or a phantom, -> checked cases and splits."""
    _run(lambda v: PrepareConfig(phantom_config=v.phantom), _prepare)


def plan() -> None:
    """mvp_plan: fingerprint, plan, preprocessing."""
    _run(lambda v: PlanConfig(planning=v.planning), _plan)


def pretrain() -> None:
    """mvp_pretrain: an encoder pre-trained by one method."""
    _run(
        lambda v: PretrainVerbConfig(pretrain=v.pretrain, planning=v.planning, runtime=v.runtime),
        _pretrain,
    )


def benchmark() -> None:
    """mvp_benchmark: methods x tasks -> leaderboards."""
    _run(
        lambda v: BenchmarkConfig(
            phantom_config=v.phantom,
            planning=v.planning,
            pretrain=v.pretrain,
            segmentation=v.segmentation,
            classification=v.classification,
            runtime=v.runtime,
            statistics=v.statistics,
        ),
        _benchmark,
    )


def _run(defaults: Callable[[ProfileValues], C], verb: Callable[[Workspace, C, str], int]) -> None:
    """Parse with the profile's defaults, run, and turn what the user can mend into one message and exit code 2."""
    arguments = sys.argv[1:]
    try:
        profile = resolve_profile(_profile_of(arguments))
        default = defaults(PROFILES[profile])
        config = tyro.cli(type(default), args=arguments, default=default, config=(tyro.conf.FlagCreatePairsOff,))
        workspace = Workspace(config.root)
        if not getattr(config, "list", False):
            workspace.open()
            start_logging(workspace.logs, f"mvp_{verb.__name__.strip('_')}", config.verbose)
            _show_config(config, profile)
        code = verb(workspace, config, profile)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        log.debug("ended by bad input: %s", error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        code = 130
    sys.exit(code)


def _profile_of(arguments: Sequence[str]) -> Any:
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == "--profile":
            value = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
            return value if value in PROFILES else "auto"  # a wrong name is refused by the full parse
    return "auto"


def _show_config(config: CommonConfig, profile: str) -> None:
    console.print(f"mvp_bench {code_version()}, profile {profile}, root {config.root.resolve()}", highlight=False)
    text = json.dumps(dataclasses.asdict(config), default=str, sort_keys=True)
    log.debug("configuration %s: %s", hash_of(json.loads(text))[:12], text)
    if config.verbose:
        console.print_json(text)


def _cards_of(workspace: Workspace, names: tuple[str, ...]) -> list:
    from mvp_bench.datasets.catalog import expand, load_cards

    return expand(load_cards(workspace.root), names)


def _prepare(workspace: Workspace, config: PrepareConfig, profile: str) -> int:
    from mvp_bench.datasets.catalog import load_cards
    from mvp_bench.datasets.listing import print_datasets
    from mvp_bench.datasets.prepare import prepare_many

    if config.list:
        print_datasets(workspace, load_cards(workspace.root))
        return 0
    cards = _cards_of(workspace, config.datasets)
    prepare_many(workspace, cards, config)
    return 0


def _plan(workspace: Workspace, config: PlanConfig, profile: str) -> int:
    from mvp_bench.datasets.catalog import load_cards
    from mvp_bench.datasets.prepared import is_prepared
    from mvp_bench.parallel import worker_pool
    from mvp_bench.planning.plan import plan_dataset, print_plans
    from mvp_bench.registry import ENCODERS

    cards = _cards_of(workspace, config.datasets)
    if config.all:
        cards = [c for c in load_cards(workspace.root).values() if not c.members and is_prepared(workspace, c)]
    if not cards:
        raise InputError("mvp_plan", found="no dataset", expected="-d ID ... or --all with prepared datasets")
    spec = ENCODERS[config.planning.encoder]
    with worker_pool(config.planning.workers) as pool:
        print_plans([plan_dataset(workspace, card, spec, config.planning, pool) for card in cards])
    return 0


def _pretrain(workspace: Workspace, config: PretrainVerbConfig, profile: str) -> int:
    from mvp_bench.pretraining.verb import list_methods, run_pretraining

    if config.list:
        list_methods()
        return 0
    folder = run_pretraining(workspace, config, profile, PROFILES[profile].phantom)  # type: ignore[index]
    console.print(f"encoder: {folder}", highlight=False)
    return 0


def _benchmark(workspace: Workspace, config: BenchmarkConfig, profile: str) -> int:
    from mvp_bench.benchmark.pipeline import run_benchmark, summary
    from mvp_bench.leaderboard.tables import print_leaderboards, write_leaderboards

    started = time.monotonic()
    seeds = config.seeds or tuple(range(config.seed, config.seed + PROFILES[profile].seeds))  # type: ignore[index]
    outcome = run_benchmark(workspace, config, profile, seeds)
    print_leaderboards(write_leaderboards(workspace, config.statistics, config.seed))
    summary(outcome, started)
    return SOME_FAILED if outcome.failed else 0


def main(verb: str) -> None:
    """Run a console script by name, for ``python -c`` on systems without entry points."""
    {"prepare": prepare, "plan": plan, "pretrain": pretrain, "benchmark": benchmark}[verb]()


__all__ = ["Path", "benchmark", "main", "plan", "prepare", "pretrain"]
