"""Argument checks shared by the ops: one sentence that says what was expected and what came."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Triple = tuple[int, int, int]
MAX_INT32 = 2**31 - 1


def expect(condition: bool, message: str) -> None:
    """Raise ``ValueError(message)`` unless ``condition`` holds."""
    if not condition:
        raise ValueError(message)


def expect_tensor(value: Tensor, name: str, shape: Sequence[int | None], dtypes: Sequence[torch.dtype]) -> None:
    """Check dimension count, fixed sizes (None = any) and dtype."""
    fits = value.dim() == len(shape)
    if fits:
        for have, want in zip(value.shape, shape, strict=True):  # a generator takes twice as long
            fits = fits and (want is None or have == want)
    if not fits:  # messages only then: they cost more than the checks, and torch.compile does not print sizes that it does not know
        wanted = "(" + ", ".join("*" if size is None else str(size) for size in shape) + ")"
        raise ValueError(f"{name}: expected shape {wanted}, got {tuple(value.shape)}")
    if value.dtype not in dtypes:
        kinds = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(f"{name}: expected {kinds}, got {str(value.dtype).removeprefix('torch.')}")


def expect_same_device(**tensors: Tensor) -> None:
    """Check that all tensors live on one device."""
    one = next(iter(tensors.values())).device
    for value in tensors.values():
        if value.device != one:
            raise ValueError(f"expected all tensors on one device, got {', '.join(f'{name} on {value.device}' for name, value in tensors.items())}")


def expect_offsets(offsets: Tensor, rows: int, name: str = "offsets") -> None:
    """Check a jagged batch: ``(B + 1,)`` int64, from 0 to ``rows``, non-decreasing. Values are read only on the CPU (no device sync)."""
    expect_tensor(offsets, name, (None,), (torch.int64,))
    if offsets.shape[0] < 1:
        raise ValueError(f"{name}: expected B + 1 entries, got none")
    if offsets.is_cpu and not torch.compiler.is_compiling():
        ends = offsets.tolist()  # a tenth of the time of tensor operations for so few values
        if ends[0] != 0 or ends[-1] != rows:
            raise ValueError(f"{name}: expected to run from 0 to the {rows} rows, got {ends[0]} to {ends[-1]}")
        if ends != sorted(ends):
            raise ValueError(f"{name}: expected non-decreasing values, got {ends[:8]}")


def one_cloud(rows: Tensor) -> Tensor:
    """Offsets ``(2,)`` int64 of a batch of one, which owns all ``rows``."""
    return torch.arange(2, device=rows.device) * rows.shape[0]


def triple(value: int | Sequence[int], name: str, *, minimum: int) -> Triple:
    """An int or three ints (z, y, x), as three ints."""
    values = (value, value, value) if isinstance(value, int) else tuple(value)
    expect(len(values) == 3 and all(isinstance(v, int) for v in values), f"{name}: expected an int or three ints (z, y, x), got {value!r}")
    expect(min(values) >= minimum, f"{name}: expected values >= {minimum}, got {value!r}")
    return values[0], values[1], values[2]


def expect_grid(shape: Triple, batch_size: int, name: str = "spatial_shape", *, border: Triple = (0, 0, 0)) -> None:
    """Check that a batch of grids can be counted: coordinates are int32 and the keys of cells int64, of which kernels use 61 bits.

    Args:
        shape: cells along (z, y, x).
        batch_size: B.
        name: what to call the shape in the error.
        border: cells added on both sides of each axis, where keys are made of a padded grid.
    """
    expect(min(shape) >= 1, f"{name}: expected three positive sizes (z, y, x), got {shape}")
    expect(batch_size >= 1, f"batch_size: expected >= 1, got {batch_size}")
    expect(max(*shape, batch_size) <= MAX_INT32, f"{name} {shape} times {batch_size} grids: expected at most 2^31 - 1 along each (int32 coordinates)")
    z, y, x = (size + 2 * more for size, more in zip(shape, border, strict=True))
    expect(batch_size * z * y * x < 2**61, f"{name} {shape} times {batch_size} grids: expected fewer than 2^61 cells (int64 keys)")
