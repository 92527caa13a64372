"""Box geometry and the box codes of SECOND and CenterPoint.

Boxes are ``(..., 7)`` (cx, cy, cz, dx, dy, dz, yaw): centre, full sizes in metres, yaw counter-clockwise about +z from +x in radians.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

TWO_PI = 2 * math.pi


def wrap_angle(angle: Tensor, *, start: float = -math.pi, period: float = TWO_PI) -> Tensor:
    """The angle modulo ``period`` in ``[start, start + period)``."""
    return angle - torch.floor((angle - start) / period) * period


def bev_corners(boxes: Tensor) -> Tensor:
    """``(..., 7)`` boxes -> ``(..., 4, 2)`` xy of the footprint, counter-clockwise from front left."""
    signs = boxes.new_tensor([[0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]])
    local = signs * boxes[..., None, 3:5]  # (..., 4, 2)
    cos, sin = boxes[..., 6].cos()[..., None], boxes[..., 6].sin()[..., None]
    x, y = local.unbind(dim=-1)
    return torch.stack([x * cos - y * sin, x * sin + y * cos], dim=-1) + boxes[..., None, :2]


def box_corners(boxes: Tensor) -> Tensor:
    """``(..., 7)`` boxes -> ``(..., 8, 3)`` corners: the bottom four as :func:`bev_corners`, then the top four above them."""
    footprint = bev_corners(boxes)  # (..., 4, 2)
    half = boxes[..., 5:6] / 2
    bottom, top = boxes[..., 2:3] - half, boxes[..., 2:3] + half
    height = torch.cat([bottom.expand(*bottom.shape[:-1], 4), top.expand(*top.shape[:-1], 4)], dim=-1)
    return torch.cat([torch.cat([footprint, footprint], dim=-2), height[..., None]], dim=-1)


def nearest_axis_aligned_size(boxes: Tensor) -> Tensor:
    """``(..., 7)`` -> ``(..., 2)`` extent along x and y of the footprint turned to the nearest multiple of 90 degrees.

    A yaw within 45 degrees of the x axis (either way along it) keeps (dx, dy), any other swaps them; exactly 45 degrees swaps.
    """
    along_x = wrap_angle(boxes[..., 6], start=-math.pi / 2, period=math.pi).abs() < math.pi / 4
    return torch.where(along_x[..., None], boxes[..., 3:5], boxes[..., [4, 3]])


def encode_residual(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Boxes relative to anchors (VoxelNet eq. 1; SECOND 3.2.1): ``(..., 7)``, ``(..., 7)`` -> ``(..., 7)``.

    Centre offsets over the anchor's footprint diagonal (xy) and height (z), log size ratios, yaw difference.
    """
    diagonal = torch.linalg.vector_norm(anchors[..., 3:5], dim=-1, keepdim=True)
    return torch.cat(
        [
            (boxes[..., :2] - anchors[..., :2]) / diagonal,
            (boxes[..., 2:3] - anchors[..., 2:3]) / anchors[..., 5:6],
            torch.log(boxes[..., 3:6] / anchors[..., 3:6]),
            boxes[..., 6:7] - anchors[..., 6:7],
        ],
        dim=-1,
    )


def decode_residual(codes: Tensor, anchors: Tensor) -> Tensor:
    """Inverse of :func:`encode_residual`. The yaw is not wrapped."""
    diagonal = torch.linalg.vector_norm(anchors[..., 3:5], dim=-1, keepdim=True)
    return torch.cat(
        [
            codes[..., :2] * diagonal + anchors[..., :2],
            codes[..., 2:3] * anchors[..., 5:6] + anchors[..., 2:3],
            torch.exp(codes[..., 3:6]) * anchors[..., 3:6],
            codes[..., 6:7] + anchors[..., 6:7],
        ],
        dim=-1,
    )


def sin_difference(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Residual codes with the angle entry replaced so that its difference is sin(predicted - target) (SECOND eq. 3).

    A box turned by 180 degrees therefore costs nothing here; the direction classifier tells the two apart.
    """
    sin_cos = torch.sin(predicted[..., 6:7]) * torch.cos(target[..., 6:7])
    cos_sin = torch.cos(predicted[..., 6:7]) * torch.sin(target[..., 6:7])
    return torch.cat([predicted[..., :6], sin_cos], dim=-1), torch.cat([target[..., :6], cos_sin], dim=-1)


def direction_bin(yaw: Tensor, *, bins: int, offset: float) -> Tensor:
    """Index of the bin of width 2 pi / ``bins`` that holds the yaw, counted from ``offset``: int64 in [0, bins)."""
    turned = wrap_angle(yaw - offset, start=0.0)
    return torch.floor(turned / (TWO_PI / bins)).long().clamp(0, bins - 1)


def yaw_in_bin(yaw: Tensor, direction: Tensor, *, bins: int, offset: float) -> Tensor:
    """The yaw moved by multiples of the bin width into its predicted bin, then wrapped to [-pi, pi)."""
    width = TWO_PI / bins
    return wrap_angle(wrap_angle(yaw - offset, start=0.0, period=width) + offset + width * direction)


def encode_center(boxes: Tensor, position: Tensor) -> Tensor:
    """CenterPoint's regression target (CenterPoint 3, "regression heads").

    Args:
        boxes: ``(M, 7)`` or ``(M, 9)``.
        position: ``(M, 2)`` box centre in map cells (x, y), the cell being its floor.

    Returns:
        ``(M, 8 | 10)``: offset of the centre inside its cell (x, y, in cells), z (metres), log sizes, cos yaw, sin yaw[, vx, vy].
    """
    yaw = boxes[:, 6:7]
    return torch.cat([position - position.floor(), boxes[:, 2:3], boxes[:, 3:6].log(), yaw.cos(), yaw.sin(), boxes[:, 7:]], dim=1)


def decode_center(codes: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """Inverse of :func:`encode_center`: codes ``(..., 8 | 10)`` at cells ``(..., 2)`` (x, y) ->
    position ``(..., 2)`` in map cells and ``(..., 5 | 7)`` (z, dx, dy, dz, yaw[, vx, vy])."""
    yaw = torch.atan2(codes[..., 7:8], codes[..., 6:7])
    rest = torch.cat([codes[..., 2:3], codes[..., 3:6].exp(), yaw, codes[..., 8:]], dim=-1)
    return cell + codes[..., :2], rest
