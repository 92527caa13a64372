"""Between pixel labels and tokens: what share of a token's pixels has which label, and label maps out of token predictions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = 255
"""Label of pixels that do not count (void), in DAVIS, PASCAL VOC and most others."""


def token_shares(labels: Tensor, grid: tuple[int, int], classes: int) -> tuple[Tensor, Tensor]:
    """Share of each token's pixels that has each label.

    Args:
        labels: ``(H, W)`` int64 in [0, classes), or :data:`IGNORED`.
        grid: tokens (h, w) down and across; pixel y belongs to row floor(y h / H).
        classes: C.

    Returns:
        ``(h, w, C)`` float32, which sums to 1 over the classes where a token has a pixel that counts and is 0 elsewhere; and ``(h, w)``
        float32, the share of a token's pixels that count.

    Raises:
        ValueError: a label outside of the range, or fewer pixels than tokens.
    """
    height, width = labels.shape
    known = labels != IGNORED
    if bool((known & ((labels < 0) | (labels >= classes))).any()):
        raise ValueError(f"labels expected in [0, {classes}) or {IGNORED}, got {sorted(set(labels[known].tolist()))[:10]}")
    if height < grid[0] or width < grid[1]:
        raise ValueError(f"a picture of {height} x {width} pixels has fewer pixels than {grid[0]} x {grid[1]} tokens")
    rows = torch.arange(height, device=labels.device) * grid[0] // height
    columns = torch.arange(width, device=labels.device) * grid[1] // width
    token = (rows[:, None] * grid[1] + columns).flatten()  # [HW]
    tokens = grid[0] * grid[1]
    wanted = known.flatten()
    counts = torch.bincount(token[wanted] * classes + labels.flatten()[wanted], minlength=tokens * classes).view(*grid, classes).float()
    pixels = torch.bincount(token, minlength=tokens).view(grid).float()
    kept = counts.sum(dim=2)
    return counts / kept.clamp(min=1)[..., None], kept / pixels


def label_scores(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Token predictions ``(h, w, C)`` as score maps ``(C, H, W)`` of ``size``, bilinear between the centres of the tokens."""
    return F.interpolate(shares.movedim(2, 0)[None].float(), size=size, mode="bilinear", align_corners=False)[0]
