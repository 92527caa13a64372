"""Mask ratios that change: with the step, or drawn anew for each step."""

from __future__ import annotations

import math
from typing import Literal

import torch

Shape = Literal["linear", "cosine", "exponential"]


def ratio_at(step: int, total: int, start: float, end: float, *, shape: Shape = "linear", stairs: int | None = None) -> float:
    """Mask ratio of a step in [0, total): from ``start`` at the first step to ``end`` at the last.

    ``linear`` in the share p of steps done, ``cosine`` ``(1 - cos(pi p)) / 2`` (slow at both ends), ``exponential`` geometric in the ratio.
    An easy task first speeds up training: LMD and Mask & Match grow the ratio.

    Args:
        start, end: in (0, 1).
        stairs: so many equal stretches of steps with one ratio each, so that only so many shapes occur; None changes it every step.

    Raises:
        ValueError: a ratio outside (0, 1), no step, fewer than two stairs.

    Source: Ma et al., "LMD: Faster Image Reconstruction with Latent Masking Diffusion", 2023, section 3.3 (progressive masking schedulers).
    """
    if not 0 < start < 1 or not 0 < end < 1:
        raise ValueError(f"ratio_at expected ratios strictly between 0 and 1, got {start} and {end}")
    if total < 1 or (stairs is not None and stairs < 2):
        raise ValueError(f"ratio_at expected at least one step and two stairs, got {total} and {stairs}")
    share = min(max(step / max(total - 1, 1), 0.0), 1.0)
    if stairs is not None:
        share = min(math.floor(min(max(step, 0), total - 1) * stairs / total), stairs - 1) / (stairs - 1)
    if shape == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    elif shape == "exponential":
        return float(start * (end / start) ** share)
    elif shape != "linear":
        raise ValueError(f"ratio_at expected the shape linear, cosine or exponential, got {shape!r}")
    return start + (end - start) * share


def drawn_ratio(low: float, high: float, generator: torch.Generator) -> float:
    """A ratio uniform in [low, high): the same for a whole batch if the generator is seeded by the step (GMML)."""
    if not 0 < low <= high < 1:
        raise ValueError(f"drawn_ratio expected 0 < low <= high < 1, got {low} and {high}")
    return low + (high - low) * float(torch.rand((), generator=generator))
