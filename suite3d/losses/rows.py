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
    """Both views of this rank's N samples as anchors, against both views of all M samples.

    Attributes:
        anchors: ``(2N, D)`` unit features over the temperature, first all first views, then all second ones.
        positive: ``(2N,)`` ``z.z' / t`` of each anchor with the other view of its sample.
        views: ``(2M, D)`` unit features of all ranks, in the same order.
        own: ``(2N,)`` sample of each anchor, ``sample`` ``(2M,)`` of each view.
        itself: ``(2N,)`` row of each anchor among the views.
        samples: M.
    """

    anchors: Tensor
    positive: Tensor
    views: Tensor
    own: Tensor
    sample: Tensor
    itself: Tensor
    samples: int


def two_views(name: str, first: Tensor, second: Tensor, *, temperature: float) -> TwoViews:
    """Anchors and what they are compared with, for two views ``(N, D)`` of a batch; N may differ between ranks."""
    check_pairs(name, first, second)
    own, samples = own_rows(first)
    check_samples(name, samples)
    first, second = unit(first), unit(second)
    anchors = torch.cat((first, second)) / temperature
    return TwoViews(
        anchors=anchors,
        positive=(anchors * torch.cat((second, first))).sum(dim=1),
        views=torch.cat((gather_rows(first), gather_rows(second))),
        own=own.repeat(2),
        sample=torch.arange(samples, device=own.device).repeat(2),
        itself=torch.cat((own, own + samples)),
        samples=samples,
    )
