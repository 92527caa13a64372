"""Semantic groups of places, found without labels, contrasted as objects (SlotCon).

The grouping itself is trained by :func:`suite3d.losses.self_distillation.self_distillation` on the prototype scores of places that two crops
share, each place a row, with a centred teacher.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.losses.gather import gather_rows, mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import dots, einsum, full_precision, own_rows, unit


def slots(features: Tensor, assignment: Tensor) -> tuple[Tensor, Tensor]:
    """Features of the groups: ``s_k = sum_i a_ik z_i / sum_i a_ik``, scaled to unit length, and which groups occur in the sample.

    Args:
        features: ``(B, N, D)`` z. assignment: ``(B, N, K)`` probabilities a of each place over the groups.

    Returns:
        ``(B, K, D)`` slots; ``(B, K)`` bool, True where some place prefers the group.

    Source: Wen et al., "Self-Supervised Visual Representation Learning with Semantic Grouping" (SlotCon), NeurIPS 2022, equations 4 and 5.
    """
    if features.ndim != 3 or assignment.ndim != 3 or features.shape[:2] != assignment.shape[:2]:
        raise ValueError(f"slots expected features (B, N, D) and an assignment (B, N, K), got {tuple(features.shape)} and {tuple(assignment.shape)}")
    z, a = full_precision(features), full_precision(assignment)
    pooled = einsum("bnk,bnd->bkd", a, z) / a.sum(dim=1).clamp(min=torch.finfo(a.dtype).eps)[:, :, None]
    occurs = F.one_hot(a.argmax(dim=2), a.shape[2]).any(dim=1)
    return F.normalize(pooled, dim=2), occurs


def slot_contrast(queries: Tensor, keys: Tensor, query_occurs: Tensor, key_occurs: Tensor, *, temperature: float = 0.2) -> Tensor:
    """Each group of a sample finds itself in the other crop among all groups of all samples.

    Mean over (b, k) that occur in both crops of ``-log( exp(q_bk.s_bk / t) / sum_{(c, l) that occur} exp(q_bk.s_cl / t) )``, over all ranks.

    Args:
        queries: ``(B, K, D)`` the student's slots after the predictor. keys: ``(B, K, D)`` the teacher's; no gradient reaches them.
        query_occurs, key_occurs: ``(B, K)`` bool.
        temperature: t > 0.

    Returns:
        Scalar, at least float32, 0 where no group occurs in both crops. Averaged over ranks it is the loss of the global batch.

    Source: Wen et al., NeurIPS 2022, equation 6.
    """
    if queries.ndim != 3 or queries.shape != keys.shape or not query_occurs.shape == key_occurs.shape == queries.shape[:2]:
        shapes = [tuple(x.shape) for x in (queries, keys, query_occurs, key_occurs)]
        raise ValueError(f"slot_contrast expected two (B, K, D) and two bool (B, K), got {shapes}")
    check_temperature(temperature)
    q, k = unit(queries), unit(keys.detach())
    groups = queries.shape[1]
    own, _ = own_rows(q)
    place = (own[:, None] * groups + torch.arange(groups, device=own.device)).flatten()  # [B K] of the positive
    everyone = gather_rows(k).flatten(0, 1)  # [M K, D]
    occurs = gather_rows(key_occurs.to(torch.uint8)).bool().flatten()
    both = (query_occurs & key_occurs).flatten()
    logits = dots(q.flatten(0, 1)[both], everyone).masked_fill(~occurs, -torch.inf) / temperature
    return mean_over_ranks(F.cross_entropy(logits, place[both], reduction="sum"), both.sum())
