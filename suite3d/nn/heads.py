"""Small heads on top of an encoder: projectors, predictors and the classifier of fine-tuning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from suite3d.nn.initialise import initialise

Norm = Literal["batch", "layer", "none"]


def projector(dims: Sequence[int], *, norm: Norm = "batch") -> nn.Sequential:
    """Multi-layer perceptron over ``(N, dims[0])`` rows: linear, normalisation and ReLU between layers, the last layer linear.

    Args:
        dims: widths from input to output; two entries give a linear map.
        norm: normalisation of the hidden layers. ``batch`` (SimCLR's choice) makes rows depend on one another in training;
            linear layers before a normalisation carry no bias.

    Raises:
        ValueError: fewer than two widths.
    """
    if len(dims) < 2:
        raise ValueError(f"projector expected at least an input and an output width, got {list(dims)}")
    layers: list[nn.Module] = []
    for before, after in zip(dims[:-2], dims[1:-1], strict=True):
        layers.append(nn.Linear(before, after, bias=norm == "none"))
        if norm != "none":
            layers.append(nn.BatchNorm1d(after) if norm == "batch" else nn.LayerNorm(after))
        layers.append(nn.ReLU())
    layers.append(nn.Linear(dims[-2], dims[-1]))
    return nn.Sequential(*layers)


class PixelHead(nn.Sequential):
    """Tokens to the values of their patches: two layers with GELU and a linear one (a transposed convolution whose stride is its kernel).

    Args:
        dim: channels of the tokens. hidden: of the two layers. values: of a patch.

    Source: Atito et al., "SiT: Self-supervised vIsion Transformer", 2021, section 3.
    """

    def __init__(self, dim: int, hidden: int, values: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, values))
        initialise(self)


class ClassificationHead(nn.Module):
    """Mean of the tokens, LayerNorm, dropout, linear: the head of MAE's and VideoMAE's fine-tuning (``fc_norm`` and ``head`` in their files).

    Args:
        dim: channels of the tokens. classes: logits.
        dropout: before the linear layer.
        scale: factor on the initial weights of the linear layer, so that all classes start (nearly) equal.
        eps: of the LayerNorm.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        dim: int,
        classes: int,
        *,
        dropout: float = 0.0,
        scale: float = 1e-3,
        eps: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.fc_norm = nn.LayerNorm(dim, eps=eps)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, classes)
        with torch.no_grad():
            nn.init.trunc_normal_(self.head.weight, std=0.02, generator=generator).mul_(scale)
            nn.init.zeros_(self.head.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, dim)`` -> ``(B, classes)``."""
        return self.head(self.dropout(self.fc_norm(tokens.mean(1))))
