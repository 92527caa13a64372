"""The other projection heads: fixed, on prototypes, DINO's, and one whose weights are made from words.

The linear head is ``projector((dim, out))`` and the non-linear one ``projector((dim, hidden, out))`` of :mod:`suite3d.nn.heads`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FixedReweighting(nn.Module):
    """Feature c of the encoder times ``kappa^-c``, c = 0, 1, ...: a head without a parameter to learn.

    A learned head does good because what lies before it weighs the features more evenly than what the loss sees; here the unevenness is set.

    Args:
        dim: channels. kappa: > 1; the last weight is ``kappa^(1 - dim)``, which must be representable.

    Raises:
        ValueError: kappa that is not above 1, or so large that weights vanish.

    Source: Xue et al., "Investigating the Benefits of Projection Head for Representation Learning", ICLR 2024, section 6.
    """

    weights: Tensor

    def __init__(self, dim: int, *, kappa: float) -> None:
        super().__init__()
        if not kappa > 1:
            raise ValueError(f"FixedReweighting expected kappa > 1, got {kappa}")
        weights = torch.tensor(kappa, dtype=torch.float64) ** -torch.arange(dim, dtype=torch.float64)
        if weights[-1] < torch.finfo(torch.float32).tiny:
            raise ValueError(
                f"FixedReweighting expected the last of {dim} weights to be representable, got {float(weights[-1]):.1e}: use a smaller kappa"
            )
        self.register_buffer("weights", weights.float())

    def forward(self, features: Tensor) -> Tensor:
        """``(..., dim)`` -> ``(..., dim)``."""
        return features * self.weights


class Prototypes(nn.Module):
    """Cosines of features with K learned directions, ``(..., dim)`` -> ``(..., K)`` (SwAV, DINO's last layer with its gain at 1).

    Features and prototypes are scaled to unit length in the forward pass, so no step can leave the sphere. ``freeze`` the prototypes for the
    first steps (SwAV: 313 of them, DINO: one epoch) by ``requires_grad_(False)``.

    Args:
        dim, count: channels and prototypes. generator: source of the initial directions.
    """

    def __init__(self, dim: int, count: int, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, dim))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw directions evenly on the sphere."""
        self.weight.copy_(F.normalize(torch.randn(self.weight.shape, generator=generator), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 cannot resolve cosines over a small temperature
            scores: Tensor = F.normalize(features.to(self.weight.dtype), dim=-1) @ F.normalize(self.weight, dim=1).T
        return scores


class DistillationHead(nn.Module):
    """DINO's head: three linear layers with GELU, a bottleneck scaled to unit length, prototypes.

    Args:
        dim: channels of the encoder. prototypes: K. hidden, bottleneck: channels inside.
        generator: source of the initial weights.

    Source: Caron et al., "Emerging Properties in Self-Supervised Vision Transformers" (DINO), ICCV 2021, section 3.1 and appendix C.
    """

    def __init__(self, dim: int, prototypes: int, *, hidden: int = 2048, bottleneck: int = 256, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, bottleneck))
        self.prototypes = Prototypes(bottleneck, prototypes, generator=generator)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Linear weights normal with deviation 0.02, cut at 2; biases 0; new prototypes."""
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
                nn.init.zeros_(layer.bias)
        self.prototypes.reset_parameters(generator)

    def forward(self, features: Tensor) -> Tensor:
        """``(..., dim)`` -> ``(..., K)`` cosines; divide by the temperature in the loss."""
        scores: Tensor = self.prototypes(self.mlp(features))
        return scores


class WordPredictor(nn.Module):
    """Scores of visual words for a feature, with a weight vector made from each word: ``gamma * f . G(v_k)`` (OBoW).

    The vocabulary changes all the time; weights made by a network from the words follow it at once. G scales words to unit length, then a
    two-layer perceptron, then unit length again; gamma is learned.

    Args:
        dim: channels of the student's features. word_dim: channels of the words. hidden: channels inside, None = 2 * dim.
        gamma: initial gain.

    Source: Gidaris et al., "OBoW", CVPR 2021, section 3.3.
    """

    def __init__(self, dim: int, word_dim: int, *, hidden: int | None = None, gamma: float = 5.0) -> None:
        super().__init__()
        self.generate = nn.Sequential(nn.Linear(word_dim, hidden or 2 * dim), nn.ReLU(), nn.Linear(hidden or 2 * dim, dim))
        self.gamma = nn.Parameter(torch.tensor(gamma))

    def forward(self, features: Tensor, words: Tensor) -> Tensor:
        """Features ``(..., dim)`` (scaled to unit length here), words ``(K, word_dim)`` without gradient -> ``(..., K)`` logits."""
        weights = F.normalize(self.generate(F.normalize(words.detach().to(self.gamma.dtype), dim=1)), dim=1)
        scores: Tensor = self.gamma * F.normalize(features, dim=-1) @ weights.T
        return scores
