"""What all tests share. By default they are spread over processes (pytest-xdist), a file's tests in one of them."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator

for library in ("OMP", "OPENBLAS", "MKL"):  # before any of them is loaded: each process computes with one thread
    os.environ[f"{library}_NUM_THREADS"] = "1"

from pathlib import Path

import pytest

from mvp_bench.workspace import Workspace

PROCESSES = 4
"""At most; each takes one to two gigabytes."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kill-seed", type=int, help="the moment at which test_end_to_end.py kills the benchmark")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as there are cores for files or folders; none for a single file, which starts quicker in this process."""
    named = {argument.partition("::")[0] for argument in config.args}
    if len(named) == 1 and Path(*named).is_file():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first, else the last of them would keep one process busy and the others idle."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def process_unchanged() -> Iterator[None]:
    """Put back what console scripts that run in this process change for good: variables, log, threads."""
    log = logging.getLogger("mvp_bench")
    variables, level, propagate, handlers = dict(os.environ), log.level, log.propagate, list(log.handlers)
    yield
    if dict(os.environ) != variables:
        os.environ.clear()
        os.environ.update(variables)
    for handler in set(log.handlers) - set(handlers):
        handler.close()
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace, with nnU-Net's paths pointing into it."""
    return Workspace(tmp_path / "root").open()
