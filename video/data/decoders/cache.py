"""The few readers a worker keeps open.

Opened when first asked for, closed when pushed out. A forked worker starts with none: an open decoder holds threads, locks and a file
position that are its parent's.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

CAPACITY = 4
R = TypeVar("R")
_INHERITED: list[Any] = []  # readers of a parent process: neither used nor closed here, closing could wait for threads that were not forked


class _Open(threading.local):
    """Per thread, as no decoder may be used by two at once."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.readers: OrderedDict[Any, Any] = OrderedDict()


_OPEN = _Open()


def cached(key: Any, create: Callable[[], R]) -> R:
    """The open reader for ``key``, created if there is none; the least recently used one beyond ``CAPACITY`` is closed."""
    if _OPEN.process != os.getpid():
        _INHERITED.append(_OPEN.readers)
        _OPEN.process, _OPEN.readers = os.getpid(), OrderedDict()
    readers = _OPEN.readers
    if key in readers:
        readers.move_to_end(key)
        found: R = readers[key]
        return found
    while len(readers) >= CAPACITY:
        readers.popitem(last=False)[1].close()
    created = create()
    readers[key] = created
    return created


def forget(key: Any) -> None:
    """Close the reader for ``key``, if open."""
    reader = _OPEN.readers.pop(key, None) if _OPEN.process == os.getpid() else None
    if reader is not None:
        reader.close()


def close_all() -> None:
    """Close every reader of this thread."""
    for key in list(_OPEN.readers):
        forget(key)
