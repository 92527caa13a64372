"""Rows and means over all ranks, with gradients: what makes a loss on W ranks the loss of the one-process global batch.

DistributedDataParallel averages the ranks' gradients. With every rank's loss the sum over its own rows times W / (rows of all
ranks), as :func:`mean_over_ranks` returns it, that average is exactly the gradient of the mean over the global batch, also when
the ranks hold different numbers of rows. Every rank must call these functions equally often; without a process group they
communicate nothing.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum of a tensor over the ranks, without a gradient."""
    value = value.detach().clone()
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def mean_over_ranks(total: Tensor, count: Tensor | int) -> Tensor:
    """Scalar ``W * total / (sum of count over ranks)``: its average over ranks is the mean over the global batch.

    ``total`` is the sum over this rank's rows (with gradient), ``count`` how many rows that were. With no row anywhere the
    result is 0, still attached to ``total``.
    """
    rows = sum_over_ranks(torch.as_tensor(count, device=total.device, dtype=torch.float32))
    return total * world_size() / rows.clamp(min=1.0)


def gather_rows(rows: Tensor) -> Tensor:
    """``(N_r, ...)`` of each rank -> ``(sum N_r, ...)`` on every rank, in rank order; the numbers of rows may differ.

    The gradient of this rank's rows is the sum of the gradients of all ranks' copies of them.
    """
    if world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    gathered: Tensor = _GatherRows.apply(rows, [int(n) for n in counts])
    return gathered


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        longest = max(counts)
        padded = rows.new_zeros(longest, *rows.shape[1:])
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        first = sum(ctx.counts[: rank()])
        return total[first : first + ctx.counts[rank()]], None
