"""Random streams of a sample: one generator for each purpose, from nothing but the sample's seed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch

Generators = Sequence[torch.Generator]


def sub_generator(seed: int, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Generator of one named stream of a sample's randomness; different purposes or seeds give unrelated streams."""
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)


def generators_of(seeds: Sequence[int], purpose: str) -> list[torch.Generator]:
    """:func:`sub_generator` of every sample of a batch."""
    return [sub_generator(seed, purpose) for seed in seeds]


def hidden_count(tokens: int, ratio: float) -> int:
    """Tokens to hide out of ``tokens``: ``ratio * tokens`` rounded half up, but at least one hidden and one kept.

    A set of fewer than two tokens cannot be split; none of it is hidden.

    Raises:
        ValueError: a ratio that hides nothing (<= 0) or everything (>= 1).
    """
    if not 0.0 < ratio < 1.0:
        raise ValueError(f"mask ratio must lie strictly between 0 (hides nothing) and 1 (hides everything), got {ratio}")
    if tokens < 2:
        return 0
    return min(max(math.floor(ratio * tokens + 0.5), 1), tokens - 1)
