"""Masks that follow a map of scores over the tokens: attention, motion, text relevance, saliency, loss."""

from __future__ import annotations

import torch
from torch import Tensor

from suite3d.masking.streams import Generators, hidden_count


def score_mask(scores: Tensor, ratio: float, generators: Generators, *, temperature: float = 1.0) -> Tensor:
    """``(B, N)`` bool: :func:`hidden_count` tokens of each sample, drawn without replacement with probability proportional to
    ``exp(score / temperature)``, one after the other.

    Hide what matters (AttMask) with the scores as they are, keep what matters (UMT: log attention) with their negative. Temperature 0 hides
    exactly the highest scores; equal ones, and those that are -inf, in random order, the latter last.

    Args:
        scores: ``(B, N)`` float, +inf and NaN excluded; -inf = hide only if nothing else is left.
        ratio: share to hide, in (0, 1).
        generators: B of them.
        temperature: at least 0.

    Raises:
        ValueError: the shape, scores of NaN or +inf, generators and samples that differ in number, the ratio.

    Source: sampling without replacement by Gumbel keys, Kool et al., ICML 2019; masks as in Li et al., "Unmasked Teacher", ICCV 2023,
    section 3.2, and Kakogeorgiou et al., "What to Hide from Your Students" (AttMask), ECCV 2022.
    """
    if scores.ndim != 2:
        raise ValueError(f"score_mask expected scores (B, N), got {tuple(scores.shape)}")
    offsets = torch.arange(len(scores) + 1, device=scores.device) * scores.shape[1]
    return jagged_score_mask(scores.flatten(), offsets, ratio, generators, temperature=temperature).view(scores.shape)


def jagged_score_mask(scores: Tensor, offsets: Tensor, ratio: float, generators: Generators, *, temperature: float = 1.0) -> Tensor:
    """``(N,)`` bool: as :func:`score_mask` for samples of any size; sample b owns rows ``offsets[b]:offsets[b + 1]`` of ``scores (N,)``."""
    edges = offsets.tolist()
    if scores.ndim != 1 or not edges or edges[0] != 0 or edges[-1] != len(scores) or edges != sorted(edges):
        raise ValueError(f"jagged_score_mask expected scores (N,) and offsets from 0 to N, got {tuple(scores.shape)} and {edges}")
    if len(generators) != len(edges) - 1:
        raise ValueError(f"expected one generator per sample, {len(edges) - 1}, got {len(generators)}")
    if temperature < 0:
        raise ValueError(f"temperature must not be negative, got {temperature}")
    host = scores.detach().double().cpu()
    if bool((host.isnan() | (host == torch.inf)).any()):
        raise ValueError("scores must not be NaN or +inf")
    hidden = torch.zeros(len(host), dtype=torch.bool)
    for start, stop, generator in zip(edges[:-1], edges[1:], generators, strict=True):
        count = hidden_count(stop - start, ratio)
        # A random order first, kept by the stable sort, decides between equal keys.
        order = torch.randperm(stop - start, generator=generator)
        keys = host[start:stop][order]
        if temperature > 0:
            uniform = torch.rand(len(order), generator=generator, dtype=torch.float64).clamp(min=torch.finfo(torch.float64).tiny)
            keys = keys / temperature - (-uniform.log()).log()
        hidden[start + order[keys.argsort(descending=True, stable=True)[:count]]] = True
    return hidden.to(scores.device)
