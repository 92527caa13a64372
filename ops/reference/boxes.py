"""Plain torch box geometry: the definition the compiled kernels are held to."""

from __future__ import annotations

import torch
from torch import Tensor

PAIRS_AT_ONCE = 1 << 18


def points_in_boxes_mask(xyz: Tensor, boxes: Tensor) -> Tensor:
    """``(M, N)`` bool: point n lies in box m, faces included; float32 with cosine and sine rounded from double."""
    cosine, sine = boxes[:, 6].double().cos().float()[:, None], boxes[:, 6].double().sin().float()[:, None]
    dx, dy, dz = (xyz[None, :, axis] - boxes[:, None, axis] for axis in range(3))  # [M, N]
    along, across = dx * cosine + dy * sine, dy * cosine - dx * sine
    half = boxes[:, 3:6] * 0.5
    return (along.abs() <= half[:, :1]) & (across.abs() <= half[:, 1:2]) & (dz.abs() <= half[:, 2:])


def points_in_boxes(xyz: Tensor, boxes: Tensor) -> Tensor:
    """``(N,)`` int64: the first box that contains the point, or -1."""
    found = torch.full((len(xyz),), -1, dtype=torch.int64, device=xyz.device)
    if len(boxes) == 0:
        return found
    rows_at_once = max(1, (1 << 22) // len(boxes))
    number = torch.arange(len(boxes), device=xyz.device)[:, None]
    for begin in range(0, len(xyz), rows_at_once):
        inside = points_in_boxes_mask(xyz[begin : begin + rows_at_once], boxes)
        first = torch.where(inside, number, len(boxes)).amin(dim=0)
        found[begin : begin + rows_at_once] = torch.where(first < len(boxes), first, -1)
    return found


def overlap_of_pairs(a: Tensor, b: Tensor) -> Tensor:
    """``(P,)`` float64 area shared by the bird's-eye rectangles of ``a[p]`` and ``b[p]``; both ``(P, 7)`` float64.

    In the frame of box a, its rectangle R is axis aligned, and clamping the coordinates of a point into R is a continuous map onto R
    that leaves R's interior alone. The boundary of rectangle b, clamped, therefore winds once around each interior point that lies in b
    and not around the others, so the shared area is the line integral of x dy along the clamped boundary (Green). Clamped, an edge of b
    is a polyline that bends where it meets the four lines of R: no case is special, so nothing is lost where edges coincide.
    """
    sizes_a, sizes_b = a[:, 3:5].clamp(min=0) * 0.5, b[:, 3:5].clamp(min=0) * 0.5
    cosine_a, sine_a, cosine_b, sine_b = a[:, 6].cos(), a[:, 6].sin(), b[:, 6].cos(), b[:, 6].sin()
    dx, dy = b[:, 0] - a[:, 0], b[:, 1] - a[:, 1]
    centre = torch.stack([dx * cosine_a + dy * sine_a, dy * cosine_a - dx * sine_a], dim=1)  # [P, 2]
    cosine, sine = cosine_b * cosine_a + sine_b * sine_a, sine_b * cosine_a - cosine_b * sine_a
    length = torch.stack([sizes_b[:, 0] * cosine, sizes_b[:, 0] * sine], dim=1)  # half edges of b
    width = torch.stack([-sizes_b[:, 1] * sine, sizes_b[:, 1] * cosine], dim=1)
    corners = torch.stack([centre + length + width, centre - length + width, centre - length - width, centre + length - width], dim=1)  # [P, 4, 2]
    edges = corners.roll(-1, dims=1) - corners
    half = sizes_a[:, None, :]  # [P, 1, 2]
    bends = torch.cat([(-half - corners) / edges, (half - corners) / edges], dim=2)  # [P, 4, 4]
    bends = bends.nan_to_num(nan=0.0, posinf=1.0, neginf=0.0).clamp(0, 1).sort(dim=2).values
    ends = torch.cat([torch.zeros_like(bends[..., :1]), bends, torch.ones_like(bends[..., :1])], dim=2)  # [P, 4, 6]
    path = corners[:, :, None, :] + ends[..., None] * edges[:, :, None, :]  # [P, 4, 6, 2]
    path = torch.minimum(torch.maximum(path, -half[:, :, None, :]), half[:, :, None, :])
    x, y = path.unbind(dim=-1)
    area = (0.5 * (x[..., 1:] + x[..., :-1]) * (y[..., 1:] - y[..., :-1])).sum(dim=(1, 2))
    noise = 4e-14 * (sizes_a.square() + sizes_b.square()).sum(dim=1)  # boxes that only touch share nothing
    return torch.where(area > noise, area, 0.0).nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)


def pairwise(a: Tensor, b: Tensor, kind: str) -> Tensor:
    """``(N, M)`` float32 of "overlap" (square metres), "bev" or "3d" intersection over union."""
    result = a.new_zeros((len(a), len(b)))
    if result.numel() == 0:
        return result
    a, b = a.double(), b.double()
    rows_at_once = max(1, PAIRS_AT_ONCE // len(b))
    for begin in range(0, len(a), rows_at_once):
        block = a[begin : begin + rows_at_once]
        first, second = block.repeat_interleave(len(b), dim=0), b.repeat(len(block), 1)
        value = overlap_of_pairs(first, second)
        if kind != "overlap":
            value = over_union(value, first, second, solid=kind == "3d")
        result[begin : begin + rows_at_once] = value.view(len(block), len(b)).float()
    return result


def over_union(overlap: Tensor, a: Tensor, b: Tensor, *, solid: bool) -> Tensor:
    """Intersection over union of pairs from their shared area; 0 where the union is empty or a box is not finite."""
    size_a, size_b = a[:, 3:6].clamp(min=0), b[:, 3:6].clamp(min=0)
    volume_a, volume_b = size_a[:, 0] * size_a[:, 1], size_b[:, 0] * size_b[:, 1]
    if solid:
        top = torch.minimum(a[:, 2] + size_a[:, 2] * 0.5, b[:, 2] + size_b[:, 2] * 0.5)
        bottom = torch.maximum(a[:, 2] - size_a[:, 2] * 0.5, b[:, 2] - size_b[:, 2] * 0.5)
        overlap = overlap * (top - bottom).clamp(min=0)
        volume_a, volume_b = volume_a * size_a[:, 2], volume_b * size_b[:, 2]
    ratio = overlap / (volume_a + volume_b - overlap)
    return torch.where(overlap > 0, ratio, 0.0)


def nms_rotated(boxes: Tensor, order: Tensor, iou_threshold: float, max_keep: int) -> Tensor:
    """Rows of ``boxes`` kept, in the order of ``order``: each is dropped whose overlap with a kept one is above ``iou_threshold`` of the union."""
    boxes = boxes[order].double()
    open_ = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    kept: list[int] = []
    for row in range(len(boxes)):
        if len(kept) == max_keep:
            break
        if not bool(open_[row]):
            continue
        kept.append(row)
        rest = (row + 1) + open_[row + 1 :].nonzero().squeeze(1)
        if len(rest) == 0:
            continue
        first, second = boxes[row : row + 1].expand(len(rest), 7), boxes[rest]
        open_[rest[over_union(overlap_of_pairs(first, second), first, second, solid=False) > iou_threshold]] = False
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]
