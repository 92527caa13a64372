"""The contract between data and engine: what a training set must offer, and how it reports bad samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np

SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "test", "testing")}
"""What folders of a split are called, in the order of preference."""


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


def find_split(root: Path, part: Literal["train", "val"]) -> str | None:
    """The sub-folder that holds a split, where the folder has one for training (else it is not divided into splits)."""
    if not root.is_dir():
        return None
    folders = {path.name.lower(): path.name for path in root.iterdir() if path.is_dir()}
    if not set(folders) & set(SPLIT_NAMES["train"]):
        return None
    return next((folders[name] for name in SPLIT_NAMES[part] if name in folders), None)
