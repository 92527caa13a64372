"""Scaled cosine error: regression of a direction in which easy tokens count little (GraphMAE)."""

from __future__ import annotations

from torch import Tensor

from suite3d.losses.gather import mean_over_ranks
from suite3d.losses.rows import unit


def scaled_cosine_error(predicted: Tensor, target: Tensor, *, gamma: float = 2.0) -> Tensor:
    """Mean over tokens of ``(1 - cos(p, t))^gamma``.

    Args:
        predicted, target: ``(..., D)`` of one shape; only the tokens that count (the hidden ones).
        gamma: at least 1; larger looks more at the tokens that are still wrong.

    Returns:
        Scalar, at least float32, 0 for no token; averaged over ranks it is the mean over all ranks' tokens.

    Source: Hou et al., "GraphMAE", KDD 2022, equation 2.
    """
    if predicted.shape != target.shape or predicted.ndim < 1:
        raise ValueError(f"scaled_cosine_error expected one shape (..., D), got {tuple(predicted.shape)} and {tuple(target.shape)}")
    if gamma < 1:
        raise ValueError(f"scaled_cosine_error expected gamma >= 1, got {gamma}")
    error = (1 - (unit(predicted) * unit(target)).sum(dim=-1)).clamp(min=0)
    return mean_over_ranks(error.pow(gamma).sum(), error.numel())
