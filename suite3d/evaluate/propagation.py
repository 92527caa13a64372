"""Labels of the first frame carried through a video by the similarity of features, as in the self-supervised label propagation benchmarks.

    label(q) = sum_k softmax_k(cos(f_q, f_k) / T) label(k)   over the K most similar tokens k of the context frames within the window of q

The context is the first frame and the n frames before this one, with the labels given and found; nothing is trained. Protocol: Jabri et al.,
"Space-Time Correspondence as a Contrastive Random Walk", NeurIPS 2020 (STC), as DINO (Caron et al., ICCV 2021, section 4.2.2) runs it on
tokens. Where the two differ: the window is a square, of the first frame too, and the labels of a token are the shares of its pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.evaluate.token_labels import label_scores


@dataclass(kw_only=True)
class PropagationConfig:
    """Label propagation; the numbers are SiamMAE's and CropMAE's (7 neighbours, window 20, 20 frames) with DINO's temperature.

    Attributes:
        context: frames before the current one whose labels count, besides the first.
        neighbours: tokens a label is taken from.
        radius: half side of the square window, tokens; 0 = the same place only.
        temperature: of the softmax over the neighbours' cosines.
    """

    context: int = 20
    neighbours: int = 7
    radius: int = 20
    temperature: float = 0.1

    def __post_init__(self) -> None:
        if min(self.context, self.radius) < 0 or self.neighbours < 1 or not self.temperature > 0:
            raise ValueError(f"propagation expected context, radius >= 0, neighbours >= 1 and temperature > 0, got {self}")


@torch.no_grad()
def propagate_labels(features: Tensor, first: Tensor, config: PropagationConfig) -> Tensor:
    """Labels of every frame.

    Args:
        features: ``(T, h, w, D)`` of the frames.
        first: ``(h, w, C)`` label shares of the first frame.
        config: see :class:`PropagationConfig`.

    Returns:
        ``(T, h, w, C)`` float32; the first is ``first``.

    Raises:
        ValueError: shapes that do not fit, or features that are not finite.
    """
    if features.ndim != 4 or first.ndim != 3 or features.shape[1:3] != first.shape[:2]:
        raise ValueError(f"expected features (T, h, w, D) and labels (h, w, C), got {tuple(features.shape)} and {tuple(first.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError("label propagation needs finite features, got NaN or infinity")
    unit = F.normalize(features.float(), dim=3)
    labels = first.new_zeros(len(unit), *first.shape, dtype=torch.float32)
    labels[0] = first
    for frame in range(1, len(unit)):
        context = [0, *range(max(1, frame - config.context), frame)]
        labels[frame] = _next_frame(unit[frame], unit[context], labels[context], config)
    return labels


def _next_frame(queries: Tensor, keys: Tensor, labels: Tensor, config: PropagationConfig) -> Tensor:
    """Labels of one frame ``(h, w, D)`` from its context ``(F, h, w, D)``, ``(F, h, w, C)``, row by row, so that memory stays small."""
    height, width, _ = queries.shape
    column = torch.arange(width, device=queries.device)
    far = (column[:, None] - column).abs() > config.radius  # [w, w]
    rows = []
    for row in range(height):
        band = slice(max(row - config.radius, 0), row + config.radius + 1)
        key, label = keys[:, band], labels[:, band].flatten(0, 2)  # [F, b, w, D], [F b w, C]
        cosine = torch.einsum("qd,fbkd->qfbk", queries[row], key)
        cosine = cosine.masked_fill(far[:, None, None], -torch.inf).flatten(1)  # [w, F b w]
        near, where = cosine.topk(min(config.neighbours, cosine.shape[1]), dim=1)  # [w, K]
        weight = (near / config.temperature).softmax(dim=1)
        rows.append((weight[..., None] * label[where]).sum(dim=1))  # [w, C]
    return torch.stack(rows)


def decide(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """``(h, w, C)`` label shares of a frame -> ``(H, W)`` int64: the largest after each label's map is stretched to [0, 1], as DINO does, so
    that a small object is not outvoted by its surroundings. A label that the frame does not have stays 0."""
    scores = label_scores(shares, size)  # [C, H, W]
    low, high = scores.amin(dim=(1, 2), keepdim=True), scores.amax(dim=(1, 2), keepdim=True)
    stretched = (scores - low) / (high - low).clamp(min=1e-12)
    # A map that is the same everywhere cannot be stretched; it counts as it is (the background of a frame without objects is 1).
    return torch.where(high > low, stretched, scores).argmax(dim=0)
