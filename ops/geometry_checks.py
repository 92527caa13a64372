"""What the geometry ops ask of points, boxes and pairs of clouds, on top of ``checks.py``."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.ops.checks import MAX_INT32, expect, expect_offsets, expect_same_device, one_cloud


def _expect_countable(rows: Tensor, name: str) -> None:
    """Kernels number rows with int32."""
    if not torch.compiler.is_compiling():
        expect(rows.shape[0] <= MAX_INT32, f"{name}: expected at most {MAX_INT32} rows, got {rows.shape[0]}; split the batch")


def expect_points(xyz: Tensor, name: str, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> None:
    """Raise ValueError unless ``xyz`` is ``(N, 3)`` of one of ``dtypes`` with fewer than 2^31 rows."""
    expect(
        xyz.dim() == 2 and xyz.shape[1] == 3,
        f"{name}: expected (N, 3) coordinates, got shape {tuple(xyz.shape)}; pass the clouds concatenated along rows, coordinates only",
    )
    wanted = " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
    expect(xyz.dtype in dtypes, f"{name}: expected {wanted}, got {str(xyz.dtype).removeprefix('torch.')}; convert it, for example with .float()")
    _expect_countable(xyz, name)


def expect_boxes(boxes: Tensor, name: str) -> Tensor:
    """The (cx, cy, cz, dx, dy, dz, yaw) part, detached, of ``(N, 7)`` or ``(N, 9)`` float32 boxes, fewer than 2^31; ValueError for anything else."""
    expect(
        boxes.dim() == 2 and boxes.shape[1] in (7, 9),
        f"{name}: expected (N, 7) boxes (cx, cy, cz, dx, dy, dz, yaw) or (N, 9) with velocities, got shape {tuple(boxes.shape)}",
    )
    _expect_countable(boxes, name)
    expect(boxes.dtype == torch.float32, f"{name}: expected float32, got {str(boxes.dtype).removeprefix('torch.')}; convert it with .float()")
    return boxes.detach()[:, :7]


def expect_clouds(
    first: Tensor, first_offsets: Tensor | None, second: Tensor, second_offsets: Tensor | None, *, names: tuple[str, str]
) -> tuple[Tensor, Tensor]:
    """Offsets of two jagged point sets of equally many clouds; no offsets at all means one cloud each."""
    expect_same_device(**{names[0]: first, names[1]: second})
    if first_offsets is None and second_offsets is None:
        return one_cloud(first), one_cloud(second)
    if first_offsets is None or second_offsets is None:
        raise ValueError(f"expected offsets of both {names[0]} and {names[1]} or of neither, got only one of them; pass the other too")
    expect_same_device(**{names[0]: first, "offsets": first_offsets, f"{names[1]} offsets": second_offsets})
    expect_offsets(first_offsets, first.shape[0], f"offsets of {names[0]}")
    expect_offsets(second_offsets, second.shape[0], f"offsets of {names[1]}")
    expect(
        first_offsets.shape == second_offsets.shape,
        f"expected as many clouds of {names[0]} as of {names[1]}, got {first_offsets.shape[0] - 1} and {second_offsets.shape[0] - 1}",
    )
    return first_offsets, second_offsets
