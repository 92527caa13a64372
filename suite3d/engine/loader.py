"""Batches by step number: loads, skips what is broken, and says what it skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from suite3d.engine.order import SampleOrder
from suite3d.engine.reading import ReadingNotes
from suite3d.source import BadSample, Source

MAX_WORKERS = 256
"""Loader processes a rank may have."""


@dataclass
class LoadedBatch:
    """One micro-batch of one rank. ``batch`` is None when every sample of it was bad."""

    batch: Any
    skipped: list[tuple[str, str]]

    def pin_memory(self) -> LoadedBatch:
        pin = getattr(self.batch, "pin_memory", None)
        return LoadedBatch(batch=pin() if pin else self.batch, skipped=self.skipped)


class StepBatches(Dataset[LoadedBatch]):
    """Item i is micro-batch i of this rank; runs inside the loader's workers.

    Args:
        source: the samples.
        order: the global sequence.
        micro_batch: samples per micro-batch per rank.
        rank, world: this process and how many there are; ranks take neighbouring slices of each global micro-batch.
    """

    def __init__(self, source: Source, order: SampleOrder, *, micro_batch: int, rank: int = 0, world: int = 1) -> None:
        self.source, self.order = source, order
        self.micro_batch, self.rank, self.world = micro_batch, rank, world
        self.notes = ReadingNotes(MAX_WORKERS)

    def __getitem__(self, item: int) -> LoadedBatch:
        start = (item * self.world + self.rank) * self.micro_batch
        samples, seeds, skipped = [], [], []
        for position in range(start, start + self.micro_batch):
            epoch, index = self.order.sample(position)
            seed = self.order.sample_seed(epoch, index)
            self.notes.write(self.source.name(index))
            try:
                samples.append(self.source.get(index, np.random.default_rng(seed)))
                seeds.append(seed)
            except BadSample as bad:
                skipped.append((bad.path, bad.reason))
        return LoadedBatch(batch=self.source.collate(samples, seeds) if samples else None, skipped=skipped)


def _limit_threads(worker: int) -> None:
    torch.set_num_threads(1)


def step_loader(batches: StepBatches, *, first: int, last: int, workers: int, pin: bool) -> Iterator[LoadedBatch]:
    """Micro-batches ``first .. last - 1`` in order, loaded ahead by ``workers`` processes (0 = in this one).

    A worker that dies (out of memory, a crash in a decoder) raises torch's RuntimeError, here or wherever the caller is at that moment:
    :func:`suite3d.engine.reading.naming_dead_workers` around both names the sample.
    """
    loader = DataLoader(
        batches,
        sampler=range(first, last),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=3 if workers else None,
        worker_init_fn=_limit_threads,
    )
    return iter(loader)


def first_readable(source: Source, *, tries: int = 64) -> int:
    """Index of the first sample that reads. Raises ValueError quoting reasons when none of the first ``tries`` does."""
    reasons = []
    for index in range(min(tries, len(source))):
        try:
            source.get(index, np.random.default_rng(0))
            return index
        except BadSample as bad:
            reasons.append(f"  {bad}")
    listed = "\n".join(reasons[:5])
    raise ValueError(f"none of the first {len(reasons)} of {len(source)} samples can be used, so there is nothing to train on:\n{listed}")
