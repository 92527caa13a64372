"""The denominator of contrastive losses, block by block: no (queries x keys) matrix is ever stored."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from suite3d.losses.rows import dots

_CPU_BLOCK, _GPU_BLOCK = 2**20, 2**25
"""Elements of a block of logits: on a CPU about as many as its cache holds, elsewhere enough to fill the device."""


def log_partition(queries: Tensor, keys: Tensor, *, leave_out: tuple[Tensor, Tensor] | None = None, own: Tensor | None = None) -> Tensor:
    """``(N,)`` ``log sum_j exp(q_i.k_j)``; a temperature goes into the queries beforehand.

    The logits of a few rows at a time are made, summed and thrown away, and made once more in the backward pass. That is one matrix
    product more than keeping them and spares all traffic of N x M matrices; memory is that of one block.

    Args:
        queries: ``(N, D)``, float32 or float64.
        keys: ``(M, D)``, the same dtype.
        leave_out: ``(N,)`` and ``(M,)`` int64 groups: keys of the query's own group do not count; negative = in no group.
        own: ``(N,)`` int64 key of each query that counts although it is of the query's group.

    Returns:
        ``(N,)`` in the dtype of the queries; -inf for a query whose keys are all left out (its gradient is 0). Once differentiable.
    """
    query_groups, key_groups = (None, None) if leave_out is None else leave_out
    result: Tensor = _LogPartition.apply(queries, keys, query_groups, key_groups, own)
    return result


class _LogPartition(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, query_groups: Tensor | None, key_groups: Tensor | None, own: Tensor | None) -> Tensor:
        ctx.groups = (query_groups, key_groups, own)
        result = queries.new_empty(len(queries))
        for rows in _blocks(queries, keys):
            result[rows] = _logits(queries, keys, ctx.groups, rows).logsumexp(dim=1)
        ctx.save_for_backward(queries, keys, result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, result = ctx.saved_tensors
        shift = torch.where(result.isfinite(), result, 0.0)
        query_gradient, key_gradient = torch.empty_like(queries), torch.zeros_like(keys)
        for rows in _blocks(queries, keys):
            share = _logits(queries, keys, ctx.groups, rows).sub_(shift[rows, None]).exp_()  # [rows, M] softmax
            share *= gradient[rows, None]
            query_gradient[rows] = dots(share, keys.T)
            if ctx.needs_input_grad[1]:
                key_gradient.addmm_(share.T, queries[rows])
        return query_gradient, key_gradient if ctx.needs_input_grad[1] else None, None, None, None


def _logits(queries: Tensor, keys: Tensor, groups: tuple[Tensor | None, Tensor | None, Tensor | None], rows: slice) -> Tensor:
    logits = dots(queries[rows], keys)
    query_groups, key_groups, own = groups
    if query_groups is not None and key_groups is not None:
        mine = query_groups[rows, None]
        hidden = (mine == key_groups) & (mine >= 0)
        if own is not None:
            hidden.scatter_(1, own[rows, None], False)
        logits.masked_fill_(hidden, -torch.inf)
    return logits


def _blocks(queries: Tensor, keys: Tensor) -> list[slice]:
    elements = _CPU_BLOCK if queries.device.type == "cpu" else _GPU_BLOCK
    size = max(64, elements // max(1, len(keys)))
    return [slice(first, first + size) for first in range(0, len(queries), size)]
