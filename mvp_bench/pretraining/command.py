"""The arguments of ``mvp_pretrain``: the verb's options, and those of the method that is asked for."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import field, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from mvp_bench.config.check import check
from mvp_bench.config.command import profile_of, renamed, value_of
from mvp_bench.config.defaults import defaults, resolved
from mvp_bench.config.helping import FLAGS, help_wanted, print_help
from mvp_bench.config.options import FLAT
from mvp_bench.config.verbs import PretrainVerbConfig
from mvp_bench.registry import METHODS
from mvp_bench.workspace import Workspace

PROG = "mvp_pretrain"
OLD_NAMES = {
    "--embedding": "--features",
    "--mirror-probability": "--flip",
    "--momentum": "--branch-momentum",
    "--sigma": "--blur",
}
"""Names that methods' options had in the version before -> those they have now."""
ABOUT = " ".join((PretrainVerbConfig.__doc__ or "").split())
MORE = "Each method has options of its own: mvp_pretrain --method NAME --help shows them."


def parse_pretraining(arguments: Sequence[str]) -> tuple[PretrainVerbConfig, Any]:
    """The verb's configuration and the method's own options, with nothing left open or out of its range.

    A preset's values stand before those of the profile, options before both.

    Raises:
        InputError: for an unknown method or preset, and for values that cannot be used.
        SystemExit: with code 2 for options that there are not, with 0 for help.
    """
    arguments = renamed(renamed(arguments), OLD_NAMES)
    profile, method = profile_of(arguments), value_of("--method", arguments)
    config = defaults(PretrainVerbConfig, profile)
    if help_wanted(arguments) and not method:  # quick: the methods' files need torch
        print_help(PROG, arguments, config, about=f"{ABOUT} {MORE}")
        sys.exit(0)
    method = method or config.pretrain.method
    preset = value_of("--preset", arguments) or None
    from mvp_bench.pretraining.method import resolve_options

    options = resolve_options(method, preset, profile)
    if preset:
        config = with_preset(config, method, preset)
    if help_wanted(arguments):
        print_help(f"{PROG} --method {method}", arguments, options, config, about=ABOUT)
        sys.exit(0)
    both = make_dataclass(
        "Pretraining",
        [
            ("own", Annotated[type(options), FLAT], field(default=options)),
            ("verb", Annotated[PretrainVerbConfig, FLAT], field(default=config)),
        ],
        frozen=True,
    )
    found: Any = tyro.cli(both, prog=PROG, args=arguments, default=both(), config=FLAGS)
    config = resolved(found.verb)
    check(config, found.own)
    return config, found.own


def with_preset(config: PretrainVerbConfig, method: str, preset: str) -> PretrainVerbConfig:
    """The configuration with what a method's preset sets beside the method's own fields: encoder, training loop."""
    kind = METHODS[method].Options
    values: dict[str, Any] = dict(kind.loops().get(preset, {})) if hasattr(kind, "loops") else {}
    encoder = values.pop("encoder", config.encoder)
    return replace(config, encoder=encoder, pretrain=replace(config.pretrain, **values))


def run_command(workspace: Workspace, config: PretrainVerbConfig, options: Any) -> Path | None:
    """Do what ``mvp_pretrain`` was asked for; returns the run's folder, if there is one.

    Args:
        options: the method's own.

    Raises:
        InputError: for what the user can mend.
    """
    from mvp_bench.pretraining.listing import list_methods
    from mvp_bench.pretraining.resolved import dry_run
    from mvp_bench.pretraining.verb import run_pretraining

    if config.list:
        list_methods(config.pretrain, config.profile)
        return None
    if config.dry_run:
        print(dry_run(config, options))
        return None
    return run_pretraining(workspace, config, options)
