"""Settings of a benchmark that cannot work for a method, found before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields

from mvp_bench.config.check import Fault, refuse
from mvp_bench.config.fields import option
from mvp_bench.config.groups import LoopConfig
from mvp_bench.config.verbs import BenchmarkConfig
from mvp_bench.errors import InputError
from mvp_bench.pretraining.method import resolve_options
from mvp_bench.pretraining.tensorboard import require_tensorboard
from mvp_bench.registry import ENCODERS, METHODS

LOOP = {option(field.name) for field in fields(LoopConfig)}
"""Options of the training loop, as they are called where it stands alone."""


def check_methods_fit(config: BenchmarkConfig, methods: Sequence[str]) -> None:
    """Refuse settings with which a method cannot be pre-trained on any data.

    Args:
        methods: those that pre-train.

    Raises:
        InputError: a single one that names every such setting, and the method.
    """
    refuse(fault for method in methods for fault in _faults(config, method))
    if methods and config.pretrain.tensorboard:
        require_tensorboard()


def _faults(config: BenchmarkConfig, method: str) -> Iterator[Fault]:
    loop = config.pretrain
    try:
        options = resolve_options(method, loop.preset, config.profile)
        METHODS[method].check_settings(options, ENCODERS[config.encoder], loop.patch_size, loop.batch_size)
    except InputError as error:
        where = f"--pretrain.{error.where.removeprefix('--')}" if error.where in LOOP else error.where
        yield Fault(f"{where} ({method})", error.found, error.expected, error.fix)
