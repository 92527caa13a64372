"""CenterPoint's training targets: Gaussian heat maps and the regression code at the box centres.

Paper: Yin, Zhou, Krahenbuhl, Center-based 3D Object Detection and Tracking, CVPR 2021, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from suite3d.pointcloud.detection.bev_map import BevMap
from suite3d.pointcloud.detection.boxes import encode_center
from suite3d.pointcloud.detection.labels import BoxLabels


@dataclass(kw_only=True)
class CenterTargets:
    """Targets of one head.

    Attributes:
        heatmap: ``(B, classes of the head, H, W)`` float32 in [0, 1], exactly 1 at the cells that hold a centre.
        scan, cell: ``(M,)`` int64: scan and flat cell (y * W + x) of each box.
        codes: ``(M, 10)`` regression targets as :func:`encode_center`; the velocity columns are NaN where it is unknown.
    """

    heatmap: Tensor
    scan: Tensor
    cell: Tensor
    codes: Tensor


def gaussian_radius(extent: Tensor, *, min_overlap: float) -> Tensor:
    """Radius in cells such that two corners moved by it still give the box an overlap of about ``min_overlap``.

    The smallest of CornerNet's three cases, with its released formula (each root divided by 2, not by 2a), which CenterPoint and every
    published number share.

    Args:
        extent: ``(M, 2)`` footprint (dx, dy) in cells.
    """
    product, total = extent.prod(dim=1), extent.sum(dim=1)
    cases = (
        (torch.ones_like(total), total, product * (1 - min_overlap) / (1 + min_overlap)),
        (torch.full_like(total, 4.0), 2 * total, (1 - min_overlap) * product),
        (torch.full_like(total, 4 * min_overlap), -2 * min_overlap * total, (min_overlap - 1) * product),
    )
    return torch.stack([(b + (b.square() - 4 * a * c).sqrt()) / 2 for a, b, c in cases]).min(dim=0).values


@torch.no_grad()
def center_targets(labels: BoxLabels, *, classes: Tensor, bev_map: BevMap, min_overlap: float, min_radius: int) -> CenterTargets:
    """Targets of the head that predicts ``classes``.

    Args:
        labels: all boxes of the batch.
        classes: ``(number of classes,)`` int64: for each class of the detector its channel in this head, or -1.
        bev_map: the head's map.
        min_overlap, min_radius: of the Gaussians (radius in cells).
    """
    channel = classes[labels.labels]
    rows = (channel >= 0).nonzero().flatten()
    labels, channel = labels[rows], channel[rows]
    height, width = bev_map.height, bev_map.width
    channels = int((classes >= 0).sum())
    edge = labels.boxes.new_tensor([width, height])
    position = torch.minimum(bev_map.to_cells(labels.boxes[:, :2]).clamp(min=0), edge - 0.5)  # rounding may push a box on the border over it
    cell = position.long()  # (M, 2) x, y
    extent = labels.boxes[:, 3:5] / labels.boxes.new_tensor(bev_map.cell_size)
    radius = gaussian_radius(extent, min_overlap=min_overlap).long().clamp(min=min_radius, max=max(height, width))

    heatmap = labels.boxes.new_zeros(labels.batch_size * channels * height * width)
    if len(labels):
        reach = int(radius.max())
        shift = torch.arange(-reach, reach + 1, device=cell.device)
        x, y = cell[:, :1] + shift, cell[:, 1:] + shift  # (M, K)
        sigma = (2 * radius + 1) / 6
        inside_x = (shift.abs() <= radius[:, None]) & (x >= 0) & (x < width)
        inside_y = (shift.abs() <= radius[:, None]) & (y >= 0) & (y < height)
        along = torch.exp(-shift.square() / (2 * sigma.square())[:, None])  # (M, K): the Gaussian is separable
        values = along[:, :, None] * along[:, None, :]  # (M, Ky, Kx)
        inside = inside_y[:, :, None] & inside_x[:, None, :]
        plane = (labels.scan * channels + channel)[:, None, None]
        index = (plane * height + y[:, :, None]) * width + x[:, None, :]
        heatmap.scatter_reduce_(0, torch.where(inside, index, 0).flatten(), torch.where(inside, values, 0.0).flatten(), "amax")
    return CenterTargets(
        heatmap=heatmap.view(labels.batch_size, channels, height, width),
        scan=labels.scan,
        cell=cell[:, 1] * width + cell[:, 0],
        codes=encode_center(labels.boxes, position),
    )
