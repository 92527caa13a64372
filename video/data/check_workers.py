"""Work on many files in several processes, where a file may crash the process that reads it."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
_AHEAD = 4


def in_processes(job: Callable[[T], R], items: Sequence[T], *, workers: int, crashed: Callable[[T], R]) -> Iterator[R]:
    """``job`` of every item, in order.

    When a process dies (a decoder crash, out of memory), the items that were under way are tried again one at a time, so that exactly the
    one at fault gets ``crashed(item)``.

    Args:
        job: picklable.
        workers: processes; 0 = one per core; with 1 everything runs in this process, where a crash cannot be caught.
    """
    workers = min(workers or os.cpu_count() or 1, len(items))
    if workers <= 1:
        yield from map(job, items)
        return
    done = 0
    while done < len(items):
        for result in _until_broken(job, items[done:], workers):
            done += 1
            yield result
        suspects = items[done : done + workers * _AHEAD]  # empty unless a process died
        while suspects:
            for result in _until_broken(job, suspects, 1, ahead=1):
                done += 1
                suspects = suspects[1:]
                yield result
            if suspects:
                done += 1
                yield crashed(suspects[0])
                break


def _until_broken(job: Callable[[T], R], items: Sequence[T], workers: int, *, ahead: int = _AHEAD) -> Iterator[R]:
    """Results in order, until the end or until a process dies."""
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(job, item))
                if len(waiting) == workers * ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            return
