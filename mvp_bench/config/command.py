"""A verb's configuration from arguments: parsed, resolved and checked."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import tyro

from mvp_bench.config.check import check
from mvp_bench.config.defaults import defaults, resolved
from mvp_bench.config.helping import FLAGS, help_wanted, print_help
from mvp_bench.config.profiles import PROFILES, resolve_profile
from mvp_bench.config.verbs import CommonConfig, WorkConfig
from mvp_bench.identity import code_version, hash_of
from mvp_bench.progress import console, log

C = TypeVar("C", bound=CommonConfig)
OLD_NAMES = {
    "--jobs": "--workers",
    "--label-fractions": "--label-budgets",
    "--overlap-config.": "--overlap.",
    "--phantom-config.": "--phantom.",
    "--planning.workers": "--workers",
    "--pretrain.workers": "--pretrain.loaders",
    "--segmentation.workers": "--segmentation.loaders",
}
"""Names that options had in the version before -> those they have now."""


def parse(kind: type[C], prog: str, arguments: Sequence[str]) -> C:
    """A verb's configuration: nothing in it is left open, and nothing is out of its range.

    Args:
        prog: the command's name, for help.

    Raises:
        InputError: for values that cannot be used, all in one message.
        SystemExit: with code 2 for options that there are not, with 0 for help.
    """
    arguments = renamed(arguments)
    default = defaults(kind, profile_of(arguments))
    if help_wanted(arguments):
        print_help(prog, arguments, default, about=" ".join((kind.__doc__ or "").split()))
        sys.exit(0)
    config = resolved(tyro.cli(kind, prog=prog, args=arguments, default=default, config=FLAGS))
    check(config)
    return config


def renamed(arguments: Sequence[str], names: Mapping[str, str] = OLD_NAMES) -> list[str]:
    """Arguments with options by the names they have now; of each old one a warning is printed.

    Args:
        names: old name -> new name; those that end in a dot stand before others.
    """
    found = []
    for argument in arguments:
        name, sign, value = argument.partition("=")
        old = next((old for old in names if name == old or (old.endswith(".") and name.startswith(old))), None)
        if old is not None:
            now = names[old] + name.removeprefix(old)
            print(f"warning: {name} is called {now} now; the next version will not know the old name", file=sys.stderr)
            argument = now + sign + value
        found.append(argument)
    return found


def profile_of(arguments: Sequence[str]) -> str:
    """The profile that arguments ask for; a wrong name is refused by the full parse."""
    value: Any = value_of("--profile", arguments)
    return resolve_profile(value if value in PROFILES else "auto")


def value_of(option: str, arguments: Sequence[str]) -> str:
    """The value of an option that decides the others' defaults; "" where it is not given."""
    found = ""
    for index, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        if name == option:
            found = value or (arguments[index + 1] if index + 1 < len(arguments) else "")
    return found


def show_config(config: CommonConfig) -> None:
    """Print every value, one line per group; the log file has them as JSON."""
    profile = f"profile {config.profile}, " if isinstance(config, WorkConfig) else ""
    console.print(f"mvp_bench {code_version()}, {profile}root {config.root.resolve()}", highlight=False)
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
