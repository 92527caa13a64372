"""Features inside boxes, on ``grid_sample``: RoIAlign (He et al., "Mask R-CNN", ICCV 2017, section 3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def roi_align(features: Tensor, boxes: Tensor, index: Tensor, *, output: int = 7, samples: int = 2) -> Tensor:
    """Every box cut into ``output x output`` bins, each the mean of ``samples x samples`` bilinear samples at the middles of its sub-cells.

    The cell (i, j) of the map covers the square from (j, i) to (j + 1, i + 1) in map units and holds its value at the middle, so a box is not
    shifted by half a cell (``aligned=True`` of torchvision and Detectron2). Samples beyond the map take the value at its edge.

    Args:
        features: ``(B, C, H, W)``.
        boxes: ``(M, 4)`` x1, y1, x2, y2 as shares of the width and height, 0 to 1.
        index: ``(M,)`` int64, the map of each box.
        output: bins along each side. samples: along each side of a bin.

    Returns:
        ``(M, C, output, output)`` in the type of ``features``.

    Raises:
        ValueError: wrong shapes.
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4 or index.shape != boxes.shape[:1] or features.ndim != 4:
        raise ValueError(
            f"expected features (B, C, H, W), boxes (M, 4), index (M,), got {tuple(features.shape)}, {tuple(boxes.shape)}, {tuple(index.shape)}"
        )
    steps = output * samples
    if not len(boxes):
        return features.new_zeros(0, features.shape[1], output, output)
    share = (torch.arange(steps, device=boxes.device, dtype=torch.float32) + 0.5) / steps
    left, top, right, bottom = boxes.float().unbind(1)
    x = left[:, None] + (right - left)[:, None] * share  # [M, steps]
    y = top[:, None] + (bottom - top)[:, None] * share
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), dim=-1) * 2 - 1  # [M, steps, steps, 2]
    sampled = F.grid_sample(features[index].float(), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(sampled, samples).to(features.dtype)
