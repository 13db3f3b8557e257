"""``--help`` and ``--help-all``: what the options do, in words; those for experts in the second only."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Sequence
from dataclasses import field, make_dataclass
from typing import Annotated, Any, get_args

import tyro

from mvp_bench.config.fields import (
    NAMED,
    Option,
    docs_of,
    effect_of,
    group_of,
    hints_of,
    mark,
    options_of,
    plain_type,
    within,
)
from mvp_bench.config.marks import Expert, Registered

HELP, HELP_ALL = ("-h", "--help"), "--help-all"
FLAGS = (tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName)
"""How tyro reads switches (one option each, which turns off what is on by default, and on what is off) and calls
what has no option."""


def help_wanted(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask for help."""
    return bool({*HELP, HELP_ALL} & set(arguments))


def print_help(prog: str, arguments: Sequence[str], *configs: Any, about: str) -> None:
    """Print the options of configurations, with their values as defaults.

    Args:
        prog: the command's name.
        arguments: for ``--help-all`` among them the options for experts too.
        configs: default options of a method, and a verb's default configuration.
        about: what the command does.
    """
    everything = HELP_ALL in arguments
    shown = [view for config in configs if (view := _view(config, everything)) is not None]
    all_of_it = make_dataclass(
        "Help",
        [
            (f"group{index}", Annotated[type(view), tyro.conf.arg(name="")], field(default=view))
            for index, view in enumerate(shown)
        ],
        frozen=True,
    )
    hidden = any(option.expert for config in configs for option in options_of(type(config))) and not everything
    hint = f"Options for experts are left out here; {HELP_ALL} shows them all." if hidden else ""
    about = "\n\n".join(text for text in (about, hint) if text)
    with contextlib.suppress(SystemExit):
        tyro.cli(all_of_it, args=["--help"], prog=prog, default=all_of_it(), description=about, config=FLAGS)


def _view(config: Any, everything: bool) -> Any:
    """A configuration of the options to show alone, whose help texts are what using them does; None where none is."""
    kind: Any = type(config)
    hints, texts, shown = hints_of(kind), docs_of(kind), []
    for item in dataclasses.fields(config):
        hint, value = hints[item.name], getattr(config, item.name)
        if mark(hint, Expert) is not None and not everything:
            continue
        given: Any = mark(hint, NAMED) or tyro.conf.arg()
        if group_of(hint) is not None:
            if (inner := _view(value, everything)) is not None:
                shown.append((item.name, Annotated[type(inner), given], field(default=inner)))
            continue
        option = Option((item.name,), item.name, hint, texts.get(item.name, ""), False)
        given = dataclasses.replace(given, help=effect_of(option, value), help_behavior_hint=_Default(hint, value))
        given = dataclasses.replace(given, metavar=metavar(hint, value) or given.metavar)
        shown.append((item.name, _with(hint, given), field(default=value)))
    if not shown:
        return None
    view = make_dataclass(kind.__name__, shown, frozen=True)
    view.__doc__ = kind.__doc__
    return view()


class _Default:
    """What stands behind an option's help: its default, where there is one, and its range, where it is of numbers."""

    def __init__(self, hint: Any, value: Any) -> None:
        known = "" if value in (None, "", ()) or plain_type(hint) is bool else "default: {}"
        self._text = "; ".join(part for part in (known, short_range(hint)) if part)

    def __call__(self, value: str) -> str:
        return f"({self._text.format(value)})" if self._text else ""


def short_range(hint: Any) -> str:
    """A range of numbers in few words; "" for other ranges."""
    found = re.search(r"\ba (?:whole )?number (.*)$", within(hint))
    return found[1].removesuffix(" or None").removeprefix("of ") if found else ""


def metavar(hint: Any, value: Any) -> str | None:
    """What stands for an option's value in the help; None: what its type says."""
    kinds = [part for part in get_args(plain_type(hint)) if part is not type(None)]
    if any(mark(part, Registered) for part in (hint, *kinds)):
        return "NAME"
    if value is None and len(kinds) == 1:
        parts = get_args(plain_type(kinds[0])) or kinds
        return " ".join(plain_type(part).__name__.upper() for part in parts)
    return None


def _with(hint: Any, given: Any) -> Any:
    """A type with another tyro mark in place of its own."""
    marks = [data for data in getattr(hint, "__metadata__", ()) if not isinstance(data, NAMED)]
    return Annotated.__class_getitem__((plain_type(hint), *marks, given))  # type: ignore[attr-defined]
