"""The console scripts: parse, call, print. Exit codes: 0 done, 2 bad input, 3 some cells failed.

Help must be quick: torch and nnunetv2 are imported only once the options are known.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import tyro

from mvp_bench.config.profiles import PROFILES, ProfileValues, resolve_profile
from mvp_bench.config.verbs import (
    BenchmarkConfig,
    CommonConfig,
    PlanConfig,
    PrepareConfig,
    PretrainVerbConfig,
    WeightsConfig,
)
from mvp_bench.edges import outermost
from mvp_bench.errors import InputError
from mvp_bench.identity import code_version, hash_of
from mvp_bench.progress import console, log, start_logging
from mvp_bench.workspace import Workspace

C = TypeVar("C", bound=CommonConfig)
BAD_INPUT, SOME_FAILED = 2, 3


def prepare() -> None:
    """mvp_prepare: a public release, or a phantom, -> checked cases and splits."""
    _run(lambda v: PrepareConfig(phantom_config=v.phantom), _prepare)


def plan() -> None:
    """mvp_plan: fingerprint, plan, preprocessing."""
    _run(lambda v: PlanConfig(encoder=v.encoder, planning=v.planning), _plan)


def pretrain() -> None:
    """mvp_pretrain: an encoder pre-trained by one method. What the verb does not know is an option of the method."""
    method = _value_of("--method", sys.argv)
    if method and {"-h", "--help"} & set(sys.argv):
        _method_help(method)
    _run(_pretrain_defaults, _pretrain, more_options=True)


def _pretrain_defaults(values: ProfileValues) -> PretrainVerbConfig:
    """The profile's values; a named preset of the method goes before them."""
    default = PretrainVerbConfig(
        encoder=values.encoder, pretrain=values.pretrain, planning=values.planning, runtime=values.runtime
    )
    preset = _value_of("--preset", sys.argv)
    if not preset:
        return default
    from mvp_bench.pretraining.resolved import with_preset

    return with_preset(default, _value_of("--method", sys.argv) or default.pretrain.method, preset)


def benchmark() -> None:
    """mvp_benchmark: methods x tasks -> leaderboards."""
    _run(
        lambda v: BenchmarkConfig(
            encoder=v.encoder,
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


def weights() -> None:
    """mvp_weights: inspect, import or export checkpoints of other projects."""
    _run(lambda v: WeightsConfig(), _weights)


def _run(defaults: Callable[[ProfileValues], C], verb: Callable[..., int], more_options: bool = False) -> None:
    """Parse with the profile's defaults, run, and turn what the user can mend into one message and exit code 2.

    Args:
        defaults: the verb's configuration under a profile.
        verb: called with workspace, configuration and profile, and with the arguments left over if ``more_options``.
        more_options: whether arguments that the configuration does not know are the verb's business.
    """
    arguments = sys.argv[1:]
    try:
        profile = resolve_profile(_profile_of(arguments))
        default = defaults(PROFILES[profile])
        flags = (tyro.conf.FlagCreatePairsOff,)
        extra: list[list[str]] = []
        if more_options:
            config, rest = tyro.cli(
                type(default), args=arguments, default=default, config=flags, return_unknown_args=True
            )
            extra = [rest]
        else:
            config = tyro.cli(type(default), args=arguments, default=default, config=flags)
        workspace = Workspace(config.root)
        with outermost(config.root.absolute()):
            if not getattr(config, "list", False) and getattr(config, "writes", True):
                workspace.open()
                start_logging(workspace.logs, f"mvp_{verb.__name__.strip('_')}", config.verbose)
                _show_config(config, profile)
            code = verb(workspace, config, profile, *extra)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        log.debug("ended by bad input: %s", error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        code = 130
    sys.exit(code)


def _profile_of(arguments: Sequence[str]) -> Any:
    value = _value_of("--profile", arguments)
    return value if value in PROFILES else "auto"  # a wrong name is refused by the full parse


def _value_of(option: str, arguments: Sequence[str]) -> str:
    """The value of an option that decides the others' defaults; "" where it is not given."""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == option:
            return value or (arguments[index + 1] if index + 1 < len(arguments) else "")
    return ""


def _show_config(config: CommonConfig, profile: str) -> None:
    """Print every value, one line per group; the log file has them as JSON."""
    console.print(f"mvp_bench {code_version()}, profile {profile}, root {config.root.resolve()}", highlight=False)
    values = dataclasses.asdict(config)
    groups = {"options": {k: v for k, v in values.items() if not isinstance(v, dict)}}
    groups |= {k: v for k, v in values.items() if isinstance(v, dict)}
    for name, group in groups.items():
        text = " ".join(f"{key}={_short(value)}" for key, value in group.items())
        console.print(f"  {name}: {text}", highlight=False, markup=False, style="dim")
    record = json.dumps(values, default=str, sort_keys=True)
    log.debug("configuration %s: %s", hash_of(json.loads(record))[:12], record)


def _short(value: object) -> str:
    return ",".join(map(str, value)) or "-" if isinstance(value, tuple) else str(value)


def _cards_of(workspace: Workspace, names: tuple[str, ...]) -> list:
    from mvp_bench.datasets.catalog import expand, load_cards

    return expand(load_cards(workspace.root), names)


def _prepare(workspace: Workspace, config: PrepareConfig, profile: str) -> int:
    from mvp_bench.datasets.verb import run_prepare

    return 0 if run_prepare(workspace, config) else BAD_INPUT


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
    spec = ENCODERS[config.encoder]
    with worker_pool(config.planning.workers) as pool:
        print_plans([plan_dataset(workspace, card, spec, config.planning, pool) for card in cards])
    return 0


def _method_help(method: str) -> None:
    """Print the fields of a method's own; the verb's help follows."""
    from mvp_bench.registry import METHODS

    try:
        options = METHODS[method].Options
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    with contextlib.suppress(SystemExit):
        tyro.cli(
            options,
            args=["--help"],
            prog=f"mvp_pretrain --method {method}",
            config=(tyro.conf.FlagCreatePairsOff,),
        )


def _pretrain(workspace: Workspace, config: PretrainVerbConfig, profile: str, rest: list[str]) -> int:
    from mvp_bench.pretraining.listing import list_methods
    from mvp_bench.pretraining.method import resolve_options
    from mvp_bench.pretraining.resolved import dry_run
    from mvp_bench.pretraining.verb import run_pretraining

    if config.list:
        list_methods(config.pretrain, profile)
        return 0
    preset = resolve_options(config.pretrain.method, config.pretrain.preset, profile)
    options = tyro.cli(type(preset), args=rest, default=preset, config=(tyro.conf.FlagCreatePairsOff,))
    if config.dry_run:
        print(dry_run(config, options, profile))
        return 0
    folder = run_pretraining(workspace, config, profile, PROFILES[profile].phantom, options)
    if folder:
        console.print(f"encoder: {folder}", highlight=False)
    return 0


def _weights(workspace: Workspace, config: WeightsConfig, profile: str) -> int:
    from mvp_bench.models.formats.verb import run_weights

    run_weights(workspace, config)
    return 0


def _benchmark(workspace: Workspace, config: BenchmarkConfig, profile: str) -> int:
    from mvp_bench.benchmark.verb import benchmark as run

    seeds = config.seeds or tuple(range(config.seed, config.seed + PROFILES[profile].seeds))
    return SOME_FAILED if run(workspace, config, profile, seeds).failed else 0
