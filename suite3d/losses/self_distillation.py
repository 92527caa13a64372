"""Self-distillation with a soft, balanced teacher: DINO's loss between views and iBOT's on hidden tokens."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from suite3d.losses.gather import mean_over_ranks, sum_over_ranks
from suite3d.losses.info_nce import check_temperature
from suite3d.losses.rows import einsum, full_precision
from suite3d.losses.sinkhorn import sinkhorn


class Centre(nn.Module):
    """Running mean of the teacher's logits over all ranks, ``c <- m c + (1 - m) mean(logits)``: taken off, no prototype can win always.

    Args:
        prototypes: K. momentum: m in [0, 1].

    Attributes:
        value: ``(K,)`` float32.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO), ICCV 2021, equation 4.
    """

    value: Tensor

    def __init__(self, prototypes: int, *, momentum: float = 0.9) -> None:
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(f"momentum must lie in [0, 1], got {momentum}")
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(prototypes))

    @torch.no_grad()
    def update(self, logits: Tensor) -> None:
        """Move towards the mean of the rows ``(..., K)`` of all ranks; without any row nothing moves."""
        rows = logits.detach().flatten(0, -2).float()
        total = sum_over_ranks(torch.cat((rows.sum(dim=0), rows.new_tensor([len(rows)]))))
        if total[-1] > 0:
            self.value.lerp_(total[:-1] / total[-1], 1 - self.momentum)

    @torch.no_grad()
    def targets(self, logits: Tensor, *, temperature: float) -> Tensor:
        """``softmax((logits - c) / t)`` over the last axis, without gradient."""
        check_temperature(temperature)
        return ((full_precision(logits) - self.value) / temperature).softmax(dim=-1)


def sinkhorn_targets(logits: Tensor, *, temperature: float, sweeps: int = 3) -> Tensor:
    """Teacher probabilities balanced over the rows ``(..., K)`` of all ranks instead of centred (DINOv2's choice): no state to keep."""
    return sinkhorn(logits.flatten(0, -2), eps=temperature, sweeps=sweeps).view(logits.shape)


def self_distillation(student: Tensor, teacher: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean over teacher views g and student views v != g of the mean over samples of ``-sum_k p_gk log softmax(s_v / t)_k``.

    Args:
        student: ``(V, N, K)`` logits, the views that the teacher saw first, in its order.
        teacher: ``(G, N, K)`` probabilities of :meth:`Centre.targets` or :func:`sinkhorn_targets`; no gradient reaches them.
        temperature: t > 0 of the student.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes, or no pair of different views.

    Source: Caron et al., DINO, equations 1 to 3.
    """
    if student.ndim != 3 or teacher.ndim != 3 or student.shape[1:] != teacher.shape[1:] or not 1 <= len(teacher) <= len(student):
        raise ValueError(
            f"self_distillation expected student (V, N, K) and teacher (G <= V, N, K), got {tuple(student.shape)}, {tuple(teacher.shape)}"
        )
    views, seen = len(student), len(teacher)
    if views * seen == seen:
        raise ValueError("self_distillation expected at least two student views, got one")
    check_temperature(temperature)
    log_p = (full_precision(student) / temperature).log_softmax(dim=2)
    cross = -einsum("gnk,vnk->gv", teacher.detach().to(log_p.dtype), log_p)  # [G, V]
    itself = torch.eye(seen, views, dtype=torch.bool, device=cross.device)
    return mean_over_ranks(cross.masked_fill(itself, 0).sum() / (seen * (views - 1)), student.shape[1])


def masked_distillation(student: Tensor, teacher: Tensor, hidden: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Mean over samples of the mean over a sample's hidden tokens of ``-sum_k p_k log softmax(s / t)_k``; nothing hidden counts as 0.

    Args:
        student: ``(B, N, K)`` logits of the masked view's tokens. teacher: ``(B, N, K)`` probabilities of the same tokens of the full view.
        hidden: ``(B, N)`` bool.
        temperature: t > 0 of the student.

    Returns:
        Scalar, at least float32. Averaged over ranks it is the loss of the global batch.

    Raises:
        ValueError: shapes.

    Source: Zhou et al., "iBOT: Image BERT Pre-Training with Online Tokenizer", ICLR 2022, equation 2.
    """
    if student.ndim != 3 or student.shape != teacher.shape or hidden.shape != student.shape[:2] or hidden.dtype != torch.bool:
        shapes = [tuple(x.shape) for x in (student, teacher, hidden)]
        raise ValueError(f"masked_distillation expected (B, N, K), (B, N, K) and a bool mask (B, N), got {shapes} {hidden.dtype}")
    check_temperature(temperature)
    log_p = (full_precision(student) / temperature).log_softmax(dim=2)
    cross = -(teacher.detach().to(log_p.dtype) * log_p).sum(dim=2)  # [B, N]
    return mean_over_ranks(((cross * hidden).sum(dim=1) / hidden.sum(dim=1).clamp(min=1)).sum(), len(student))
