"""Bags of visual words: an image is described by which words of a vocabulary its feature map contains (OBoW)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite3d.losses.gather import mean_over_ranks, sum_over_ranks
from suite3d.losses.rows import dots, full_precision


class WordScale(nn.Module):
    """Running mean of the squared distance from a feature to its nearest word, over all ranks: what "near" means for this vocabulary.

    Args:
        momentum: of the running mean, in [0, 1]; the first update sets it.

    Attributes:
        value: float32 scalar, 0 until the first update.
    """

    value: Tensor

    def __init__(self, *, momentum: float = 0.99) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(()))

    @torch.no_grad()
    def update(self, features: Tensor, words: Tensor) -> None:
        """Features ``(B, N, D)``, words ``(K, D)``; without any feature nothing moves."""
        nearest = squared_distances(features, words).amin(dim=2)  # [B, N]
        total, count = sum_over_ranks(torch.stack((nearest.sum().float(), nearest.new_tensor(nearest.numel(), dtype=torch.float32))))
        if count > 0:
            keep = torch.where(self.value > 0, self.momentum, 0.0)
            self.value.copy_(keep * self.value + (1 - keep) * total / count)


@torch.no_grad()
def bag_of_words(features: Tensor, words: Tensor, *, delta: Tensor | float) -> Tensor:
    """The teacher's target: ``(B, K)`` probabilities ``y_k = max_u q_uk / sum_l max_u q_ul`` with ``q_u = softmax_k(-|f_u - v_k|^2 / delta)``.

    The maximum over places says that a word occurs, not how often, so large plain areas do not outweigh small objects.

    Args:
        features: ``(B, N, D)`` the teacher's features at N places. words: ``(K, D)`` the vocabulary, such as a queue of earlier features.
        delta: > 0; OBoW takes :class:`WordScale` divided by 10 or 15.

    Raises:
        ValueError: shapes, a delta that is not positive.

    Source: Gidaris et al., "OBoW: Online Bag-of-Visual-Words Generation for Self-Supervised Learning", CVPR 2021, section 3.
    """
    if features.ndim != 3 or words.ndim != 2 or features.shape[2] != words.shape[1]:
        raise ValueError(f"bag_of_words expected features (B, N, D) and words (K, D), got {tuple(features.shape)} and {tuple(words.shape)}")
    if not delta > 0:
        raise ValueError(f"bag_of_words expected delta > 0, got {float(delta)}")
    assigned = (-squared_distances(features, words) / delta).softmax(dim=2)  # [B, N, K]
    present = assigned.amax(dim=1)  # [B, K]
    return present / present.sum(dim=1, keepdim=True)


def bag_of_words_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over crops and samples of ``-sum_k y_k log softmax(logits)_k``.

    Args:
        logits: ``(V, N, K)`` of V crops. target: ``(N, K)`` from :func:`bag_of_words`.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Source: Gidaris et al., 2021, equation 4.
    """
    if logits.ndim != 3 or logits.shape[1:] != target.shape:
        raise ValueError(f"bag_of_words_loss expected logits (V, N, K) and a target (N, K), got {tuple(logits.shape)} and {tuple(target.shape)}")
    log_p = full_precision(logits).log_softmax(dim=2)
    return mean_over_ranks(-(target.detach().to(log_p.dtype) * log_p).sum() / len(logits), target.shape[0])


def squared_distances(features: Tensor, words: Tensor) -> Tensor:
    """``(..., N, D)``, ``(K, D)`` -> ``(..., N, K)``, not negative."""
    f, v = full_precision(features), full_precision(words)
    return (f.square().sum(dim=-1, keepdim=True) - 2 * dots(f, v) + v.square().sum(dim=1)).clamp(min=0)
