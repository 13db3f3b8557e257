"""Work spread over processes: one pool kept for a whole run, with a progress bar, and no orphans.

Worker processes are spawned (safe with CUDA and OpenMP) and end when their parent dies, also by ``kill -9``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import Any, TypeVar

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


@contextlib.contextmanager
def worker_pool(workers: int) -> Iterator[Executor]:
    """An executor with ``workers`` processes; with fewer than two, jobs run in this process."""
    if workers < 2:
        yield Inline()
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_die_with_parent) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


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
        fix="The system most likely ran out of memory: use fewer workers (--workers, --jobs).",
    )


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
