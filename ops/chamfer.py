"""Chamfer distance: nearest neighbours in both directions, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.geometry_checks import expect_clouds, expect_points
from suite3d.ops.reference import chamfer as reference

Result = tuple[Tensor, Tensor, Tensor, Tensor]


def _fake(a: Tensor, b: Tensor, a_offsets: Tensor, b_offsets: Tensor) -> Result:
    rows_a, rows_b = a.shape[0], b.shape[0]
    return a.new_empty(rows_a), b.new_empty(rows_b), a_offsets.new_empty(rows_a), b_offsets.new_empty(rows_b)


def _fake_backward(grad_ab: Tensor, grad_ba: Tensor, a: Tensor, b: Tensor, index_ab: Tensor, index_ba: Tensor) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), b.new_empty(b.shape)


library.define("chamfer(Tensor a, Tensor b, Tensor a_offsets, Tensor b_offsets) -> (Tensor, Tensor, Tensor, Tensor)", _fake)
library.define(
    "chamfer_backward(Tensor grad_ab, Tensor grad_ba, Tensor a, Tensor b, Tensor index_ab, Tensor index_ba) -> (Tensor, Tensor)", _fake_backward
)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Result) -> None:
    ctx.save_for_backward(inputs[0], inputs[1], output[2], output[3])
    ctx.mark_non_differentiable(output[2], output[3])


def _edges(query: Tensor, points: Tensor, index: Tensor, grad: Tensor) -> Tensor:
    """``2 g (q - p)`` of each row and its nearest point, 0 where there is none."""
    if points.shape[0] == 0:
        return torch.zeros_like(query)
    edge = 2 * grad[:, None] * (query - points[index.clamp(min=0)])
    return torch.where(index[:, None] >= 0, edge, 0.0)


def _backward(ctx: Any, grad_ab: Tensor, grad_ba: Tensor, _a: Tensor, _b: Tensor) -> tuple[Tensor, Tensor, None, None]:
    a, b, index_ab, index_ba = ctx.saved_tensors
    kernel = None if torch.is_grad_enabled() else library.kernel("chamfer_backward", a.device.type)
    if kernel is not None:
        return *kernel(grad_ab, grad_ba, a, b, index_ab, index_ba), None, None
    # Plain torch, which a second derivative can go through.
    edge_a, edge_b = _edges(a, b, index_ab, grad_ab), _edges(b, a, index_ba, grad_ba)
    grad_a = edge_a.index_add(0, index_ba.clamp(min=0), edge_b, alpha=-1) if a.shape[0] else edge_a
    grad_b = edge_b.index_add(0, index_ab.clamp(min=0), edge_a, alpha=-1) if b.shape[0] else edge_b
    return grad_a, grad_b, None, None


torch.library.register_autograd("suite3d::chamfer", _backward, setup_context=_save, lib=library.schemas)


def chamfer_distance(a: Tensor, b: Tensor, *, a_offsets: Tensor | None = None, b_offsets: Tensor | None = None) -> Result:
    """Squared distance of every point to the nearest point of the other cloud (Fan et al. 2017, eq. 1, before the sums).

    ``d2_ab.mean() + d2_ba.mean()`` is the Chamfer distance of one pair; square roots give its L1 form.

    Args:
        a: ``(N, 3)`` float32 (float64 too: slow, for gradient checks).
        b: ``(M, 3)`` of the same dtype.
        a_offsets, b_offsets: ``(B + 1,)`` int64 each: cloud i of ``a`` is compared with cloud i of ``b``. Neither: one pair.

    Returns:
        d2_ab: ``(N,)`` squared distances; infinity for a point that has no finite distance to the other cloud (empty cloud, NaN).
        d2_ba: ``(M,)``.
        index_ab: ``(N,)`` int64 global row of ``b``, the lowest among equals, -1 where there is none.
        index_ba: ``(M,)`` int64 global row of ``a``.
        The distances are differentiable in ``a`` and ``b`` (the pairing is held fixed, as everywhere in the literature).

    Raises:
        ValueError: wrong shape, dtype, device or offsets.
    """
    expect_points(a, "a", (torch.float32, torch.float64))
    expect_points(b, "b", (a.dtype,))
    a_offsets, b_offsets = expect_clouds(a, a_offsets, b, b_offsets, names=("a", "b"))
    kernel = library.kernel("chamfer", a.device.type) if a.dtype == torch.float32 else None
    return (kernel or reference.chamfer)(a, b, a_offsets, b_offsets)
