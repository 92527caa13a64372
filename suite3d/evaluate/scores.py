"""Classification scores, in percent: top-1, top-5, mean over classes."""

from __future__ import annotations

import torch
from torch import Tensor


def classification_scores(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """``scores (N, K)`` (logits or probabilities) against ``labels (N,)`` int64.

    Returns:
        ``top-1``, ``top-5`` (the true class is among the five best; left out with five classes or fewer), and ``mean-class``: the mean over
        the classes that occur of the share of their samples that top-1 gets right. Among equal scores the lower class number wins.

    Raises:
        ValueError: no samples, wrong shapes, or a label that is no class.
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(f"expected scores (N, K) and labels (N,) with N > 0, got {tuple(scores.shape)} and {tuple(labels.shape)}")
    classes = scores.shape[1]
    if int(labels.min()) < 0 or int(labels.max()) >= classes:
        raise ValueError(f"labels must lie in [0, {classes}), got {int(labels.min())} to {int(labels.max())}")
    if not bool(torch.isfinite(scores).all()):
        raise ValueError("the scores contain NaN or infinity: the classifier has diverged")
    ranked = scores.sort(dim=1, descending=True, stable=True).indices
    hit = ranked == labels[:, None]
    right = hit[:, 0].double()
    count = torch.bincount(labels, minlength=classes).double()
    recall = torch.zeros(classes, dtype=torch.double, device=labels.device).scatter_add_(0, labels, right) / count.clamp(min=1)
    result = {"top-1": 100 * float(right.mean())}
    if classes > 5:
        result["top-5"] = 100 * float(hit[:, :5].any(1).double().mean())
    result["mean-class"] = 100 * float(recall[count > 0].mean())
    return result
