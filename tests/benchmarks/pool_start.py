"""CPU seconds and waiting time until two workers can train a cell: forked from the fork server, and spawned.

``python tests/benchmarks/pool_start.py [--pools 1]`` (Linux)

A process that has imported what ``mvp_benchmark`` imports opens a pool of two workers, both import what a cell needs,
and the pool is closed; with ``--pools 3`` that happens three times, as the verb does while it prepares, plans and
trains. CPU seconds are those of the whole tree of processes, less those of a process that opens no pool.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import subprocess
import sys
import time

from mvp_bench import parallel

WORKERS = 2
PR_SET_CHILD_SUBREAPER = 36
CELL = ("mvp_bench.finetuning.segmentation", "mvp_bench.finetuning.classification", "mvp_bench.benchmark.execution")


def import_what_a_cell_needs(seconds: float) -> int:
    """Import, and stay long enough for the other worker to take the other job; returns the process' id."""
    for name in CELL:
        __import__(name)
    time.sleep(seconds)
    return os.getpid()


def pools(method: str, count: int) -> None:
    """Open and close them in this process; prints the waiting time of each."""
    import mvp_bench.benchmark.verb  # noqa: F401  what the verb has imported by then

    if method == "spawn":
        parallel._has_fork_server = lambda: False  # type: ignore[assignment]
    if method != "none":
        parallel.preload(*CELL)
    for _ in range(count if method != "none" else 0):
        began = time.perf_counter()
        with parallel.worker_pool(WORKERS) as pool:
            used = {job.result() for job in [pool.submit(import_what_a_cell_needs, 0.5) for _ in range(WORKERS)]}
        print(f"{time.perf_counter() - began:.2f}", end=" ")
        assert len(used) == WORKERS
    print()


def measured(method: str, count: int) -> tuple[float, str]:
    """CPU seconds of a process that opens the pools and of all its descendants, and what it prints."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--method", method, "--pools", str(count)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    while True:  # the fork server ends after its parent, and is then ours
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, printed


def main(arguments: list[str]) -> None:
    """Print one line per way of starting workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pools", type=int, default=1, help="opened one after the other")
    parser.add_argument("--method", choices=("none", "spawn", "forkserver"), help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.method:
        pools(given.method, given.pools)
        return
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    alone, _ = measured("none", given.pools)
    for method in ("spawn", "forkserver"):
        cpu, waits = measured(method, given.pools)
        print(f"{method}: {cpu - alone:.1f} CPU seconds in {WORKERS} workers, {waits} s until each pool is done")


if __name__ == "__main__":
    main(sys.argv[1:])
