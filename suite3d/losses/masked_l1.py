"""Absolute error on latents, where they were hidden."""

from __future__ import annotations

from torch import Tensor

from suite3d.losses.gather import mean_over_ranks


def masked_l1(predicted: Tensor, target: Tensor, hidden: Tensor) -> Tensor:
    """Mean over hidden tokens of the mean absolute error of a token's channels: ``sum_m h_m mean_d |p_md - t_md| / sum_m h_m``.

    Args:
        predicted, target: ``(B, N, D)``.
        hidden: ``(B, N)`` bool, which tokens count; any number in each row.

    Returns:
        Scalar float32; averaged over ranks it is the mean over all ranks' hidden tokens.

    Source: Bardes et al., "Revisiting Feature Prediction for Learning Visual Representations from Video" (V-JEPA), 2024, equation 1.
    """
    if predicted.shape != target.shape or hidden.shape != predicted.shape[:2]:
        shapes = [tuple(x.shape) for x in (predicted, target, hidden)]
        raise ValueError(f"masked_l1 expected predictions and targets (B, N, D) and a mask (B, N), got {shapes}")
    error = (predicted.float() - target.float()).abs().mean(dim=-1)  # [B, N]
    return mean_over_ranks((error * hidden).sum(), hidden.sum())
