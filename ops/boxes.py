"""Rotated boxes: which points they hold, how they overlap, and non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.ops import library
from suite3d.ops.checks import expect, expect_same_device, expect_tensor
from suite3d.ops.geometry_checks import expect_boxes, expect_points
from suite3d.ops.reference import boxes as reference

_KINDS = {"overlap": 0, "bev": 1, "3d": 2}


def _fake_points_in_boxes(xyz: Tensor, boxes: Tensor) -> Tensor:
    return xyz.new_empty(xyz.shape[0], dtype=torch.int64)


def _fake_points_in_boxes_mask(xyz: Tensor, boxes: Tensor) -> Tensor:
    return xyz.new_empty(boxes.shape[0], xyz.shape[0], dtype=torch.bool)


def _fake_box_iou(a: Tensor, b: Tensor, kind: int) -> Tensor:
    return a.new_empty(a.shape[0], b.shape[0])


def _fake_nms_rotated(boxes: Tensor, order: Tensor, iou_threshold: float, max_keep: int) -> Tensor:
    return order.new_empty(torch.library.get_ctx().new_dynamic_size())


library.define("points_in_boxes(Tensor xyz, Tensor boxes) -> Tensor", _fake_points_in_boxes)
library.define("points_in_boxes_mask(Tensor xyz, Tensor boxes) -> Tensor", _fake_points_in_boxes_mask)
library.define("box_iou(Tensor a, Tensor b, int kind) -> Tensor", _fake_box_iou)
library.define("nms_rotated(Tensor boxes, Tensor order, float iou_threshold, SymInt max_keep) -> Tensor", _fake_nms_rotated)


@torch.no_grad()
def points_in_boxes(xyz: Tensor, boxes: Tensor) -> Tensor:
    """For each point the first box that contains it, faces included. No gradient.

    Args:
        xyz: ``(N, 3)`` float32. A point with NaN is in no box.
        boxes: ``(M, 7)`` float32 (cx, cy, cz, dx, dy, dz, yaw), centre, full sizes, radians; ``(M, 9)`` with velocities is taken too.
            A box with a negative size or NaN holds nothing.

    Returns:
        ``(N,)`` int64 row of ``boxes``, or -1.

    Raises:
        ValueError: wrong shape, dtype or device.
    """
    expect_points(xyz, "xyz")
    boxes = expect_boxes(boxes, "boxes")
    expect_same_device(xyz=xyz, boxes=boxes)
    kernel = library.kernel("points_in_boxes", xyz.device.type) or reference.points_in_boxes
    return kernel(xyz, boxes)


@torch.no_grad()
def points_in_boxes_mask(xyz: Tensor, boxes: Tensor) -> Tensor:
    """``(M, N)`` bool: point n is in box m; arguments and rules of :func:`points_in_boxes`."""
    expect_points(xyz, "xyz")
    boxes = expect_boxes(boxes, "boxes")
    expect_same_device(xyz=xyz, boxes=boxes)
    kernel = library.kernel("points_in_boxes_mask", xyz.device.type) or reference.points_in_boxes_mask
    return kernel(xyz, boxes)


def _pairwise(a: Tensor, b: Tensor, kind: str) -> Tensor:
    a, b = expect_boxes(a, "a"), expect_boxes(b, "b")
    expect_same_device(a=a, b=b)
    kernel = library.kernel("box_iou", a.device.type)
    return reference.pairwise(a, b, kind) if kernel is None else kernel(a, b, _KINDS[kind])


@torch.no_grad()
def box_overlap_bev(a: Tensor, b: Tensor) -> Tensor:
    """``(N, M)`` float32 square metres shared by the bird's-eye rectangles of every pair; see :func:`box_iou_bev`."""
    return _pairwise(a, b, "overlap")


@torch.no_grad()
def box_iou_bev(a: Tensor, b: Tensor) -> Tensor:
    """Bird's-eye intersection over union of every pair of rotated boxes. No gradient.

    Computed in float64 in the frame of the first box by a line integral that has no special cases (``reference/boxes.py``), so that
    boxes that coincide, share an edge, are turned by half a turn or lie far from the origin are as exact as any other: the error stays
    at the rounding of the float32 result.

    Args:
        a: ``(N, 7)`` float32 (cx, cy, cz, dx, dy, dz, yaw), centre, full sizes, radians; ``(N, 9)`` with velocities is taken too.
        b: ``(M, 7)`` or ``(M, 9)`` float32.

    Returns:
        ``(N, M)`` float32 in [0, 1]; 0 where a box is empty, has a negative size or is not finite.

    Raises:
        ValueError: wrong shape, dtype or device.
    """
    return _pairwise(a, b, "bev")


@torch.no_grad()
def box_iou_3d(a: Tensor, b: Tensor) -> Tensor:
    """``(N, M)`` float32 intersection over union of the volumes of every pair; see :func:`box_iou_bev`."""
    return _pairwise(a, b, "3d")


@torch.no_grad()
def nms_rotated(boxes: Tensor, scores: Tensor, iou_threshold: float, *, max_keep: int | None = None) -> Tensor:
    """Greedy non-maximum suppression by bird's-eye intersection over union. No gradient.

    By descending score (equal scores by row, NaN last) a box is kept unless its IoU with one kept before is above the threshold.

    Args:
        boxes: ``(N, 7)`` or ``(N, 9)`` float32.
        scores: ``(N,)`` floating.
        iou_threshold: in [0, 1]; strictly above it suppresses.
        max_keep: stop after this many; None for all.

    Returns:
        ``(K,)`` int64 rows kept, by descending score.

    Raises:
        ValueError: wrong shape, dtype or device, or a threshold outside [0, 1].
    """
    boxes = expect_boxes(boxes, "boxes")
    expect_tensor(scores, "scores", (boxes.shape[0],), (torch.float32, torch.float64, torch.float16, torch.bfloat16))
    expect_same_device(boxes=boxes, scores=scores)
    expect(0 <= iou_threshold <= 1, f"iou_threshold: expected a number in [0, 1], got {iou_threshold}")
    expect(max_keep is None or max_keep >= 0, f"max_keep: expected None or >= 0, got {max_keep}")
    order = torch.where(scores.isnan(), -torch.inf, scores).argsort(descending=True, stable=True)
    limit = boxes.shape[0] if max_keep is None else max_keep
    kernel = library.kernel("nms_rotated", boxes.device.type) or reference.nms_rotated
    return kernel(boxes, order, float(iou_threshold), limit)
