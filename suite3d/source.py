"""The contract between data and engine: what a training set must offer, and how it reports bad samples."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np


class BadSample(Exception):
    """A sample that cannot be used: unreadable, truncated, empty, NaN, wrong columns, nothing in range.

    The engine skips it, counts it and lists it in the report; it is never replaced by another sample.

    Args:
        path: file (or sample name) that is at fault.
        reason: one short sentence: what was expected and what came.
    """

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = str(path)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str]]:
        return type(self), (self.path, self.reason)


@runtime_checkable
class Source(Protocol):
    """Indexable samples. Everything random comes from the generator passed in, so a sample is a pure
    function of (run seed, epoch, index) on any worker, rank or resume."""

    def __len__(self) -> int: ...

    def get(self, index: int, rng: np.random.Generator) -> Any:
        """Sample ``index``, augmented with ``rng``. Raises :class:`BadSample`."""

    def collate(self, samples: list[Any], seeds: list[int]) -> Any:
        """Batch of samples with ``.to(device)``, ``.names`` (list of str) and ``.seeds`` (one int per sample)."""

    def name(self, index: int) -> str:
        """Short unique name of a sample, for lists and error messages."""
