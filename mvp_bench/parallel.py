"""Work spread over processes: one pool kept for a whole run, with a progress bar, and no orphans.

Importing torch and nnU-Net takes a process seconds. On Linux workers are therefore forked from a *fork server*: a
process of its own, started once, that imports what workers need and nothing else. Since it holds one thread and never
calls CUDA, its children may use OpenMP and CUDA freely; a fork of the process that computes could not. Elsewhere
workers are spawned. Either way they end when the process that asked for them dies, also by ``kill -9``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.context import BaseContext
from typing import Any, TypeVar

from threadpoolctl import threadpool_info, threadpool_limits

from mvp_bench.errors import InputError
from mvp_bench.progress import progress

Job = TypeVar("Job")
Result = TypeVar("Result")


class Inline(Executor):
    """Runs each job at once in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # the future hands it on to whoever asks for the result
            future.set_exception(error)
        return future


class WorkerPool(Executor):
    """Runs jobs in worker processes, which are started once there is a first job: no process starts for nothing."""

    def __init__(
        self, workers: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
    ) -> None:
        self._workers, self._initializer, self._initargs = workers, initializer, initargs
        self._pool: ProcessPoolExecutor | None = None

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        if self._pool is None:
            start = _Start(dict(os.environ), _blas_threads(), self._initializer, self._initargs)
            self._pool = ProcessPoolExecutor(self._workers, mp_context=_ready(), initializer=start)
        return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait, cancel_futures=cancel_futures)


@contextlib.contextmanager
def worker_pool(
    workers: int, initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = ()
) -> Iterator[Executor]:
    """An executor with ``workers`` processes; with fewer than two, jobs run in this process.

    Workers have the environment variables and thread counts that this process has at the first job.

    Args:
        initializer: called with ``initargs`` once in every worker process, not in this one.
    """
    if workers < 2:
        yield Inline()
        return
    with WorkerPool(workers, initializer, initargs) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


_preloaded: list[str] = []
"""Names from :func:`preload`."""


def preload(*modules: str) -> None:
    """Let the fork server import these modules too, beside those of this package that this process has imported.

    What workers will need and this process does not is imported once for all of them then, not once by each. No effect
    after the first job of the first pool, and where there is no fork server.

    Raises:
        ModuleNotFoundError: for a name that is no module's.
    """
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name)  # the fork server would skip it without a word
    _preloaded.extend(modules)


def _ready() -> BaseContext:
    """How workers are started here; a fork server is running on return, where there can be one."""
    if not _has_fork_server():
        return multiprocessing.get_context("spawn")
    from multiprocessing.forkserver import ensure_running  # only where there is one

    context = multiprocessing.get_context("forkserver")
    own = [name for name in sys.modules if name.partition(".")[0] == __package__]
    context.set_forkserver_preload([*_preloaded, *own])
    with _environment(_SERVER | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}), _deaf_to_interrupts():
        ensure_running()
    return context


def _has_fork_server() -> bool:
    """Whether forks are safe after imports; on macOS the system's own libraries forbid it."""
    return sys.platform != "darwin" and "forkserver" in multiprocessing.get_all_start_methods()


_SERVER = {"OPENBLAS_NUM_THREADS": "1", "NUMEXPR_MAX_THREADS": "1", "NUMEXPR_NUM_THREADS": "1", "PYTHONSAFEPATH": "1"}
"""Environment of the fork server alone: these libraries start threads on import, and threads do not survive a fork."""


@contextlib.contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Let processes that are started inside have these variables too."""
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        _set_environment(before)


def _set_environment(variables: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(variables):
        del os.environ[name]
    os.environ.update(variables)


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Let processes that are started inside be left alone by ^C; :class:`_Start` undoes it in workers."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _blas_threads() -> int:
    """Threads of this process' matrix products."""
    return max((info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"), default=1)


@dataclass(frozen=True)
class _Start:
    """What a worker does first: become like its parent, which a fork of the server is not yet."""

    environment: dict[str, str]
    blas_threads: int
    initializer: Callable[..., object] | None
    initargs: tuple[Any, ...]

    def __call__(self) -> None:
        _die_with_parent()
        _set_environment(self.environment)
        if hasattr(signal, "pthread_sigmask"):  # not on Windows
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        threadpool_limits(self.blas_threads, user_api="blas")
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()  # else all workers would draw the same from it
        if self.initializer:
            self.initializer(*self.initargs)


@contextlib.contextmanager
def lone_worker() -> Iterator[Executor]:
    """An executor with a single process, which breaks alone when that process dies."""
    pool = WorkerPool(1)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_all(
    pool: Executor,
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    description: str,
    done: Callable[[int, Result], None] | None = None,
) -> list[Result]:
    """``function`` of every job, in the order of the jobs, with a progress bar.

    Args:
        done: called in this process with a job's index and result as soon as it is finished.

    Raises:
        InputError: if a worker process died (out of memory, mostly); exceptions of a job are raised again here.
    """
    results: dict[int, Result] = {}
    with progress(description, len(jobs)) as advance:
        if isinstance(pool, Inline):
            for index, job in enumerate(jobs):
                results[index] = function(job)
                if done:
                    done(index, results[index])
                advance(1)
        else:
            futures = {pool.submit(function, job): index for index, job in enumerate(jobs)}
            try:
                for future in as_completed(futures):
                    index = futures[future]
                    results[index] = future.result()
                    if done:
                        done(index, results[index])
                    advance(1)
            except BrokenProcessPool as error:
                raise worker_died(description) from error
            finally:
                for future in futures:
                    future.cancel()
    return [results[index] for index in range(len(jobs))]


def worker_died(description: str) -> InputError:
    """The error for a worker that was killed from outside."""
    return InputError(
        description,
        found="a worker process died without a message",
        expected="enough memory for every worker",
        fix="The system most likely ran out of memory: use fewer workers (--workers).",
    )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
