"""Types of options that the command line reads in a way of their own."""

from __future__ import annotations

from typing import Annotated, Literal

import tyro

Profile = Literal["auto", "full", "mini", "smoke"]
Datasets = Annotated[tuple[str, ...], tyro.conf.arg(aliases=["-d"], metavar="ID|NAME ...")]
Names = tuple[str, ...]  # entries may hold several names with commas between them


def _integers(texts: list[str]) -> tuple[int, ...]:
    return tuple(int(part) for text in texts for part in text.split(",") if part)


def _numbers(texts: list[str]) -> tuple[float, ...]:
    return tuple(float(part) for text in texts for part in text.split(",") if part)


Numbers = Annotated[
    tuple[float, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="NUMBER ...",
        instance_from_str=_numbers,
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(v, float) for v in value),
        str_from_instance=lambda value: [str(v) for v in value],
    ),
]
Integers = Annotated[
    tuple[int, ...],
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="INT ...",
        instance_from_str=_integers,
        is_instance=lambda value: isinstance(value, tuple) and all(isinstance(v, int) for v in value),
        str_from_instance=lambda value: [str(v) for v in value],
    ),
]
