"""A temperature for each pair of features, learned (AMCL)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PairTemperature(nn.Module):
    """``tau(a, b) = lowest + (highest - lowest) * sigmoid(-phi(a).phi(b))``: pairs that agree get a low temperature, uncertain ones a high one.

    phi is a two-layer perceptron, shared by all projection heads.

    Args:
        dim: channels of the features.
        hidden: channels between the layers; None = dim.
        lowest, highest: range of the temperature, 0 < lowest < highest.

    Source: Wang et al., "Adaptive Multi-head Contrastive Learning", ECCV 2024, section 4 (equation 3).
    """

    def __init__(self, dim: int, *, hidden: int | None = None, lowest: float = 1e-5, highest: float = 2.0) -> None:
        super().__init__()
        if not 0 < lowest < highest:
            raise ValueError(f"PairTemperature expected 0 < lowest < highest, got {lowest} and {highest}")
        self.lowest, self.highest = lowest, highest
        self.phi = nn.Sequential(nn.Linear(dim, hidden or dim), nn.ReLU(), nn.Linear(hidden or dim, dim))

    def embed(self, features: Tensor) -> Tensor:
        """``(..., D)`` -> ``(..., D)`` phi, in the precision of the weights under autocast too: 1 / tau is steep."""
        with torch.autocast(features.device.type, enabled=False):
            embedded: Tensor = self.phi(features)
        return embedded

    def forward(self, scores: Tensor) -> Tensor:
        """Temperatures of pairs whose embeddings have the inner products ``scores``, any shape."""
        return self.lowest + (self.highest - self.lowest) * torch.sigmoid(-scores)
