"""Local processes of a sweep: they end with their parent, and one that dies costs no row but its own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any


def compute_all(
    function: Callable, jobs: Sequence[Any], workers: int, *given: Any
) -> Iterator[tuple[int, Any]]:
    """``(k, function(jobs[k], *given))`` as each is done, by processes that are spawned.

    When a process dies, every job that was under way is tried once more, alone; the result of one whose process dies
    again is the `BrokenProcessPool`. What ``function`` itself raises is a result, too.
    """
    waiting = deque(range(len(jobs)))
    while waiting:
        broken: list[int] = []
        with _pool(workers) as pool:
            flying: dict[Future, int] = {}
            while flying or (waiting and not broken):
                try:
                    while waiting and not broken and len(flying) < workers:
                        flying[pool.submit(function, jobs[waiting[0]], *given)] = waiting[0]
                        waiting.popleft()
                except BrokenProcessPool:  # it died with nothing to do
                    if not flying:
                        break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    k, result = flying.pop(future), _result(future)
                    if isinstance(result, BrokenProcessPool):
                        broken.append(k)
                    else:
                        yield k, result
        for k in broken:
            with _pool(1) as pool:
                yield k, _result(pool.submit(function, jobs[k], *given))


def _result(future: Future) -> Any:
    try:
        return future.result()
    except Exception as error:
        return error


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that are ended, whatever they do, when this one is interrupted."""
    context = multiprocessing.get_context("spawn")  # JAX does not survive a fork
    with ProcessPoolExecutor(workers, context, _begin) as pool:
        try:
            yield pool
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()
            raise


def _begin() -> None:
    """In a new process: interrupts end it silently, and so does the end of its parent, even by SIGKILL."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
