"""One decorator registry for everything that can be added from outside: methods, encoders, converters, metrics.

A class or function registers itself by name::

    @METHODS.register("mae", summary="masked auto-encoder")
    class MaskedAutoencoder(Method): ...

Modules of the package register when they are imported; packages of others through the entry-point group
``mvp_bench.plugins`` (a module, or a function without arguments), loaded on the first look-up.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from mvp_bench.errors import InputError

T = TypeVar("T")

SCRATCH = "scratch"
"""The method that is none: the encoder's fresh weights. Others are compared with it."""
IMPORTED = "imported:"
"""Stands before the name of a finished run in results/pretraining: the method that is these very weights."""


class Registry(Generic[T]):
    """Name -> object, filled by decorators in the modules of ``package``.

    Args:
        kind: what is registered, in the singular, for messages ("method").
        package: dotted name of the package whose modules register; imported on the first look-up only.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._entries: dict[str, T] = {}
        self._summaries: dict[str, str] = {}
        self._loaded = False

    def register(self, name: str, summary: str = "") -> Callable[[Any], Any]:
        """Decorator that files an object under ``name``; a second object of that name is a programming error."""

        def decorate(entry: Any) -> Any:
            if name in self._entries:
                raise ValueError(f"{self.kind} {name!r} is registered twice")
            self._entries[name] = entry
            self._summaries[name] = summary
            return entry

        return decorate

    def __getitem__(self, name: str) -> T:
        self._load()
        if name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._entries))

    def summary(self, name: str) -> str:
        """One line on the entry."""
        self._load()
        return self._summaries.get(name, "")

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True  # modules may look others up while they are imported
        try:
            package = importlib.import_module(self._package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self._package}.{module.name}")
            _load_plugins()
        except BaseException:
            self._loaded = False  # or the next look-up would find a part of the registry
            raise


def unknown_name(kind: str, name: object, known: Any) -> InputError:
    """The error for a name that is not there, with the nearest ones that are."""
    names = sorted(str(k) for k in known)
    near = difflib.get_close_matches(str(name).lower(), [n.lower() for n in names], n=3, cutoff=0.4)
    near_names = [n for n in names if n.lower() in near]
    hint = f"Did you mean {' or '.join(near_names)}?" if near_names else ""
    return InputError(kind, found=repr(name), expected=f"one of {', '.join(names) or '(none registered)'}", fix=hint)


_plugins_loaded = False


def _load_plugins() -> None:
    global _plugins_loaded
    if _plugins_loaded:
        return
    _plugins_loaded = True
    for point in entry_points(group="mvp_bench.plugins"):
        loaded = point.load()
        if callable(loaded):
            loaded()


METHODS: Registry[Any] = Registry("method", "mvp_bench.pretraining.methods")
ENCODERS: Registry[Any] = Registry("encoder", "mvp_bench.models.encoders")
CONVERTERS: Registry[Any] = Registry("converter", "mvp_bench.datasets.converters")
