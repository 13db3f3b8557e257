"""The console scripts: parse, call, print. Exit codes: 0 done, 2 bad input, 3 some cells failed.

Help must be quick: torch and nnunetv2 are imported only once the options are known.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

from mvp_bench.config.command import parse, show_config
from mvp_bench.config.verbs import BenchmarkConfig, PlanConfig, PrepareConfig, PretrainVerbConfig, WeightsConfig
from mvp_bench.edges import outermost
from mvp_bench.errors import InputError
from mvp_bench.progress import console, log, start_logging
from mvp_bench.workspace import Workspace

BAD_INPUT, SOME_FAILED, STOPPED = 2, 3, 130


def prepare() -> None:
    """mvp_prepare: a public release, or a phantom, -> checked cases and splits."""
    _run("mvp_prepare", _parsed(PrepareConfig), _prepare)


def plan() -> None:
    """mvp_plan: fingerprint, plan, preprocessing."""
    _run("mvp_plan", _parsed(PlanConfig), _plan)


def pretrain() -> None:
    """mvp_pretrain: an encoder pre-trained by one method."""
    from mvp_bench.pretraining.command import parse_pretraining

    _run("mvp_pretrain", lambda prog, arguments: parse_pretraining(arguments), _pretrain)


def benchmark() -> None:
    """mvp_benchmark: methods x tasks -> leaderboards."""
    _run("mvp_benchmark", _parsed(BenchmarkConfig), _benchmark)


def weights() -> None:
    """mvp_weights: inspect, import or export checkpoints of other projects."""
    _run("mvp_weights", _parsed(WeightsConfig), _weights)


Parse = Callable[[str, Sequence[str]], tuple[Any, ...]]


def _parsed(kind: Any) -> Parse:
    return lambda prog, arguments: (parse(kind, prog, arguments),)


def _run(name: str, parsed: Parse, verb: Callable[..., int]) -> None:
    """Parse, run, and turn what the user can mend into one message and exit code 2.

    Args:
        name: the command's.
        parsed: makes the verb's configuration, and whatever else it takes, of name and arguments.
        verb: called with workspace and what was parsed; returns the exit code.
    """
    try:
        config, *more = parsed(name, sys.argv[1:])
        workspace = Workspace(config.root)
        with outermost(config.root.absolute()):
            if config.writes:
                workspace.open()
                start_logging(workspace.logs, name, config.verbose)
                show_config(config)
            code = verb(workspace, config, *more)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        log.debug("ended by bad input: %s", error)
        code = BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        code = STOPPED
    sys.exit(code)


def _prepare(workspace: Workspace, config: PrepareConfig) -> int:
    from mvp_bench.datasets.verb import run_prepare

    return 0 if run_prepare(workspace, config) else BAD_INPUT


def _plan(workspace: Workspace, config: PlanConfig) -> int:
    from mvp_bench.planning.verb import run_plan

    run_plan(workspace, config)
    return 0


def _pretrain(workspace: Workspace, config: PretrainVerbConfig, options: Any) -> int:
    from mvp_bench.pretraining.command import run_command

    folder = run_command(workspace, config, options)
    if folder:
        console.print(f"encoder: {folder}", highlight=False)
    return 0


def _weights(workspace: Workspace, config: WeightsConfig) -> int:
    from mvp_bench.models.formats.verb import run_weights

    run_weights(workspace, config)
    return 0


def _benchmark(workspace: Workspace, config: BenchmarkConfig) -> int:
    from mvp_bench.benchmark.verb import benchmark as run

    return SOME_FAILED if run(workspace, config).failed else 0
