"""Every sample of a set once, in order: for evaluation and feature extraction."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from suite3d.engine.order import stream_seed
from suite3d.source import BadSample, Source

NEWS_EVERY = 20.0
"""Seconds between two lines about how far a long reading is."""


@dataclass
class OnceBatch:
    """Consecutive samples: their ``rows`` of the set, the ``batch`` (None where all were bad), and ``"path: reason"`` of those left out."""

    rows: list[int]
    batch: Any
    skipped: list[str]


class _Parts(Dataset[OnceBatch]):
    """Item i is part i of the rows; runs inside the loader's workers."""

    def __init__(self, source: Source, rows: Sequence[int], batch_size: int, seed: int) -> None:
        self.source, self.rows, self.batch_size, self.seed = source, list(rows), batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, item: int) -> OnceBatch:
        samples, seeds, rows, skipped = [], [], [], []
        for row in self.rows[item * self.batch_size : (item + 1) * self.batch_size]:
            seed = stream_seed("once", self.seed, row)
            try:
                samples.append(self.source.get(row, np.random.default_rng(seed)))
            except BadSample as bad:
                skipped.append(str(bad))
                continue
            seeds.append(seed)
            rows.append(row)
        return OnceBatch(rows, self.source.collate(samples, seeds) if samples else None, skipped)


def each_once(source: Source, rows: Sequence[int], *, batch_size: int, workers: int = 0, seed: int = 0) -> Iterator[OnceBatch]:
    """Batches of ``rows`` in order. A sample's randomness depends on ``seed`` and its row alone; bad samples are left out and named.

    Where this takes long, a line now and then says how far it is.
    """
    parts = DataLoader(
        _Parts(source, rows, batch_size, seed),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_limit_threads,
    )
    begin = said = time.monotonic()
    for number, part in enumerate(parts, start=1):
        yield part
        now, done = time.monotonic(), min(number * batch_size, len(rows))
        if now - said >= NEWS_EVERY and done < len(rows):
            said, rate = now, done / (now - begin)
            print(f"{done}/{len(rows)} samples  {rate:.1f} samples/s  {timedelta(seconds=int((len(rows) - done) / rate))} left", flush=True)


def _limit_threads(worker: int) -> None:
    torch.set_num_threads(1)
