"""Anchors on the bird's-eye-view map and the assignment of labelled boxes to them (SECOND 3.2; rules as in OpenPCDet's KITTI configs).

Every cell carries, for each class, one anchor of the class's size at each yaw. A box is compared only with the anchors of its own class, by
the IoU of the footprints turned to the nearest multiple of 90 degrees. An anchor is positive for the box it overlaps most if that IoU reaches
``matched``; the best anchors of every box are positive too, however little they overlap (and are then regressed to the box *they* overlap
most, as published); an anchor whose best IoU is below ``unmatched`` is background; the rest are ignored.

Turned to the axes, the overlap of an anchor and a box is a product of two one-dimensional overlaps, and only anchors within half the sum of
the sizes can overlap at all. So the assignment looks at one window of cells per box, all boxes of the batch at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from suite3d.pointcloud.detection.bev_map import BevMap
from suite3d.pointcloud.detection.boxes import nearest_axis_aligned_size
from suite3d.pointcloud.detection.labels import BoxLabels

BACKGROUND = -1
IGNORED = -2


@dataclass(kw_only=True)
class AnchorConfig:
    """The anchor of one class.

    Attributes:
        class_name: name in the detector's class list.
        size: (dx, dy, dz) metres.
        bottom: height of the anchor's underside in the LiDAR frame, metres.
        matched: IoU from which an anchor is positive.
        unmatched: IoU below which an anchor is background.
    """

    class_name: str = "Car"
    size: tuple[float, float, float] = (3.9, 1.6, 1.56)
    bottom: float = -1.78
    matched: float = 0.6
    unmatched: float = 0.45


def kitti_anchors() -> list[AnchorConfig]:
    """Car, pedestrian and cyclist anchors of SECOND on KITTI."""
    return [
        AnchorConfig(class_name="Car", size=(3.9, 1.6, 1.56), bottom=-1.78, matched=0.6, unmatched=0.45),
        AnchorConfig(class_name="Pedestrian", size=(0.8, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35),
        AnchorConfig(class_name="Cyclist", size=(1.76, 0.6, 1.73), bottom=-0.6, matched=0.5, unmatched=0.35),
    ]


@dataclass(kw_only=True)
class AnchorTargets:
    """What each anchor should predict; A anchors a scan, ordered (y, x, class, yaw).

    Attributes:
        labels: ``(B, A)`` int64: class index, :data:`BACKGROUND` or :data:`IGNORED`.
        scan, anchor: ``(P,)`` int64 indices of the positive anchors.
        boxes: ``(P, 9)`` the box each of them is matched to.
        box_rows: ``(P,)`` int64 row of that box in the :class:`BoxLabels`.
    """

    labels: Tensor
    scan: Tensor
    anchor: Tensor
    boxes: Tensor
    box_rows: Tensor


@dataclass(kw_only=True)
class _Pairs:
    """Candidate (box, anchor) pairs, flat. ``valid`` marks the anchors that are on the map."""

    row: Tensor
    anchor: Tensor
    iou: Tensor
    valid: Tensor = field(repr=False)


class AnchorGrid(nn.Module):
    """The anchors of a map. Holds only derived buffers: it adds nothing to the state dict.

    Cell centres run from edge to edge of the range inclusive, as in OpenPCDet (``align_center: False``): column j of W is at
    ``x0 + j (x1 - x0) / (W - 1)``.
    """

    x: Tensor
    y: Tensor
    z: Tensor
    sizes: Tensor
    yaws: Tensor
    matched: Tensor
    unmatched: Tensor

    def __init__(self, anchors: list[AnchorConfig], *, yaws: tuple[float, ...], bev_map: BevMap) -> None:
        super().__init__()
        for anchor in anchors:
            if min(anchor.size) <= 0 or not 0 < anchor.unmatched <= anchor.matched <= 1:
                raise ValueError(f"AnchorConfig expected positive sizes and 0 < unmatched <= matched <= 1, got {anchor}")
        x0, y0, _, x1, y1, _ = bev_map.point_range
        self.bev_map = bev_map
        self.per_cell = len(anchors) * len(yaws)
        buffers = {
            "x": torch.linspace(x0, x1, bev_map.width),
            "y": torch.linspace(y0, y1, bev_map.height),
            "z": torch.tensor([anchor.bottom + anchor.size[2] / 2 for anchor in anchors]),
            "sizes": torch.tensor([anchor.size for anchor in anchors]),
            "yaws": torch.tensor(yaws),
            "matched": torch.tensor([anchor.matched for anchor in anchors]),
            "unmatched": torch.tensor([anchor.unmatched for anchor in anchors]),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value.float(), persistent=False)

    def __len__(self) -> int:
        """Anchors a scan."""
        return self.bev_map.height * self.bev_map.width * self.per_cell

    def boxes(self, index: Tensor) -> Tensor:
        """``(...)`` int64 anchor indices -> ``(..., 7)`` float32 anchors."""
        yaw = index % len(self.yaws)
        kind = index // len(self.yaws) % len(self.sizes)
        cell = index // self.per_cell
        x, y = self.x[cell % self.bev_map.width], self.y[cell // self.bev_map.width]
        return torch.stack([x, y, self.z[kind], *self.sizes[kind].unbind(dim=-1), self.yaws[yaw]], dim=-1)

    @torch.no_grad()
    def assign(self, labels: BoxLabels) -> AnchorTargets:
        """Targets of every anchor; anchor class c takes only boxes of label c."""
        total = labels.batch_size * len(self)
        target = self.x.new_full((total,), BACKGROUND, dtype=torch.int64)
        if len(labels) == 0:
            nothing = target.new_empty(0)
            return AnchorTargets(
                labels=target.view(labels.batch_size, -1), scan=nothing, anchor=nothing, boxes=labels.boxes.new_empty(0, 9), box_rows=nothing
            )
        pairs = self._pairs(labels)
        best_of_anchor = self.x.new_zeros(total).scatter_reduce_(0, pairs.anchor, pairs.iou, "amax")
        best_of_box = self.x.new_zeros(len(labels)).scatter_reduce_(0, pairs.row, pairs.iou, "amax")

        kind = labels.labels[pairs.row]
        is_argmax = pairs.valid & (pairs.iou > 0) & (pairs.iou == best_of_anchor[pairs.anchor])
        box_of_anchor = target.new_full((total,), len(labels)).scatter_reduce_(0, pairs.anchor[is_argmax], pairs.row[is_argmax], "amin")
        forced = pairs.valid & (pairs.iou > 0) & (pairs.iou == best_of_box[pairs.row])
        positive = forced | (pairs.valid & (pairs.iou >= self.matched[kind]))
        unclear = pairs.valid & (best_of_anchor[pairs.anchor] >= self.unmatched[kind])

        target[pairs.anchor[unclear]] = IGNORED
        target[pairs.anchor[positive]] = kind[positive]
        rows = (target >= 0).nonzero().flatten()
        box_rows = box_of_anchor[rows]
        return AnchorTargets(
            labels=target.view(labels.batch_size, -1),
            scan=rows // len(self),
            anchor=rows % len(self),
            boxes=labels.boxes[box_rows],
            box_rows=box_rows,
        )

    def _pairs(self, labels: BoxLabels) -> _Pairs:
        """Every anchor of its class in a window around each box that is sure to hold all that overlap it."""
        boxes, kind = labels.boxes, labels.labels
        extent = nearest_axis_aligned_size(boxes)  # (M, 2)
        anchors = self.sizes.new_zeros(1, len(self.yaws), 7)
        anchors[..., 6] = self.yaws
        anchors = anchors.repeat(len(self.sizes), 1, 1)
        anchors[..., 3:6] = self.sizes[:, None]
        anchor_extent = nearest_axis_aligned_size(anchors)[kind]  # (M, R, 2)

        overlap, index, inside = [], [], []
        for axis, lines in ((0, self.x), (1, self.y)):
            spacing = float(lines[1] - lines[0]) if len(lines) > 1 else math.inf
            reach = float((extent[:, axis, None] + anchor_extent[..., axis]).max()) / 2
            half = min(math.ceil(reach / spacing) + 1, len(lines))
            nearest = torch.searchsorted(lines, boxes[:, axis].contiguous())
            window = nearest[:, None] + torch.arange(-half, half + 1, device=lines.device)  # (M, K)
            inside.append((window >= 0) & (window < len(lines)))
            window = window.clamp(0, len(lines) - 1)
            index.append(window)
            distance = (lines[window] - boxes[:, axis, None]).abs()  # (M, K)
            mean = (extent[:, axis, None] + anchor_extent[..., axis]) / 2  # (M, R)
            smaller = torch.minimum(extent[:, axis, None], anchor_extent[..., axis])
            overlap.append(torch.minimum(smaller[..., None], mean[..., None] - distance[:, None]).clamp(min=0))  # (M, R, K)

        shape = (len(boxes), len(self.yaws), index[1].shape[1], index[0].shape[1])  # (M, R, Ky, Kx)
        intersection = overlap[1][..., :, None] * overlap[0][..., None, :]
        areas = extent.prod(dim=1)[:, None] + anchor_extent.prod(dim=2)  # (M, R)
        iou = intersection / (areas[..., None, None] - intersection)
        valid = (inside[1][:, None, :, None] & inside[0][:, None, None, :]).expand(shape)
        cell = index[1][:, None, :, None] * self.bev_map.width + index[0][:, None, None, :]  # (M, 1, Ky, Kx)
        rotation = torch.arange(len(self.yaws), device=cell.device)[:, None, None]
        scan = labels.scan[:, None, None, None] * len(self)
        anchor = scan + cell * self.per_cell + kind[:, None, None, None] * len(self.yaws) + rotation
        row = torch.arange(len(boxes), device=cell.device)[:, None, None, None]
        return _Pairs(
            row=row.expand(shape).reshape(-1),
            anchor=anchor.expand(shape).reshape(-1),
            iou=torch.where(valid, iou, 0.0).reshape(-1),
            valid=valid.reshape(-1),
        )
