"""Clouds that are hard on neighbour searches: ties, duplicates, lines, clusters, tiny and huge scales, few or no points."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

KINDS = ("grid", "line", "same", "clusters", "tiny", "huge", "far", "normal")


def cloud(kind: str, count: int, seed: int) -> Tensor:
    """``(count, 3)`` float32 of a kind out of KINDS."""
    rng = np.random.default_rng(seed)
    normal = rng.standard_normal((count, 3))
    points = {
        "grid": np.round(normal * 2),
        "line": np.round(normal[:, :1] * 50) * np.array([1.0, 0.0, 0.0]),
        "same": np.ones((count, 3)),
        "clusters": np.round(normal) * 100 + normal * 1e-3,
        "tiny": normal * 1e-20,
        "huge": normal * 1e18,
        "far": normal + np.array([1e4, -1e4, 0]),
        "normal": normal,
    }[kind]
    return torch.from_numpy(points.astype(np.float32))


def clouds(limit: int) -> st.SearchStrategy[Tensor]:
    """Clouds of up to ``limit`` points of any kind."""
    return st.builds(cloud, st.sampled_from(KINDS), st.integers(0, limit), st.integers(0, 2**16))


def squared(query: Tensor, points: Tensor) -> np.ndarray:
    """``(Q, P)`` squared distances in float32, each operation rounded once; infinity where not finite."""
    q, p = query.numpy()[:, None], points.numpy()[None]
    with np.errstate(over="ignore", invalid="ignore"):
        gap = q - p
        result = gap[..., 0] * gap[..., 0] + gap[..., 1] * gap[..., 1] + gap[..., 2] * gap[..., 2]
    return np.where(np.isfinite(result), result, np.float32(np.inf))
