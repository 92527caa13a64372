"""Reductions of rows into rows: sum, mean, max, with gradients."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from suite3d.ops import library, reference
from suite3d.ops.checks import expect, expect_same_device, expect_tensor

_COMPILED = (torch.float32, torch.float64)
_FLOATING = (*_COMPILED, torch.float16, torch.bfloat16)


def _fake_sum(values: Tensor, index: Tensor, size: int, mean: bool) -> tuple[Tensor, Tensor]:
    return values.new_empty(size, values.shape[1]), index.new_empty(size)


def _fake_max(values: Tensor, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return values.new_empty(size, values.shape[1]), index.new_empty(size, values.shape[1])


library.define("scatter_sum(Tensor values, Tensor index, SymInt size, bool mean) -> (Tensor, Tensor)", _fake_sum)
library.define("scatter_max(Tensor values, Tensor index, SymInt size) -> (Tensor, Tensor)", _fake_max)


def _save_sum(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, index, _, ctx.mean = inputs
    ctx.save_for_backward(index, output[1])
    ctx.mark_non_differentiable(output[1])


def _sum_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None, None]:
    index, counts = ctx.saved_tensors
    if ctx.mean:
        grad = grad / counts.clamp(min=1).to(grad.dtype).unsqueeze(1)
    return grad.index_select(0, index), None, None, None


def _save_max(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.rows = inputs[0].shape[0]
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _max_backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor, None, None]:
    (first,) = ctx.saved_tensors
    padded = grad.new_zeros(ctx.rows + 1, grad.shape[1])  # the last row takes what belongs to no row
    padded = padded.scatter(0, torch.where(first < 0, ctx.rows, first), grad)
    return padded[: ctx.rows], None, None


torch.library.register_autograd("suite3d::scatter_sum", _sum_backward, setup_context=_save_sum, lib=library.schemas)
torch.library.register_autograd("suite3d::scatter_max", _max_backward, setup_context=_save_max, lib=library.schemas)


def _check(values: Tensor, index: Tensor, size: int) -> None:
    expect_tensor(values, "values", (None, None), _FLOATING)
    expect_tensor(index, "index", (None,), (torch.int64,))
    expect(index.shape[0] == values.shape[0], f"index: expected one entry for each of the {values.shape[0]} rows of values, got {index.shape[0]}")
    expect(size >= 0, f"size: expected >= 0, got {size}")
    expect_same_device(values=values, index=index)


def _check_values(index: Tensor, size: int) -> None:
    if index.device.type == "cpu" and not torch.compiler.is_compiling() and len(index) > 0:
        low, high = (int(v) for v in index.aminmax())
        expect(0 <= low and high < size, f"index: expected values in [0, {size}), got {low} to {high}")


def _add(values: Tensor, index: Tensor, size: int, *, mean: bool) -> Tensor:
    _check(values, index, size)
    if values.dtype not in _COMPILED:
        return _add(values.float(), index, size, mean=mean).to(values.dtype)
    kernel = library.kernel("scatter_sum", values.device.type)
    explain = functools.partial(_check_values, index, size)
    if kernel is None:
        explain()
        return (reference.scatter_mean if mean else reference.scatter_sum)(values, index, size)
    return library.run(kernel, (values, index, size, mean), explain)[0]


def scatter_sum(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Sum of the rows of each group: ``out[j] = sum of values[i] where index[i] == j``.

    Rows are added in their order, so the result does not depend on the number of threads. float16 and bfloat16 are added in
    float32 and rounded once.

    Args:
        values: ``(P, F)`` floating.
        index: ``(P,)`` int64 in ``[0, size)``; sorted is fastest. Checked on the CPU, not on CUDA (no device sync).
        size: number of output rows.

    Returns:
        ``(size, F)``; rows that nothing falls into are 0. Differentiable in ``values``.
    """
    return _add(values, index, size, mean=False)


def scatter_mean(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Mean of the rows of each group; see :func:`scatter_sum`. Groups without a row are 0."""
    return _add(values, index, size, mean=True)


def scatter_max(values: Tensor, index: Tensor, size: int) -> Tensor:
    """Column-wise maximum of the rows of each group; see :func:`scatter_sum`.

    Groups without a row are 0; NaN wins over numbers. The gradient goes to the first row that attains the maximum.
    """
    _check(values, index, size)
    if values.dtype not in _COMPILED:
        return scatter_max(values.float(), index, size).to(values.dtype)
    kernel = library.kernel("scatter_max", values.device.type)
    explain = functools.partial(_check_values, index, size)
    if kernel is None:
        explain()
        return reference.scatter_max(values, index, size)[0]
    return library.run(kernel, (values, index, size), explain)[0]
