"""From masks to gathers: index lists of constant length, so that no shape depends on the data and nothing waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor


def visible_indices(mask: Tensor, count: int | None = None) -> Tensor:
    """``(B, V)`` int64: for each sample the tokens that are not hidden, in increasing order.

    Args:
        mask: ``(B, N)`` bool, True = hidden, with the same number of hidden tokens in every row.
        count: V where it is known; it is then trusted, and nothing is read back from the device.

    Raises:
        ValueError: rows that hide different numbers of tokens (only looked for when ``count`` is None).
    """
    return _first(mask, count)


def hidden_indices(mask: Tensor, count: int | None = None) -> Tensor:
    """``(B, M)`` int64: as :func:`visible_indices`, of the hidden tokens."""
    return _first(~mask, count)


def padded_indices(chosen: Tensor, length: int | None = None) -> tuple[Tensor, Tensor]:
    """Index lists of unequal length, padded at the end instead of cut.

    Args:
        chosen: ``(B, N)`` bool, any number of tokens per row.
        length: L where it is known (a bound makes shapes static); None takes the longest row.

    Returns:
        ``(B, L)`` int64 indices, the chosen ones in increasing order, then 0; ``(B, L)`` bool, True where an entry is real.

    Raises:
        ValueError: a row with more than ``length`` chosen tokens.
    """
    counts = chosen.sum(dim=1)
    if length is None:
        length = int(counts.max())
    elif int(counts.max()) > length:
        raise ValueError(f"padded_indices expected at most {length} tokens per sample, got {int(counts.max())}")
    valid = torch.arange(length, device=chosen.device) < counts[:, None]
    order = (~chosen).to(torch.uint8).argsort(dim=1, stable=True)[:, :length]
    return torch.where(valid, order, 0), valid


def _first(hidden: Tensor, count: int | None) -> Tensor:
    if hidden.ndim != 2 or hidden.dtype != torch.bool:
        raise ValueError(f"expected a (B, N) bool mask, got {tuple(hidden.shape)} {hidden.dtype}")
    if count is None:
        counts = (~hidden).sum(dim=1)
        count = int(counts[0])
        if not bool((counts == count).all()):
            raise ValueError(f"every sample must have the same number of tokens, got {int(counts.min())} to {int(counts.max())}: use padded_indices")
    return hidden.to(torch.uint8).argsort(dim=1, stable=True)[:, :count]
