"""What each loader worker reads, where the parent still finds it after the worker has died."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

_WIDTH = 512
_DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)")


class WorkerDied(RuntimeError):
    """A loader worker was killed or crashed; the message names the sample it was reading."""


class ReadingNotes:
    """One line of shared memory a worker: its process id and the sample it reads.

    Args:
        workers: how many there may be.
    """

    def __init__(self, workers: int) -> None:
        self.pids = torch.zeros(workers, dtype=torch.int64).share_memory_()
        self.names = torch.zeros(workers, _WIDTH, dtype=torch.uint8).share_memory_()

    def write(self, name: str) -> None:
        """Note the sample that this worker reads from now on; nothing outside a worker."""
        worker = get_worker_info()
        if worker is None or worker.id >= len(self.pids):
            return
        text = name.encode()[-_WIDTH:].ljust(_WIDTH, b"\0")
        self.pids[worker.id] = os.getpid()
        self.names[worker.id] = torch.frombuffer(bytearray(text), dtype=torch.uint8)

    def read(self, pid: int) -> str:
        """The last note of a process."""
        rows = (self.pids == pid).nonzero()
        text = bytes(self.names[int(rows[0])].tolist()).rstrip(b"\0").decode(errors="replace") if len(rows) else ""
        return text or "nothing yet"


@contextmanager
def naming_dead_workers(notes: ReadingNotes) -> Iterator[None]:
    """Turn torch's message about a dead worker, which may come up anywhere in the parent, into one that names the sample.

    Raises:
        WorkerDied: in place of torch's RuntimeError.
    """
    try:
        yield
    except RuntimeError as error:
        found = _DEATH.search(str(error))
        if found is None:
            raise
        read = "; ".join(f"worker {pid} was reading {notes.read(int(pid))}" for pid in found[1].split(","))
        how = str(error)[found.end() :].split(".")[0].strip() or "died"
        raise WorkerDied(
            f"a loader worker {how}: {read}. Out of memory: fewer train.workers or a smaller batch; a file that crashes its decoder: take it out"
        ) from error
