"""One check of a whole configuration, before anything runs: ranges, names, and rules between options."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from mvp_bench.config.fields import Broken, Option, called, group_of, hints_of, mark, options_of, within
from mvp_bench.config.marks import Registered
from mvp_bench.errors import InputError
from mvp_bench.registry import ENCODERS, METHODS


@dataclass(frozen=True)
class Fault:
    """An option that cannot be used as it is.

    Attributes:
        option: as typed on the command line.
    """

    option: str
    found: str
    expected: str
    fix: str = ""


def check(*configs: Any) -> None:
    """Refuse a configuration in which anything is out of its range, unknown or at odds with the rest.

    Args:
        configs: dataclasses: a verb's configuration, and the options of a method.

    Raises:
        InputError: a single one that names every such option, what stands there, and what may.
    """
    refuse(fault for config in configs for fault in faults_of(config))


def refuse(faults: Iterable[Fault]) -> None:
    """Raise one error for all faults; return where there is none.

    Raises:
        InputError: see :func:`check`.
    """
    found = list(dict.fromkeys(faults))
    if not found:
        return
    if len(found) == 1:
        (one,) = found
        raise InputError(one.option, found=one.found, expected=one.expected, fix=one.fix)
    lines = [f"\n  {f.option}: {f.expected} (found {f.found}){'. ' + f.fix if f.fix else ''}" for f in found]
    raise InputError(f"{len(found)} options", found="values that cannot be used", expected="".join(lines))


def faults_of(config: Any) -> Iterator[Fault]:
    """The faults of a configuration, in the order of its fields; then those between fields."""
    kind: Any = type(config)
    wrong: set[tuple[str, ...]] = set()
    for option, validator in _validators(kind):
        value = option.of(config)
        try:
            validator.validate_python(value)
        except ValidationError as error:
            expected = within(option.hint) or error.errors()[0]["msg"]
            yield Fault(option.name, shown(value), expected)
            wrong.add(option.path[:-1])
            continue
        yield from _unregistered(option.name, option.hint, value)
    yield from _between(config, wrong)


@cache
def _validators(kind: Any) -> tuple[tuple[Option, TypeAdapter[Any]], ...]:
    """Every option of a class with the validator of its type; made once, since making them takes a while."""
    return tuple((option, TypeAdapter(option.hint)) for option in options_of(kind))


def _unregistered(name: str, hint: Any, value: Any) -> Iterator[Fault]:
    known = next((found for part in (hint, *get_args(hint)) if (found := mark(part, Registered))), None)
    if known is None or value is None:
        return
    try:
        {"method": METHODS, "encoder": ENCODERS}[known.kind][value]
    except InputError as error:
        yield Fault(name, error.found, error.expected, error.fix)


def _between(
    config: Any, wrong: Collection[tuple[str, ...]], prefix: str = "", path: tuple[str, ...] = ()
) -> Iterator[Fault]:
    """Rules between fields, of the configuration and of the groups in it.

    Args:
        wrong: paths of the groups in which a field is out of its range: nothing can be said of their rules.
        prefix: what stands before the options' names.
        path: names of the fields that lead here.
    """
    kind: Any = type(config)
    hints = hints_of(kind)
    rules: Iterable[Broken] = config.broken() if hasattr(config, "broken") and path not in wrong else ()
    for rule in rules:
        value = getattr(config, rule.field)
        name = f"--{prefix}{called(hints[rule.field], rule.field)}".replace("_", "-")
        yield Fault(name, shown(value) if rule.found is None else str(rule.found), rule.expected, rule.fix)
    for field in dataclasses.fields(config):
        if group_of(hints[field.name]) is not None:
            name = called(hints[field.name], field.name)
            inner = f"{prefix}{name}." if name else prefix
            yield from _between(getattr(config, field.name), wrong, inner, (*path, field.name))


def shown(value: Any) -> str:
    """A value as one would type it."""
    if isinstance(value, (tuple, list)):
        edges = len(value) == 3 and all(isinstance(edge, int) for edge in value)
        return (" x " if edges else " ").join(map(shown, value)) or "none"
    return repr(value) if isinstance(value, (str, float)) else str(value)
