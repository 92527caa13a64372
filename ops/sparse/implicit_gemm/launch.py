"""Launches of the Triton kernels: allocation, grids and tile sizes. Needs triton; ``ops.py`` imports it with the first call."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from suite3d.ops.sparse.implicit_gemm import kernels
from suite3d.ops.sparse.implicit_gemm.tiles import Precision, Tile, choose

ROWS_PER_MASK = int(kernels.ROWS_PER_MASK.value)
BLOCK = 256  # rows of a program in the kernels that make plans
PARTIAL_BYTES = 64 * 2**20  # most memory for the partial sums of a weight gradient


def interpreted() -> bool:
    """Whether triton's interpreter runs the kernels (``TRITON_INTERPRET=1`` was set when they were imported), on CPU tensors too."""
    return not isinstance(kernels.convolve_kernel, triton.runtime.JITFunction)


def check_device(tensor: Tensor) -> None:
    """RuntimeError for a tensor where the kernels cannot run."""
    if tensor.device.type != "cuda" and not interpreted():
        raise RuntimeError(f"masked implicit GEMM: expected CUDA tensors, or triton's interpreter (TRITON_INTERPRET=1), got {tensor.device}")


def plan(table: Tensor, groups: int, choice: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See ``ops.plan``."""
    check_device(table)
    table = table.contiguous()
    volume, outputs = table.shape
    tiles = triton.cdiv(outputs, ROWS_PER_MASK)
    order, arranged = table.new_empty(groups, outputs), torch.empty_like(table)
    masks = table.new_empty(groups, tiles, dtype=torch.int64)
    split = table.new_zeros(1)
    if outputs == 0:
        return order, masks, arranged, split
    row_masks, pairs = table.new_empty(outputs, dtype=torch.int64), table.new_zeros(volume)
    cut, grid = volume // 2, (triton.cdiv(outputs, BLOCK),)
    low = table.new_empty(outputs, dtype=_key_type(volume))
    high = low if groups == 1 else table.new_empty(outputs, dtype=_key_type(volume - cut))
    with _device(table):
        kernels.row_mask_kernel[grid](table, row_masks, pairs, outputs, VOLUME=volume, BLOCK=BLOCK)
        kernels.sort_key_kernel[grid](
            *(row_masks, pairs, low, high, split, outputs), CHOICE=choice if groups == 2 else 1, VOLUME=volume, CUT=cut, BLOCK=BLOCK
        )
        low_order = torch.sort(low, stable=True).indices
        high_order = low_order if groups == 1 else torch.sort(high, stable=True).indices
        kernels.arrange_kernel[grid](
            *(table, low_order, high_order, split, order, masks, arranged, outputs, tiles), VOLUME=volume, GROUPS=groups, CUT=cut, BLOCK=BLOCK
        )
    return order, masks, arranged, split


def pairs(table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """See ``ops.pairs``."""
    check_device(table)
    table = table.contiguous()
    volume, outputs = table.shape
    sources, targets = torch.empty_like(table), torch.empty_like(table)
    if outputs == 0:
        return sources, targets, table.new_zeros(volume)
    blocks = triton.cdiv(outputs, BLOCK)
    counts = table.new_empty(volume, blocks)
    with _device(table):
        kernels.count_pairs_kernel[blocks, volume](table, counts, outputs, blocks, BLOCK=BLOCK)
        ends = counts.cumsum(1, dtype=torch.int32)
        kernels.list_pairs_kernel[blocks, volume](table, counts, ends, sources, targets, outputs, blocks, BLOCK=BLOCK)
    return sources, targets, ends[:, -1].contiguous()


def by_rows(
    feats: Tensor, weight: Tensor, bias: Tensor | None, plan: list[Tensor], *, transposed: bool, reversed_offsets: bool, tf32: bool
) -> Tensor:
    """A convolution on the planned map: ``weight`` (C_out, K, C_in) as it is, or from C_out to C_in channels where ``transposed``."""
    check_device(feats)
    order, masks, arranged, split = plan
    feats, weight = feats.contiguous(), weight.to(feats.dtype).contiguous()
    volume, depth, width = weight.shape[1], feats.shape[1], weight.shape[2 if transposed else 0]
    strides = (weight.shape[2], volume * weight.shape[2], 1) if transposed else (weight.shape[2], 1, volume * weight.shape[2])
    groups, outputs = order.shape
    out = feats.new_empty(outputs, width)
    if outputs == 0 or width == 0:
        return out
    precision = _precision(feats.dtype, tf32)
    tile = choose("rows", precision, depth=depth, width=width, volume=volume)
    partial = out if groups == 1 or out.dtype == torch.float32 else out.new_empty(out.shape, dtype=torch.float32)
    grid = (triton.cdiv(outputs, tile.rows) * triton.cdiv(width, tile.columns),)
    with _device(feats):
        for group in range(groups):
            kernels.convolve_kernel[grid](
                *(feats, weight, bias if bias is not None else feats, arranged, order, masks, split, partial, out),
                *(outputs, masks.shape[1], depth, width, *strides),
                VOLUME=volume,
                GROUPS=groups,
                GROUP=group,
                REVERSED=reversed_offsets,
                HAS_BIAS=bias is not None,
                EVEN=depth % tile.depth == 0 and width % tile.columns == 0,
                **_product(precision, tile),
            )
    return out


def weight_grad(feats: Tensor, grad: Tensor, listed: list[Tensor], *, dtype: torch.dtype, tf32: bool) -> Tensor:
    """``(C_out, K, C_in)`` sum over the pairs of ``grad[target] feats[source]``, summed in float32, then cast to ``dtype``."""
    check_device(feats)
    sources, targets, counts = listed
    feats, grad = feats.contiguous(), grad.contiguous()
    (volume, rows), depth, width = sources.shape, feats.shape[1], grad.shape[1]
    out = feats.new_empty(width, volume, depth, dtype=dtype)
    if out.numel() == 0:
        return out
    precision = _precision(feats.dtype, tf32)
    tile = choose("weight", precision, depth=depth, width=width, volume=volume)
    blocks = triton.cdiv(width, tile.columns) * triton.cdiv(depth, tile.depth)
    per_piece = rows_per_piece(rows, volume=volume, blocks=blocks, step=tile.rows, size=out.numel())
    pieces = max(1, triton.cdiv(rows, per_piece))
    partial = out if pieces == 1 else feats.new_empty(pieces, *out.shape, dtype=torch.float32)
    with _device(feats):
        kernels.weight_grad_kernel[blocks, volume, pieces](
            *(feats, grad, sources, targets, counts, partial, rows, per_piece, depth, width),
            VOLUME=volume,
            **_product(precision, tile),
        )
        if pieces > 1:
            grid = (triton.cdiv(width * depth, BLOCK), volume)
            kernels.sum_pieces_kernel[grid](partial, counts, out, per_piece, depth, width, VOLUME=volume, BLOCK=BLOCK)
    return out


def rows_per_piece(rows: int, *, volume: int, blocks: int, step: int, size: int) -> int:
    """Pairs that one program of the weight gradient adds up, by sizes alone, so that every device forms the same sums.

    Some 4,096 programs if every output had every neighbour (a scan fills about a quarter), at least 256 pairs each, and partial sums of at
    most 64 MiB.
    """
    pieces = max(1, min(triton.cdiv(4096, volume * blocks), PARTIAL_BYTES // (4 * size), triton.cdiv(rows, 256)))
    return max(1, triton.cdiv(triton.cdiv(rows, pieces), step)) * step


def _key_type(bits: int) -> torch.dtype:
    """The narrowest integer that holds so many bits and no sign: a radix sort takes time with the width."""
    return torch.int16 if bits < 16 else torch.int32 if bits < 32 else torch.int64


def _precision(dtype: torch.dtype, tf32: bool) -> Precision:
    if dtype != torch.float32:
        return "half"
    return "tf32" if tf32 else "ieee"


def _product(precision: Precision, tile: Tile) -> dict[str, Any]:
    """Arguments of a kernel that say how it multiplies, and in which blocks."""
    how = {"PRECISION": "ieee" if precision == "half" else precision, "UPCAST": precision == "half" and interpreted()}
    return {**how, "ROWS": tile.rows, "COLUMNS": tile.columns, "DEPTH": tile.depth, "num_warps": tile.warps, "num_stages": tile.stages}


def _device(tensor: Tensor) -> Any:
    """Triton launches on the current device: make it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else torch.cuda.device(-1)
