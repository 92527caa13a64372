"""Which samples make up which step: a pure function of (seed, step), so there is no sampler state to save."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray


def stream_seed(*parts: int | str) -> int:
    """63-bit seed that depends on every part; equal parts give equal seeds on every machine."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


@dataclass
class SampleOrder:
    """Shuffled epochs laid end to end; position p holds sample ``permutation(p // length)[p % length]``.

    Any world size, worker count or resume point reads the same global sequence of samples.

    Args:
        length: samples in the set; must be positive.
        seed: run seed.
        shuffle: False keeps the natural order in every epoch.
    """

    length: int
    seed: int
    shuffle: bool = True
    _cached: tuple[int, NDArray[np.int64]] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.length <= 0:
            raise ValueError(f"expected at least one sample to order, got {self.length}")

    def permutation(self, epoch: int) -> NDArray[np.int64]:
        if self._cached is None or self._cached[0] != epoch:
            rng = np.random.default_rng(stream_seed("order", self.seed, epoch))
            order = rng.permutation(self.length) if self.shuffle else np.arange(self.length)
            self._cached = (epoch, order.astype(np.int64))
        return self._cached[1]

    def sample(self, position: int) -> tuple[int, int]:
        """(epoch, sample index) at a position of the endless sequence."""
        epoch, within = divmod(position, self.length)
        return epoch, int(self.permutation(epoch)[within])

    def sample_seed(self, epoch: int, index: int) -> int:
        return stream_seed("sample", self.seed, epoch, index)


def seed_everything(seed: int) -> None:
    """Seed torch's global generator before weights are initialised; data and masks have generators of their own."""
    torch.manual_seed(stream_seed("weights", seed))
