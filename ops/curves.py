"""Space-filling curves: positions of integer cells along the z-order and Hilbert curves, and the order they give."""

from __future__ import annotations

import functools
from typing import Literal, get_args

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.checks import MAX_INT32, expect, expect_offsets, expect_same_device, expect_tensor, one_cloud
from suite3d.ops.reference import curves as reference

CurveName = Literal["z", "z-trans", "hilbert", "hilbert-trans"]
MAX_DEPTH = 21  # three axes in 63 bits


def _fake_codes(coords: Tensor, depth: int, hilbert: bool, swap: bool) -> Tensor:
    return coords.new_empty(coords.shape[0], dtype=torch.int64)


def _fake_order(coords: Tensor, offsets: Tensor, depth: int, hilbert: bool, swap: bool) -> tuple[Tensor, Tensor]:
    return offsets.new_empty(coords.shape[0]), offsets.new_empty(coords.shape[0])


library.define("curve_codes(Tensor coords, int depth, bool hilbert, bool swap) -> Tensor", _fake_codes)
library.define("curve_order(Tensor coords, Tensor offsets, int depth, bool hilbert, bool swap) -> (Tensor, Tensor)", _fake_order)


def _check(coords: Tensor, curve: CurveName, depth: int) -> tuple[int, bool, bool]:
    expect_tensor(coords, "coords", (None, 3), (torch.int32, torch.int64))
    expect(coords.shape[0] <= MAX_INT32, f"coords: expected at most {MAX_INT32} rows, got {coords.shape[0]}; split the batch")
    expect(curve in get_args(CurveName), f"curve: expected one of {', '.join(get_args(CurveName))}, got {curve!r}")
    expect(1 <= depth <= MAX_DEPTH, f"depth: expected 1 to {MAX_DEPTH} bits an axis (three axes in an int64), got {depth}")
    return depth, curve.startswith("hilbert"), curve.endswith("-trans")


def _check_values(coords: Tensor, depth: int) -> None:
    if coords.shape[0] == 0 or coords.device.type != "cpu" or torch.compiler.is_compiling():
        return
    low, high = (int(v) for v in coords.aminmax())
    expect(
        low >= 0 and high < 2**depth,
        f"coords: expected values in [0, 2^{depth}), got {low} to {high}; "
        f"subtract the minimum, use larger cells or a larger depth (at most {MAX_DEPTH})",
    )


def _check_batch(batch: Tensor, coords: Tensor, depth: int) -> None:
    expect_tensor(batch, "batch", (coords.shape[0],), (torch.int32, torch.int64))
    expect_same_device(coords=coords, batch=batch)
    bits = 63 - 3 * depth
    if batch.device.type == "cpu" and not torch.compiler.is_compiling() and batch.shape[0] > 0:
        low, high = (int(v) for v in batch.aminmax())
        expect(
            low >= 0 and high < 2**bits,
            f"batch: expected values in [0, {2**bits}), what an int64 holds in front of 3 x {depth} bits, got {low} to {high}; "
            "use a smaller depth, or curve_order with offsets, which has no such limit",
        )


@torch.no_grad()
def curve_codes(coords: Tensor, curve: CurveName = "z", *, depth: int = 16, batch: Tensor | None = None) -> Tensor:
    """Position of each cell along a space-filling curve through the cube of ``2^depth`` cells an axis.

    ``z`` interleaves the bits, x the highest of each three (Morton 1966); ``hilbert`` is the Hilbert curve of Skilling 2004
    ("Programming the Hilbert curve", AIP Conf. Proc. 707), x first: consecutive cells share a face. ``-trans`` exchanges x and y first.
    These are the four codes of Point Transformer V3 (Wu et al. 2024, sec. 4.2), to the bit. A Hilbert position depends on ``depth``.

    Args:
        coords: ``(N, 3)`` int32 or int64 cells (x, y, z) in ``[0, 2^depth)``. Checked on the CPU; on CUDA higher bits are dropped (no sync).
        curve: which curve.
        depth: bits an axis, 1 to 21.
        batch: ``(N,)`` int32 or int64 cloud of each cell, put in front of the position: ``batch << 3 * depth | position``; checked
            on the CPU to fit into an int64.

    Returns:
        ``(N,)`` int64.

    Raises:
        ValueError: wrong shape, dtype, device, curve or depth; a coordinate outside the cube; batch numbers beyond int64.
    """
    arguments = (coords, *_check(coords, curve, depth))
    explain = functools.partial(_check_values, coords, depth)
    kernel = library.kernel("curve_codes", coords.device.type)
    if kernel is None:
        explain()
    codes: Tensor = reference.curve_codes(*arguments) if kernel is None else library.run(kernel, arguments, explain)
    if batch is None:
        return codes
    _check_batch(batch, coords, depth)
    return codes if depth == MAX_DEPTH else codes | batch.long() << (3 * depth)  # at 21 bits only cloud 0 is left


@torch.no_grad()
def curve_order(coords: Tensor, curve: CurveName = "z", *, depth: int = 16, offsets: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rows along a space-filling curve, cloud after cloud (the serialization of Point Transformer V3, Wu et al. 2024, sec. 4.2).

    Cells given twice keep their order. Any number of clouds goes with any depth.

    Args:
        coords, curve, depth: as in :func:`curve_codes`.
        offsets: ``(B + 1,)`` int64; cloud b owns rows ``offsets[b]:offsets[b + 1]``. None for one cloud.

    Returns:
        order: ``(N,)`` int64 rows: ``coords[order]`` runs along the curve, rows of cloud b staying in ``offsets[b]:offsets[b + 1]``.
        inverse: ``(N,)`` int64 place of each row: ``x[order][inverse] == x``.

    Raises:
        ValueError: as in :func:`curve_codes`, and offsets that do not fit.
    """
    depth, hilbert, swap = _check(coords, curve, depth)
    offsets = one_cloud(coords) if offsets is None else offsets
    expect_same_device(coords=coords, offsets=offsets)
    expect_offsets(offsets, coords.shape[0])
    arguments = (coords, offsets, depth, hilbert, swap)
    explain = functools.partial(_check_values, coords, depth)
    kernel = library.kernel("curve_order", coords.device.type)
    if kernel is None:
        explain()
        return reference.curve_order(*arguments)
    return library.run(kernel, arguments, explain)
