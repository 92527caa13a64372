"""The ops of the masked implicit GEMM: schemas, fake kernels, gradients, and the plans that a kernel map keeps."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.sparse.maps import KernelMap

MAX_VOLUME = 63  # offsets are bits of a non-negative int64
SPLIT_VOLUME = 16  # with fewer offsets there is nothing worth halving
MASK_ROWS = 16
Split = Literal["auto", "never", "always"]
CHOICES: dict[Split, int] = {"auto": 0, "never": 1, "always": 2}


def _plan(table: Tensor, groups: int, choice: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from suite3d.ops.sparse.implicit_gemm import launch

    return launch.plan(table, groups, choice)


def _pairs(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from suite3d.ops.sparse.implicit_gemm import launch

    return launch.pairs(table)


def _convolve(
    feats: Tensor, weight: Tensor, bias: Tensor | None, plan: list[Tensor], back: list[Tensor], pairs: list[Tensor], mirrored: bool, tf32: bool
) -> Tensor:
    from suite3d.ops.sparse.implicit_gemm import launch

    return launch.by_rows(feats, weight, bias, plan, transposed=False, reversed_offsets=False, tf32=tf32)


def _input_grad(grad: Tensor, weight: Tensor, plan: list[Tensor], mirrored: bool, tf32: bool) -> Tensor:
    from suite3d.ops.sparse.implicit_gemm import launch

    return launch.by_rows(grad, weight, None, plan, transposed=True, reversed_offsets=mirrored, tf32=tf32)


def _weight_grad(feats: Tensor, grad: Tensor, pairs: list[Tensor], dtype: torch.dtype, tf32: bool) -> Tensor:
    from suite3d.ops.sparse.implicit_gemm import launch

    return launch.weight_grad(feats, grad, pairs, dtype=dtype, tf32=tf32)


def _fake_plan(table: Tensor, groups: int, choice: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    outputs = table.shape[1]
    masks = table.new_empty(groups, (outputs + MASK_ROWS - 1) // MASK_ROWS, dtype=torch.int64)
    return table.new_empty(groups, outputs), masks, torch.empty_like(table), table.new_empty(1)


def _fake_pairs(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(table), torch.empty_like(table), table.new_empty(table.shape[0])


def _fake_convolve(
    feats: Tensor, weight: Tensor, bias: Tensor | None, plan: list[Tensor], back: list[Tensor], pairs: list[Tensor], mirrored: bool, tf32: bool
) -> Tensor:
    return feats.new_empty(plan[0].shape[1], weight.shape[0])


def _fake_input_grad(grad: Tensor, weight: Tensor, plan: list[Tensor], mirrored: bool, tf32: bool) -> Tensor:
    return grad.new_empty(plan[0].shape[1], weight.shape[2])


def _fake_weight_grad(feats: Tensor, grad: Tensor, pairs: list[Tensor], dtype: torch.dtype, tf32: bool) -> Tensor:
    return feats.new_empty(grad.shape[1], pairs[0].shape[0], feats.shape[1], dtype=dtype)


library.define("implicit_gemm_plan(Tensor table, int groups, int choice) -> (Tensor, Tensor, Tensor, Tensor)", _fake_plan)
library.define("implicit_gemm_pairs(Tensor table) -> (Tensor, Tensor, Tensor)", _fake_pairs)
library.define(
    "implicit_gemm(Tensor feats, Tensor weight, Tensor? bias, Tensor[] plan, Tensor[] back, Tensor[] pairs, bool mirrored, bool tf32) -> Tensor",
    _fake_convolve,
)
library.define("implicit_gemm_input_grad(Tensor grad, Tensor weight, Tensor[] plan, bool mirrored, bool tf32) -> Tensor", _fake_input_grad)
library.define("implicit_gemm_weight_grad(Tensor feats, Tensor grad, Tensor[] pairs, ScalarType dtype, bool tf32) -> Tensor", _fake_weight_grad)
for _key in ("CUDA", "CPU"):  # on the CPU in triton's interpreter
    library.schemas.impl("implicit_gemm_plan", _plan, _key)
    library.schemas.impl("implicit_gemm_pairs", _pairs, _key)
    library.schemas.impl("implicit_gemm", _convolve, _key)
    library.schemas.impl("implicit_gemm_input_grad", _input_grad, _key)
    library.schemas.impl("implicit_gemm_weight_grad", _weight_grad, _key)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, weight, bias, plan, back, pairs, ctx.mirrored, ctx.tf32 = inputs
    ctx.bias_dtype = None if bias is None else bias.dtype
    ctx.no_gradients = [[None] * len(listed) for listed in (plan, back, pairs)]
    ctx.save_for_backward(feats, weight, *back, *pairs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    feats, weight, *kept = ctx.saved_tensors
    planned = len(ctx.no_gradients[1])
    back, pairs = kept[:planned], kept[planned:]
    wants = ctx.needs_input_grad
    run = torch.ops.suite3d
    grad_feats = run.implicit_gemm_input_grad(grad, weight, back, ctx.mirrored, ctx.tf32) if wants[0] else None
    grad_weight = run.implicit_gemm_weight_grad(feats, grad, pairs, weight.dtype, ctx.tf32) if wants[1] else None
    grad_bias = grad.sum(0, dtype=torch.float32).to(ctx.bias_dtype) if wants[2] else None
    return grad_feats, grad_weight, grad_bias, *ctx.no_gradients, None, None


torch.library.register_autograd("suite3d::implicit_gemm", _backward, setup_context=_save, lib=library.schemas)


def make_plan(table: Tensor, *, split: Split = "auto") -> list[Tensor]:
    """Order in which the kernels go through the rows of a map.

    Nothing waits for the device: under ``"auto"`` it is decided there whether the offsets are halved (fewer than 8 neighbours an output).

    Args:
        table: ``(K, V)`` int32 rows, -1 for none, K at most 63.
        split: halve the offsets or not; with fewer than 16 they never are.

    Returns:
        For G = 1 order, or 2 where the offsets can be halved: ``(G, V)`` int32 orders, ``(G, V / 16 rounded up)`` int64 offsets that any of 16
        rows in a row has, as bits, ``(K, V)`` int32 the table in its order, and ``(1,)`` int32 whether the offsets are halved, at ``K // 2``.
    """
    halves = split != "never" and table.shape[0] >= SPLIT_VOLUME
    return list(torch.ops.suite3d.implicit_gemm_plan(table, 2 if halves else 1, CHOICES[split]))


def list_pairs(table: Tensor) -> list[Tensor]:
    """Pairs of a map, offset by offset in the order of the outputs.

    Returns:
        ``(K, V)`` int32 input rows and output rows, of which the first ``counts[k]`` are pairs of offset k, and ``(K,)`` int32 counts.
    """
    return list(torch.ops.suite3d.implicit_gemm_pairs(table))


def convolve(feats: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: KernelMap, *, transposed: bool, tf32: bool) -> Tensor:
    """What ``sparse_conv`` computes, on checked arguments; plans and pairs are made once for a map and kept on it.

    A tile multiplies zeros where some of its rows lack an offset: a weight that is not finite makes all outputs of the tile NaN. The first call
    for each number of channels compiles the kernels, about a second each, and Triton keeps them on disk.

    Args:
        feats: ``(V_in, C_in)`` float16, bfloat16 or float32.
        weight: ``(C_out, K, C_in)`` of any floating dtype; its gradient is summed in float32 and then cast to that dtype.
        bias: ``(C_out,)`` or None.
        kernel_map: at most 63 offsets.
        transposed: run the map backwards; a mirrored one cannot be (it is its own inverse with the weight's offsets reversed).
        tf32: round float32 to TF32 for the tensor cores.

    Returns:
        ``(V_out, C_out)`` in the dtype of ``feats``.
    """
    assert not (transposed and kernel_map.mirrored)
    there, back = ("backward", "forward") if transposed else ("forward", "backward")
    backward: list[Tensor] = []
    pairs: list[Tensor] = []
    if torch.is_grad_enabled() and feats.requires_grad:
        backward = _kept_plan(kernel_map, "forward" if kernel_map.mirrored else back)
    if torch.is_grad_enabled() and weight.requires_grad:
        if "pairs" not in kernel_map.plans:
            kernel_map.plans["pairs"] = list_pairs(kernel_map.forward)
        sources, targets, counts = kernel_map.plans["pairs"]
        pairs = [targets, sources, counts] if transposed else [sources, targets, counts]
    found: Tensor = torch.ops.suite3d.implicit_gemm(feats, weight, bias, _kept_plan(kernel_map, there), backward, pairs, kernel_map.mirrored, tf32)
    return found


def _kept_plan(kernel_map: KernelMap, direction: str) -> list[Tensor]:
    if direction not in kernel_map.plans:
        kernel_map.plans[direction] = make_plan(kernel_map.forward if direction == "forward" else kernel_map.backward)
    plan: list[Tensor] = kernel_map.plans[direction]
    return plan
