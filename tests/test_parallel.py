"""Pools of worker processes: how they start, what they inherit, how they end."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mvp_bench import parallel
from mvp_bench.errors import InputError
from mvp_bench.parallel import preload, run_all, worker_pool

ROOT = Path(__file__).resolve().parent.parent
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are looked up in /proc")
HEAVY = ("mvp_bench.finetuning.segmentation", "mvp_bench.finetuning.classification", "mvp_bench.benchmark.verb")
"""What the benchmark's workers need."""

adopted: list[str] = []


def square(number: int) -> int:
    return number**2


def adopt(name: str) -> None:
    adopted.append(name)


def seen(variable: str) -> dict[str, Any]:
    """A worker's own view; slow enough for the other worker to get the other job."""
    time.sleep(0.3)
    return {
        "process": os.getpid(),
        "variable": os.environ.get(variable),
        "environment": dict(os.environ),
        "threads": parallel._blas_threads(),
        "draw": np.random.random(),
        "adopted": list(adopted),
        "interrupts": signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    }


def fail(number: int) -> None:
    raise ValueError(f"job {number}")


def die(number: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def views(variable: str = "MVP_TEST", **pool_options: Any) -> list[dict[str, Any]]:
    """What two workers see."""
    with worker_pool(2, **pool_options) as pool:
        found = [job.result() for job in [pool.submit(seen, variable) for _ in range(2)]]
    assert len({one["process"] for one in found}) == 2
    return found


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_jobs(workers: int) -> None:
    done: dict[int, int] = {}
    with worker_pool(workers) as pool:
        assert run_all(pool, square, range(5), "squares", done=done.__setitem__) == [0, 1, 4, 9, 16]
        with pytest.raises(ValueError, match="job"):
            run_all(pool, fail, [1, 2], "failures")
    assert done == {0: 0, 1: 1, 2: 4, 3: 9, 4: 16}


def test_workers_are_like_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has changed since the fork server began, whose own settings stay its own."""
    for value in ("before", "after"):
        monkeypatch.setenv("MVP_TEST", value)
        for one in views():
            assert one["variable"] == value and one["environment"] == dict(os.environ)
            assert one["threads"] == parallel._blas_threads()
            assert one["interrupts"], "^C must reach workers"
    monkeypatch.delenv("MVP_TEST")
    assert {one["variable"] for one in views()} == {None}


def test_workers_draw_from_generators_of_their_own() -> None:
    assert len({one["draw"] for one in views()}) == 2


def test_every_worker_is_initialised() -> None:
    assert [one["adopted"] for one in views(initializer=adopt, initargs=("atlas",))] == [["atlas"], ["atlas"]]
    assert adopted == [], "not this process"


def test_a_killed_worker_is_an_error_that_says_what_to_do() -> None:
    with worker_pool(2) as pool, pytest.raises(InputError, match=r"fewer workers .*--workers"):
        run_all(pool, die, [1, 2], "deaths")
    with worker_pool(2) as pool:
        assert run_all(pool, square, [3], "squares") == [9], "the next pool is not concerned"


def test_workers_are_spawned_where_forks_are_unsafe_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parallel._has_fork_server() == sys.platform.startswith("linux")
    with monkeypatch.context() as mac:
        mac.setattr(sys, "platform", "darwin")
        assert not parallel._has_fork_server()
    with monkeypatch.context() as windows:
        windows.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
        assert not parallel._has_fork_server()
        assert parallel._ready().get_start_method() == "spawn"
        assert {one["variable"] for one in views("PYTHONSAFEPATH")} == {os.environ.get("PYTHONSAFEPATH")}


def test_no_process_is_started_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_ready", lambda: pytest.fail("started"))
    with worker_pool(2) as pool:
        assert run_all(pool, square, [], "nothing") == []


def test_a_module_that_is_not_there_is_not_preloaded() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"mvp_bench\.nothing"):
        preload("mvp_bench.nothing")


def started(*modules: str) -> tuple[subprocess.Popen[str], list[dict[str, Any]]]:
    """A process with a pool of two busy workers, and what these have found."""
    command = [sys.executable, "-m", "tests.pooled", *modules]
    plain = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    process = subprocess.Popen(command, cwd=ROOT, env=plain, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    line = process.stdout.readline()
    assert line, "it died"
    return process, json.loads(line)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def killed(process: subprocess.Popen[str], others: set[int]) -> None:
    """Kill a process, and see the others end."""
    assert all(map(alive, others))
    process.kill()
    process.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, others)):
        assert time.monotonic() < deadline, "orphans"
        time.sleep(0.02)


@LINUX
def test_no_orphans() -> None:
    """The processes end with the one that asked for them, although the fork server is the workers' parent."""
    process, found = started()
    servers = {one["parent"] for one in found}
    assert len(servers) == 1 and servers != {process.pid}
    killed(process, servers | {one["worker"] for one in found})


@LINUX
@pytest.mark.slow
def test_the_fork_server_holds_one_thread_and_no_cuda() -> None:
    process, found = started("tests.no_cuda", *HEAVY)
    assert [one["imported"] for one in found] == [["tests.no_cuda", *HEAVY]] * 2
    assert [one["threads"] for one in found] == [1, 1]
    killed(process, {one["parent"] for one in found})
