"""Furthest point sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.checks import expect, expect_offsets, expect_same_device, expect_tensor
from suite3d.ops.geometry_checks import expect_points
from suite3d.ops.reference import sampling as reference


def _fake(xyz: Tensor, offsets: Tensor, counts: Tensor, start: Tensor, total: int, largest: int) -> Tensor:
    return offsets.new_empty(torch.library.get_ctx().new_dynamic_size() if total < 0 else total)


# total: sum of counts, -1 where it has to be read from them. largest: no cloud has more rows (those of xyz where that is not known).
library.define("furthest_point_sample(Tensor xyz, Tensor offsets, Tensor counts, Tensor start, SymInt total, SymInt largest) -> Tensor", _fake)


def _check_values(xyz: Tensor, offsets: Tensor, counts: Tensor, start: Tensor) -> int:
    """What can only be seen by reading the values; one device sync on CUDA, skipped under torch.compile. Returns rows of the largest cloud."""
    wanted = counts > 0
    inside = (start >= offsets[:-1]) & (start < offsets[1:])
    sizes = offsets.diff()
    found = [xyz.isfinite().all(), (counts < 0).any(), (wanted & (sizes == 0)).any(), (wanted & (sizes > 0) & ~inside).any()]
    largest = sizes.max() if len(sizes) > 0 else sizes.sum()
    finite, negative, empty, outside, rows = torch.stack([*(flag.long() for flag in found), largest]).tolist()
    expect(finite, "xyz: expected finite coordinates, got NaN or infinity, which have no furthest point; drop those rows first")
    expect(not negative, f"counts: expected values >= 0, got {counts.tolist()[:8]}")
    expect(not empty, "expected at least one point in each cloud that is sampled, got an empty cloud; ask for 0 samples of it or drop it")
    expect(not outside, f"start: expected start[b] in offsets[b]:offsets[b + 1] (global rows), got {start.tolist()[:8]} for {offsets.tolist()[:9]}")
    return int(rows)


@torch.no_grad()
def furthest_point_sample(xyz: Tensor, offsets: Tensor, counts: Tensor | int, *, start: Tensor | None = None) -> Tensor:
    """Exact furthest point sampling of a jagged batch (Eldar et al. 1997; PointNet++, Qi et al. 2017, sec. 3.2). No gradient.

    From the start point on, each sample is the point with the largest distance to the samples taken so far; ties go to the
    lowest row. Squared distances are float32 with every operation rounded once, so CPU, CUDA and reference agree on every tie.
    A count beyond the size of its cloud repeats the first row of the cloud, which is what the rule says once every distance is 0.

    Args:
        xyz: ``(N, 3)`` float32, finite.
        offsets: ``(B + 1,)`` int64; cloud b owns rows ``offsets[b]:offsets[b + 1]``.
        counts: samples of each cloud: one int for all, or ``(B,)`` int64.
        start: ``(B,)`` int64 global row of the first sample of each cloud; default its first row.

    Returns:
        ``(sum of counts,)`` int64 global rows of ``xyz``: cloud after cloud, in the order of selection.

    Raises:
        ValueError: wrong shape, dtype, device or offsets; coordinates that are not finite; samples wanted of an empty cloud;
            a start row outside its cloud.
    """
    expect_points(xyz, "xyz")
    expect_offsets(offsets, xyz.shape[0])
    clouds = offsets.shape[0] - 1
    if isinstance(counts, int):
        expect(counts >= 0, f"counts: expected >= 0, got {counts}")
        total = counts * clouds
        counts = torch.full((clouds,), counts, dtype=torch.int64, device=xyz.device)
    else:
        expect_tensor(counts, "counts", (None,), (torch.int64,))
        total = -1
    start = offsets[:-1] if start is None else start
    expect_tensor(start, "start", (None,), (torch.int64,))
    expect(
        counts.shape[0] == clouds and start.shape[0] == clouds,
        f"counts and start: expected one entry for each of {clouds} clouds, got {counts.shape[0]} and {start.shape[0]}",
    )
    expect_same_device(xyz=xyz, offsets=offsets, counts=counts, start=start)
    kernel = library.kernel("furthest_point_sample", xyz.device.type)
    if kernel is not None and xyz.device.type == "cpu":  # this kernel checks values itself
        return library.run(kernel, (xyz, offsets, counts, start, total, xyz.shape[0]), lambda: _check_values(xyz, offsets, counts, start))
    largest = xyz.shape[0] if torch.compiler.is_compiling() else _check_values(xyz, offsets, counts, start)
    if kernel is None:
        return reference.furthest_point_sample(xyz, offsets, counts, start)
    return kernel(xyz, offsets, counts, start, total, largest)
