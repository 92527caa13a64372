"""What losses over the global batch do before their formula: check, promote, scale to unit length, know one's own rows, total over ranks."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import gather_rows, rank, world_size


def full_precision(x: Tensor) -> Tensor:
    """At least float32; float64 stays."""
    return x if x.dtype == torch.float64 else x.float()


def unit(x: Tensor) -> Tensor:
    """Scaled to unit length along the last axis, in at least float32."""
    return F.normalize(full_precision(x), dim=-1)


def dots(a: Tensor, b: Tensor) -> Tensor:
    """``(..., N, D)``, ``(..., M, D)`` -> ``(..., N, M)`` inner products, under autocast too in the precision of the arguments."""
    with torch.autocast(a.device.type, enabled=False):
        return a @ b.transpose(-1, -2)


def einsum(equation: str, *tensors: Tensor) -> Tensor:
    """:func:`torch.einsum`, under autocast too in the precision of the arguments."""
    with torch.autocast(tensors[0].device.type, enabled=False):
        return torch.einsum(equation, *tensors)


def own_rows(x: Tensor) -> tuple[Tensor, int]:
    """Where this rank's rows are among the gathered rows of all ranks, ``(N,)`` int64, and how many rows there are in all."""
    counts = gather_rows(torch.tensor([len(x)], device=x.device))
    return torch.arange(len(x), device=x.device) + int(counts[: rank()].sum()), int(counts.sum())


def total_over_ranks(x: Tensor) -> Tensor:
    """Sum of a tensor over the ranks, with gradient.

    A loss computed from such totals is the same number on every rank, and the average of the ranks' gradients is the gradient of the
    one-process global batch (see :mod:`suite3d.losses.gather`).
    """
    if world_size() == 1:
        return x
    total: Tensor = _Total.apply(x)
    return total


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.contiguous().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def check_pairs(name: str, first: Tensor, second: Tensor) -> None:
    """Raise ValueError unless both are ``(N, D)`` of one shape."""
    if first.shape != second.shape or first.ndim != 2:
        raise ValueError(f"{name} expected two views of one shape (N, D), got {tuple(first.shape)} and {tuple(second.shape)}")


def check_samples(name: str, samples: int) -> None:
    """Raise ValueError where there is nothing to contrast with."""
    if samples < 2:
        raise ValueError(f"{name} expected at least two samples, since the others are the negatives, got {samples}")


class TwoViews(NamedTuple):
    """Similarities ``z.z' / t`` of both views of this rank's N samples with both views of all M samples.

    Attributes:
        positive: ``(2N,)`` of each view with the other view of its sample; first all first views, then all second ones.
        others: ``(2N, 2M)`` with all views.
        own: ``(2N, 2M)`` bool, True for the two views of the own sample, which are no negatives.
        samples: M.
    """

    positive: Tensor
    others: Tensor
    own: Tensor
    samples: int


def two_views(name: str, first: Tensor, second: Tensor, *, temperature: float) -> TwoViews:
    """Similarities within and across the two views ``(N, D)`` of a batch, of unit features; N may differ between ranks."""
    check_pairs(name, first, second)
    own, samples = own_rows(first)
    check_samples(name, samples)
    first, second = unit(first), unit(second)
    anchors = torch.cat((first, second)) / temperature  # [2N, D]; dividing here spares a matrix
    others = dots(anchors, torch.cat((gather_rows(first), gather_rows(second))))  # [2N, 2M]
    itself = own.repeat(2)[:, None] == torch.arange(samples, device=own.device).repeat(2)
    return TwoViews((first * second).sum(1).repeat(2) / temperature, others, itself, samples)
