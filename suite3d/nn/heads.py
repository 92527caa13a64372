"""Small heads on top of an encoder: projectors and predictors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn

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
