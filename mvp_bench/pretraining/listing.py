"""``mvp_pretrain --list``: the registered methods, one row each."""

from __future__ import annotations

import math
from collections import defaultdict

from rich.markup import escape
from rich.table import Table

from mvp_bench.config.groups import PretrainConfig
from mvp_bench.progress import console
from mvp_bench.registry import ENCODERS, METHODS

COLUMNS = ("method", "what", "modalities", "encoders", "budget as published")


def list_methods(loop: PretrainConfig, profile: str) -> None:
    """Print :func:`methods_table`."""
    console.print(methods_table(loop, profile), soft_wrap=False)


def methods_table(loop: PretrainConfig, profile: str) -> Table:
    """What each method is, how it uses modalities, which encoders it fits, and what it was published with.

    Args:
        loop: the training loop as it would be run: the same for every method.
        profile: name of its profile.
    """
    table = Table(title="Pre-training methods", caption=budget(loop, profile), caption_justify="left")
    for name in COLUMNS:
        table.add_column(name, no_wrap=name == "method", overflow="fold")
    for name in METHODS:
        facts = METHODS[name].declaration
        row = (name, METHODS.summary(name), facts.modalities, fitting_encoders(name), facts.budget)
        table.add_row(*map(escape, row))
    return table


def budget(loop: PretrainConfig, profile: str) -> str:
    """What every method gets here, in words."""
    patch = " x ".join(map(str, loop.patch_size))
    cases = loop.steps * loop.batch_size * loop.accumulation
    forward = f"batch {loop.batch_size}" + (f" x {loop.accumulation}" if loop.accumulation > 1 else "")
    return (
        f"Here every method gets the same (profile {profile}): {loop.steps:,} steps x {forward} x patch {patch} "
        f"= {cases * math.prod(loop.patch_size):,} voxels, in each process"
    )


def fitting_encoders(method: str) -> str:
    """The encoders that a method makes sense on: ``all``, or names, ``resenc-*`` where it is all of that kind."""
    kind = METHODS[method]
    fitting = {name for name in ENCODERS if not kind.misfit(ENCODERS[name])}
    families: dict[str, list[str]] = defaultdict(list)
    for name in ENCODERS:
        families[name.partition("-")[0]].append(name)
    if all(name in fitting for name in ENCODERS):
        return "all"
    shown: list[str] = []
    for family, names in families.items():
        whole = len(names) > 1 and fitting.issuperset(names)
        shown += [f"{family}-*"] if whole else [name for name in names if name in fitting]
    return " ".join(shown)
