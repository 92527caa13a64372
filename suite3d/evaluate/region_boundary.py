"""How well a mask fits: overlap of regions (J) and agreement of outlines (F), the measures of video object segmentation.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation", CVPR 2016, section 5; outlines after Martin et
al., TPAMI 2004, matched within a small distance as in the benchmark: one outline is thickened, and what the other has inside counts as matched.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

TOLERANCE = 0.008
"""Largest distance of matching outline pixels, share of the picture's diagonal."""


def region_overlap(found: Tensor, truth: Tensor, void: Tensor | None = None) -> Tensor:
    """J of masks ``(n, H, W)`` bool: intersection over union, ``(n,)`` float64; 1 where both are empty. ``void``: pixels that do not count."""
    _check(found, truth, void)
    kept = True if void is None else ~void
    shared = (found & truth & kept).sum(dim=(1, 2)).double()
    union = ((found | truth) & kept).sum(dim=(1, 2)).double()
    return torch.where(union > 0, shared / union.clamp(min=1), torch.ones_like(union))


def boundary_score(found: Tensor, truth: Tensor, void: Tensor | None = None, *, tolerance: float = TOLERANCE) -> Tensor:
    """F of masks ``(n, H, W)`` bool: harmonic mean of the precision and the recall of their outlines, ``(n,)`` float64.

    Where an outline is empty, nothing of it is missed: precision (found) or recall (truth) is 1, and F is 0 unless both are empty.

    Args:
        void: ``(n, H, W)`` bool, pixels that do not count.
        tolerance: radius of the disc that an outline is thickened by, share of the diagonal (rounded up to pixels), or pixels from 1 on.
    """
    _check(found, truth, void)
    radius = math.ceil(tolerance if tolerance >= 1 else tolerance * math.hypot(*found.shape[1:]))
    kept = True if void is None else ~void
    ours, theirs = outline(found) & kept, outline(truth) & kept
    precision = _matched(ours, thicken(theirs, radius))
    recall = _matched(theirs, thicken(ours, radius))
    both = precision + recall
    return torch.where(both > 0, 2 * precision * recall / both.clamp(min=1e-12), torch.zeros_like(both))


def outline(mask: Tensor) -> Tensor:
    """``(n, H, W)`` bool: pixels whose neighbour to the right, below, or below to the right is on the other side of the outline."""
    padded = F.pad(mask[:, None].float(), (0, 1, 0, 1), mode="replicate")[:, 0].bool()
    here = padded[:, :-1, :-1]
    return (here ^ padded[:, :-1, 1:]) | (here ^ padded[:, 1:, :-1]) | (here ^ padded[:, 1:, 1:])


def thicken(mask: Tensor, radius: int) -> Tensor:
    """``(n, H, W)`` bool: all pixels within ``radius`` of one that is set."""
    if radius == 0:
        return mask
    place = torch.arange(-radius, radius + 1, device=mask.device)
    disc = (place[:, None] ** 2 + place**2 <= radius**2).float()
    return F.conv2d(mask[:, None].float(), disc[None, None], padding=radius)[:, 0] > 0.5


def _matched(outlines: Tensor, near: Tensor) -> Tensor:
    """Share of each outline's pixels that are ``near``; of an empty one 1."""
    count = outlines.sum(dim=(1, 2)).double()
    share = (outlines & near).sum(dim=(1, 2)).double() / count.clamp(min=1)
    return torch.where(count > 0, share, torch.ones_like(share))


def _check(found: Tensor, truth: Tensor, void: Tensor | None) -> None:
    shapes = [part.shape for part in (found, truth, void) if part is not None]
    kinds = [part.dtype for part in (found, truth, void) if part is not None]
    if any(shape != shapes[0] or len(shape) != 3 for shape in shapes) or set(kinds) != {torch.bool}:
        raise ValueError(f"masks expected as bool of one shape (n, H, W), got {[tuple(shape) for shape in shapes]} {kinds}")
