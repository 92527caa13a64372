"""Contrast that concentrates on hard negatives and corrects for the false ones among them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.log_partition import log_partition
from suite3d.losses.rows import two_views


def hard_negative_contrast(first: Tensor, second: Tensor, *, temperature: float, concentration: float = 1.0, prior: float = 0.1) -> Tensor:
    """Mean over all 2M views i of ``-log( p_i / (p_i + g_i) )`` with ``p_i = exp(z_i.z_i' / t)`` and, over the n = 2M - 2 negatives s_j = z_i.z_j,

        g_i = max( (n R_i - n prior p_i) / (1 - prior),  n exp(-1 / t) ),   R_i = sum_j w_j exp(s_j / t),   w_j ~ exp(b s_j / t), sum_j w_j = 1

    A concentration b of 0 and a prior of 0 give NT-Xent, b = 0 alone the debiased loss of Chuang et al. (NeurIPS 2020).

    Args:
        first, second: ``(N, D)``; row i of both comes from sample i. N may differ between ranks.
        temperature: t > 0.
        concentration: b >= 0; larger looks at the hardest negatives only.
        prior: probability in [0, 1) that a negative is of the anchor's own class.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, parameters out of range, fewer than two samples over all ranks.

    Source: Robinson et al., "Contrastive Learning with Hard Negative Samples", ICLR 2021, equations 3 and 4.
    """
    check_temperature(temperature)
    if concentration < 0 or not 0 <= prior < 1:
        raise ValueError(f"hard_negative_contrast expected concentration >= 0 and a prior in [0, 1), got {concentration} and {prior}")
    pair = two_views("hard_negative_contrast", first, second, temperature=temperature)
    positive, left_out = pair.positive, (pair.own, pair.sample)
    count = 2 * pair.samples - 2
    # log R: the weights' own sum is a second log-sum over the same similarities.
    hard = log_partition(pair.anchors * (1 + concentration), pair.views, leave_out=left_out)
    hard = hard - log_partition(pair.anchors * concentration, pair.views, leave_out=left_out)  # [2N]
    # Everything relative to the positive, so that no exponential of 1/t stands alone.
    ratio = count * ((hard - positive).exp() - prior) / (1 - prior)
    floor = (math.log(count) - 1 / temperature - positive).exp()
    return mean_over_ranks(torch.maximum(ratio, floor).log1p().sum(), len(positive))
