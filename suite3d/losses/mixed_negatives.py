"""Harder negatives than the queue holds, mixed from its hardest ones (MoCHi)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import check_pairs, dots, unit


@torch.no_grad()
def mixed_negatives(queries: Tensor, negatives: Tensor, *, hardest: int, pairs: int, with_query: int, generator: torch.Generator) -> Tensor:
    """Synthetic negatives of each query, unit vectors without gradient: ``(N, pairs + with_query, D)``.

    Of the ``hardest`` negatives n by cosine with the query q, drawn at random with replacement,

        h = a n_i + (1 - a) n_j,  a ~ U(0, 1),     ``pairs`` times;
        h = b q + (1 - b) n_j,    b ~ U(0, 1/2),   ``with_query`` times, so that the query never weighs more than the negative.

    Args:
        queries: ``(N, D)``. negatives: ``(K, D)``, a queue.
        hardest: how many negatives are mixed from, 1 to K (all K if there are fewer).
        generator: on the CPU; the only source of randomness.

    Raises:
        ValueError: shapes, no negative at all, a count below 0 or ``hardest`` below 1.

    Source: Kalantidis et al., "Hard Negative Mixing for Contrastive Learning" (MoCHi), NeurIPS 2020, equations 3 and 4.
    """
    if queries.ndim != 2 or negatives.ndim != 2 or queries.shape[1] != negatives.shape[1] or not len(negatives):
        raise ValueError(f"mixed_negatives expected queries (N, D) and negatives (K, D), got {tuple(queries.shape)} and {tuple(negatives.shape)}")
    if hardest < 1 or pairs < 0 or with_query < 0:
        raise ValueError(f"mixed_negatives expected hardest >= 1 and counts >= 0, got {hardest}, {pairs} and {with_query}")
    q, pool = unit(queries), unit(negatives)
    hard = dots(q, pool).topk(min(hardest, len(pool)), dim=1).indices  # [N, H]
    rows, device = len(q), q.device
    picks = torch.randint(hard.shape[1], (rows, 2 * pairs + with_query), generator=generator).to(device)
    shares = torch.rand(rows, pairs + with_query, 1, generator=generator).to(device, q.dtype)
    picked = pool[hard.gather(1, picks)]  # [N, 2 pairs + with_query, D]
    one, other, partner = picked.split((pairs, pairs, with_query), dim=1)
    a, b = shares[:, :pairs], shares[:, pairs:] / 2
    mixed = torch.cat((a * one + (1 - a) * other, b * q[:, None] + (1 - b) * partner), dim=1)
    return F.normalize(mixed, dim=2)


def mixed_info_nce(queries: Tensor, keys: Tensor, negatives: Tensor, synthetic: Tensor, *, temperature: float) -> Tensor:
    """InfoNCE whose denominator holds the positive, a queue shared by all queries, and each query's own synthetic negatives.

        mean_i -log( e(k_i) / (e(k_i) + sum_j e(n_j) + sum_s e(h_is)) ),   e(x) = exp(q_i.x / t), all scaled to unit length

    Args:
        queries, keys: ``(N, D)``; row i of both is the positive pair. N may differ between ranks.
        negatives: ``(K, D)``. synthetic: ``(N, S, D)`` from :func:`mixed_negatives`. No gradient reaches either.
        temperature: t > 0.

    Returns:
        Scalar, at least float32; averaged over ranks it is the mean over all ranks' queries.

    Source: as :func:`mixed_negatives`, section 3.
    """
    check_pairs("mixed_info_nce", queries, keys)
    if negatives.shape[1:] != queries.shape[1:] or synthetic.shape[::2] != queries.shape:
        shapes = [tuple(x.shape) for x in (queries, negatives, synthetic)]
        raise ValueError(f"mixed_info_nce expected queries (N, D), negatives (K, D) and synthetic (N, S, D), got {shapes}")
    check_temperature(temperature)
    q, k, n, h = unit(queries), unit(keys), unit(negatives.detach()), unit(synthetic.detach())
    positive = (q * k).sum(dim=1, keepdim=True)  # [N, 1]
    logits = torch.cat((positive, dots(q, n), dots(q[:, None], h)[:, 0]), dim=1) / temperature  # [N, 1 + K + S]
    return mean_over_ranks((logits.logsumexp(dim=1) - logits[:, 0]).sum(), len(q))
