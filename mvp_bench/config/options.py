"""Types of options that the command line reads in a way of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

import tyro

from mvp_bench.config.ranges import Index, Len, Seed, SomeShare

T = TypeVar("T")
FLAT: Any = tyro.conf.arg(name="")
"""Mark on a group whose options bear no prefix."""
AS_PHANTOM: Any = tyro.conf.arg(name="phantom")
"""Mark on a group whose options begin with ``--phantom.``."""
AS_OVERLAP: Any = tyro.conf.arg(name="overlap")
"""Mark on a group whose options begin with ``--overlap.``."""
Profile = Literal["auto", "full", "mini", "smoke"]


def _several(read: Callable[[str], T], kind: type, metavar: str) -> Any:
    """How a tuple is read: commas or blanks between its members, each member once."""

    def from_texts(texts: list[str]) -> tuple[T, ...]:
        parts = (part for text in texts for part in re.split(r"[,\s]+", text) if part)
        return tuple(dict.fromkeys(read(part) for part in parts))

    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=from_texts,
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(v, kind) for v in value),
        str_from_instance=lambda value: [str(v) for v in value],
    )


_MOST = 1000
Names = Annotated[tuple[Annotated[str, Len(1, 200)], ...], Len(0, _MOST), _several(str, str, "NAME ...")]
"""Names, none included."""
SomeNames = Annotated[tuple[Annotated[str, Len(1, 200)], ...], Len(1, _MOST), _several(str, str, "NAME ...")]
"""Names, at least one."""
Datasets = Annotated[
    tuple[Annotated[str, Len(1, 200)], ...],
    Len(0, _MOST),
    _several(str, str, "ID|NAME ..."),
    tyro.conf.arg(aliases=["-d"]),
]
"""Datasets by id or name."""
Seeds = Annotated[tuple[Seed, ...], Len(0, _MOST), _several(int, int, "SEED ...")]
"""Seeds; none: as many as the profile has."""
Folds = Annotated[tuple[Index, ...], Len(1, _MOST), _several(int, int, "FOLD ...")]
"""Folds of a split."""
Budgets = Annotated[tuple[SomeShare, ...], Len(1, 100), _several(float, float, "SHARE ...")]
"""Shares of the training patients."""
