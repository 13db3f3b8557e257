"""The options of a configuration, one by one: name as typed, type with its marks, help, range in words."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types as at
import tyro
from pydantic import AfterValidator

from mvp_bench.config.marks import Expert, InWords, Off, Outside, Registered
from mvp_bench.config.ranges import FACTOR, MANY

NAMED = type(tyro.conf.arg(name=""))
"""Class of the marks with which tyro is told names."""
_POSITIONAL = typing.get_args(tyro.conf.Positional[int])[1]


class Broken(NamedTuple):
    """A rule between the fields of a group that does not hold. Groups with such rules have a method ``broken()``."""

    field: str
    expected: str
    fix: str = ""
    found: Any = None
    """What stands there, in words; None: the field's value."""


def option(field: str) -> str:
    """The name of a field as an option, for messages."""
    return "--" + field.replace("_", "-")


@dataclass(frozen=True)
class Option:
    """One option of a command.

    Attributes:
        path: names of the fields that lead to it.
        name: as typed on the command line.
        hint: the field's type with its marks.
        help: the field's docstring.
        expert: whether ``--help-all`` alone shows it.
    """

    path: tuple[str, ...]
    name: str
    hint: Any
    help: str
    expert: bool

    def of(self, config: Any) -> Any:
        """The value in a configuration."""
        for name in self.path:
            config = getattr(config, name)
        return config

    @property
    def outside(self) -> Outside | None:
        """The mark that says that no result depends on it."""
        return mark(self.hint, Outside)


def options_of(kind: type, prefix: str = "", path: tuple[str, ...] = (), expert: bool = False) -> Iterator[Option]:
    """Every option of a configuration's class and of the groups in it, in their order.

    Args:
        prefix: what stands before the names ("segmentation.").
        path: names of the fields that lead to the class.
        expert: whether the class is for experts as a whole.
    """
    hints, texts = hints_of(kind), docs_of(kind)
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        only_experts = expert or mark(hint, Expert) is not None
        here = (*path, field.name)
        if (group := group_of(hint)) is not None:
            name = called(hint, field.name)
            yield from options_of(group, f"{prefix}{name}." if name else prefix, here, only_experts)
        elif positional(hint):
            yield Option(here, field.name.upper(), hint, texts.get(field.name, ""), only_experts)
        else:
            name = f"--{prefix}{called(hint, field.name)}".replace("_", "-")
            yield Option(here, name, hint, texts.get(field.name, ""), only_experts)


@cache
def hints_of(kind: Any) -> dict[str, Any]:
    """Field -> type with its marks."""
    return typing.get_type_hints(kind, include_extras=True)


@cache
def docs_of(kind: Any) -> dict[str, str]:
    """Field -> docstring (the string that follows it in the source), on one line; parents' fields included."""
    found: dict[str, str] = {}
    parents: list[Any] = [parent for parent in reversed(kind.__mro__) if dataclasses.is_dataclass(parent)]
    for parent in parents:
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(parent)))
        except (OSError, TypeError):  # made at run time
            continue
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef))
        for name, text in itertools.pairwise(body):
            match name, text:
                case ast.AnnAssign(target=ast.Name(id=field)), ast.Expr(value=ast.Constant(value=str() as words)):
                    found[field] = " ".join(words.split())
    return found


def mark(hint: Any, kind: type) -> Any:
    """The mark of a kind on a type, or None."""
    return next((data for data in getattr(hint, "__metadata__", ()) if isinstance(data, kind)), None)


def called(hint: Any, name: str) -> str:
    """What the command line calls a field; "" for a group whose options bear no prefix."""
    given = mark(hint, NAMED)
    return name if given is None or given.name is None else given.name


def positional(hint: Any) -> bool:
    """Whether the command line takes the value without a name before it."""
    return _POSITIONAL in getattr(hint, "__metadata__", ())


def group_of(hint: Any) -> type | None:
    """The class of a group of options; None for the type of a single one."""
    bare = plain_type(hint)
    return bare if isinstance(bare, type) and dataclasses.is_dataclass(bare) else None


def plain_type(hint: Any) -> Any:
    """A type without its marks."""
    return get_args(hint)[0] if get_origin(hint) is Annotated else hint


def within(hint: Any) -> str:
    """The range of a type in words: "a whole number from 1 to 1024"; "" where it has none.

    The test of all options holds that each has one, paths and switches aside.
    """
    bare, marks = plain_type(hint), list(getattr(hint, "__metadata__", ()))
    if get_origin(bare) in (Union, types.UnionType):
        parts = [within(part) for part in get_args(bare) if part is not type(None)]
        return " or ".join([*parts, "None"]) if all(parts) else ""
    if get_origin(bare) is Literal:
        return f"one of {', '.join(map(str, get_args(bare)))}"
    if get_origin(bare) is tuple:
        return _tuple_within(get_args(bare), marks)
    if bare is str:
        return _text_within(marks)
    if bare is bool:
        return "a switch"
    if bare is Path:
        return "a path"
    bounds = re.sub("^at least", "of at least", _bounds(marks))
    return f"a {'whole number' if bare is int else 'number'} {bounds}" if bounds else ""


def _tuple_within(parts: tuple[Any, ...], marks: list[Any]) -> str:
    inner = within(parts[0])
    if not inner:
        return ""
    order = ", in rising order" if any(isinstance(m, AfterValidator) for m in marks) else ""
    if parts[-1] is not ...:
        return f"{len(parts)} values, each {inner}{order}"
    length = next((m for m in marks if isinstance(m, at.Len)), None)
    if length is None:
        return f"any number of values, each {inner}" if inner == "a path" else ""
    return f"{length.min_length} to {length.max_length} values, each {inner}{order}"


def _text_within(marks: list[Any]) -> str:
    for data in marks:
        if isinstance(data, Registered):
            return f"a registered {data.kind}"
        if isinstance(data, InWords):
            return data.text
        if isinstance(data, at.Len):
            return f"a text of {data.min_length} to {data.max_length} letters"
    return ""


_LOW: tuple[tuple[type, str, str], ...] = ((at.Ge, "ge", "at least"), (at.Gt, "gt", "above"))
_HIGH: tuple[tuple[type, str, str], ...] = ((at.Le, "le", "at most"), (at.Lt, "lt", "below"))


def _bounds(marks: list[Any]) -> str:
    found = []
    for kind, name, words in (*_LOW, *_HIGH):
        limit = next((getattr(data, name) for data in marks if isinstance(data, kind)), None)
        if limit is not None and limit not in (MANY, FACTOR):
            found.append(f"{words} {limit if isinstance(limit, int) else format(limit, 'g')}")
    return re.sub(r"at least (\S+) and at most", r"from \1 to", " and ".join(found))


def effect_of(option: Option, value: Any) -> str:
    """What using the option does, for the help: its text, or what happens when a switch that is on is turned off."""
    off = mark(option.hint, Off)
    return off.effect if off is not None and value is True else option.help
