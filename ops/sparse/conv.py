"""Sparse convolution on a kernel map, with gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from suite3d.ops import library, reference
from suite3d.ops.checks import expect, expect_same_device
from suite3d.ops.sparse import backend, implicit_gemm
from suite3d.ops.sparse.maps import KernelMap


def _fake_conv(feats: Tensor, weight: Tensor, bias: Tensor | None, forward_map: Tensor, backward_map: Tensor, mirrored: bool) -> Tensor:
    return feats.new_empty(forward_map.shape[1], weight.shape[0])


def _fake_input_grad(grad: Tensor, weight: Tensor, backward_map: Tensor, mirrored: bool) -> Tensor:
    return grad.new_empty(backward_map.shape[1], weight.shape[2])


def _fake_weight_grad(feats: Tensor, grad: Tensor, forward_map: Tensor) -> Tensor:
    return feats.new_empty(grad.shape[1], forward_map.shape[0], feats.shape[1])


library.define("sparse_conv(Tensor feats, Tensor weight, Tensor? bias, Tensor forward_map, Tensor backward_map, bool mirrored) -> Tensor", _fake_conv)
library.define("sparse_conv_input_grad(Tensor grad, Tensor weight, Tensor backward_map, bool mirrored) -> Tensor", _fake_input_grad)
library.define("sparse_conv_weight_grad(Tensor feats, Tensor grad, Tensor forward_map) -> Tensor", _fake_weight_grad)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    feats, weight, bias, forward_map, backward_map, ctx.mirrored = inputs
    ctx.save_for_backward(feats, weight, forward_map, backward_map)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    feats, weight, forward_map, backward_map = ctx.saved_tensors
    grad = grad.contiguous()
    wants = ctx.needs_input_grad
    grad_feats = torch.ops.suite3d.sparse_conv_input_grad(grad, weight, backward_map, ctx.mirrored) if wants[0] else None
    grad_weight = torch.ops.suite3d.sparse_conv_weight_grad(feats, grad, forward_map) if wants[1] else None
    grad_bias = grad.sum(0) if wants[2] else None
    return grad_feats, grad_weight, grad_bias, None, None, None


torch.library.register_autograd("suite3d::sparse_conv", _backward, setup_context=_save, lib=library.schemas)


def sparse_conv(feats: Tensor, weight: Tensor, bias: Tensor | None, kernel_map: KernelMap, *, transposed: bool = False) -> Tensor:
    """``out[o] = bias + sum over offsets k of weight[:, k] feats[map[k, o]]``, cross-correlation as in ``torch.nn.Conv3d``.

    Each output row is added up by one thread in one order: the result does not depend on the number of threads. The features decide the dtype,
    under autocast too. On CUDA half precision runs on the tensor cores where triton is installed (:func:`set_backend` tells when and chooses
    otherwise): products of float16 or bfloat16, sums in float32, and the gradient of a float32 weight is never rounded to half. float32 is
    computed as float32 unless TF32 is allowed. Elsewhere half precision is computed in float32 with the weight cast to that.

    Args:
        feats: ``(V_in, C_in)`` floating.
        weight: ``(C_out, kz, ky, kx, C_in)``.
        bias: ``(C_out,)`` or None.
        kernel_map: from :func:`submanifold_map` or :func:`strided_map`.
        transposed: run the map backwards, from its outputs to its inputs (inverse convolution).

    Returns:
        ``(V_out, C_out)``, differentiable in feats, weight and bias.
    """
    forward, backward = (kernel_map.backward, kernel_map.forward) if transposed else (kernel_map.forward, kernel_map.backward)
    expect(weight.dim() == 5, f"weight: expected (C_out, kz, ky, kx, C_in), got {tuple(weight.shape)}")
    volume = weight.shape[1] * weight.shape[2] * weight.shape[3]
    expect(volume == forward.shape[0], f"weight: expected {forward.shape[0]} kernel offsets as in the map, got {volume}")
    if feats.dim() != 2 or feats.shape != (backward.shape[1], weight.shape[4]):  # no message otherwise: torch.compile may not know the sizes
        raise ValueError(f"feats: expected ({backward.shape[1]}, {weight.shape[4]}) by the map and the weight, got {tuple(feats.shape)}")
    expect_same_device(feats=feats, weight=weight, map=forward)
    if transposed and kernel_map.mirrored:  # the map is its own inverse, read with the offsets in reverse
        weight, transposed = weight.flip(1, 2, 3), False
    if backend.runs_triton(feats, volume):
        matrices = weight.reshape(weight.shape[0], volume, weight.shape[4])  # (C_out, K, C_in)
        return implicit_gemm.convolve(feats, matrices, bias, kernel_map, transposed=transposed, tf32=backend.tf32_allowed())
    work = feats.float() if feats.dtype in (torch.float16, torch.bfloat16) else feats
    weight = weight.reshape(weight.shape[0], volume, weight.shape[4]).to(work.dtype)  # (C_out, K, C_in)
    bias = None if bias is None else bias.to(work.dtype)
    kernel = library.kernel("sparse_conv", feats.device.type) if work.dtype == torch.float32 else None
    if kernel is None:
        return reference.sparse_conv(work, weight, bias, forward).to(feats.dtype)
    return kernel(work, weight, bias, forward, backward, kernel_map.mirrored).to(feats.dtype)
