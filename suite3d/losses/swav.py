"""SwAV: every crop predicts the prototypes that the other, full-size crops of its sample were assigned to."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import einsum, full_precision
from suite3d.losses.sinkhorn import sinkhorn


def swav(scores: Tensor, *, assigned: int = 2, queued: Tensor | None = None, temperature: float = 0.1, eps: float = 0.05, sweeps: int = 3) -> Tensor:
    """Mean over the A assigned crops g and the V - 1 others v of the mean over samples of ``-sum_k q_gk log softmax(s_v / t)_k``.

    q_g is the soft assignment :func:`suite3d.losses.sinkhorn.sinkhorn` of crop g's scores, balanced over all ranks' samples and the queue.

    Args:
        scores: ``(V, N, K)`` cosines of V crops with K prototypes, the assigned (full-size) crops first. N may differ between ranks.
        assigned: A, 1 to V; with V = A each crop predicts the others.
        queued: ``(A, Q, K)`` scores of features of earlier batches, with the present prototypes; they only help to balance. Ranks that hold
            the same queue each pass their own part of it.
        temperature: t > 0. eps, sweeps: of Sinkhorn.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, fewer than two crops, no or too many assigned crops, a temperature that is not positive.

    Source: Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (SwAV), NeurIPS 2020,
    equations 2 to 6.
    """
    if scores.ndim != 3 or len(scores) < 2 or not 1 <= assigned <= len(scores):
        raise ValueError(f"swav expected scores (V, N, K) of at least two crops, {assigned} of them assigned, got {tuple(scores.shape)}")
    if queued is not None and (queued.ndim != 3 or queued.shape[::2] != (assigned, scores.shape[2])):
        raise ValueError(f"swav expected queued scores ({assigned}, Q, {scores.shape[2]}), got {tuple(queued.shape)}")
    check_temperature(temperature)
    scores = full_precision(scores)
    rows = scores.shape[1]
    codes = []
    for crop in range(assigned):
        pool = scores[crop].detach() if queued is None else torch.cat((scores[crop].detach(), queued[crop].to(scores.dtype)))
        codes.append(sinkhorn(pool, eps=eps, sweeps=sweeps)[:rows])
    targets = torch.stack(codes).to(scores.dtype)  # [A, N, K]
    cross = -einsum("ank,vnk->av", targets, (scores / temperature).log_softmax(dim=2))  # [A, V]
    itself = torch.eye(assigned, len(scores), dtype=torch.bool, device=cross.device)
    return mean_over_ranks(cross.masked_fill(itself, 0).sum() / (assigned * (len(scores) - 1)), rows)
