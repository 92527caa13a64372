"""One similarity must exceed another by a margin."""

from __future__ import annotations

from torch import Tensor

from suite3d.losses.gather import mean_over_ranks


def margin_ranking_loss(larger: Tensor, smaller: Tensor, *, margin: float = 1.0) -> Tensor:
    """Mean of ``max(0, margin - (larger_i - smaller_i))``.

    Args:
        larger, smaller: ``(N,)`` scores, the first of which should win. N may differ between ranks.
        margin: at least 0.

    Returns:
        Scalar float32; averaged over ranks it is the mean over all ranks' pairs.

    Source: Chen et al., "RSPNet", AAAI 2021, equation 2 (triplet loss on the similarities of clips).
    """
    if larger.shape != smaller.shape or larger.ndim != 1:
        raise ValueError(f"margin_ranking_loss expected two lists of scores (N,), got {tuple(larger.shape)} and {tuple(smaller.shape)}")
    if margin < 0:
        raise ValueError(f"margin must not be negative, got {margin}")
    return mean_over_ranks((margin - larger.float() + smaller.float()).clamp(min=0).sum(), len(larger))
