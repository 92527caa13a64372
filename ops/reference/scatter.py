"""Plain torch scatter reductions over rows."""

from __future__ import annotations

import torch
from torch import Tensor


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """``out[j] = sum of values[i] with index[i] == j``: ``(P, F), (P,)`` -> ``(size, F)``."""
    return values.new_zeros(size, values.shape[1]).index_add(0, index, values)


def scatter_mean(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Mean instead of sum; rows without a value are 0."""
    counts = torch.bincount(index, minlength=size).clamp(min=1)
    return scatter_sum(values, index, size) / counts.to(values.dtype).unsqueeze(1)


def scatter_max(values: Tensor, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Maximum, and the first row that attains it (-1 for rows without a value, whose maximum is given as 0). NaN wins."""
    if len(values) == 0:
        nothing = values.sum(dim=0, keepdim=True).expand(size, -1)  # zeros that stay in the autograd graph
        return nothing, index.new_full((size, values.shape[1]), -1)
    columns = index.unsqueeze(1).expand_as(values)
    highest = values.new_full((size, values.shape[1]), -torch.inf).scatter_reduce(0, columns, values.detach(), "amax")
    attains = (values == highest[index]) | values.isnan()
    rows = torch.arange(len(values), device=values.device).unsqueeze(1).expand_as(values)
    rows = torch.where(attains, rows, len(values))
    first = index.new_full((size, values.shape[1]), len(values)).scatter_reduce(0, columns, rows, "amin")
    empty = first == len(values)
    maximum = values.gather(0, first.clamp(max=len(values) - 1)).masked_fill(empty, 0)
    return maximum, first.masked_fill(empty, -1)
