"""Initial weights of the encoders, in one place, so that a run depends only on the generator handed in.

Sparse convolution and linear layers: uniform in +-1/sqrt(fan_in), the bias too. This is Kaiming-uniform with a = sqrt(5), the default
of spconv and of torch, and what OpenPCDet trains from. Normalisations: weight 1, bias 0, mean 0, variance 1.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase


@torch.no_grad()
def uniform_fan_in(weight: Tensor, bias: Tensor | None, *, fan_in: int, generator: torch.Generator | None) -> None:
    """Fill ``weight`` and ``bias`` in place with U(-1/sqrt(fan_in), 1/sqrt(fan_in))."""
    bound = 1.0 / math.sqrt(fan_in)
    weight.uniform_(-bound, bound, generator=generator)
    if bias is not None:
        bias.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def xavier_uniform(weight: Tensor, *, generator: torch.Generator | None) -> None:
    """Glorot's uniform, in place; ``weight`` is ``(out, in, *kernel)``."""
    area = weight[0, 0].numel() if weight.ndim > 2 else 1
    bound = math.sqrt(6.0 / ((weight.shape[0] + weight.shape[1]) * area))
    weight.uniform_(-bound, bound, generator=generator)


def initialise(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw every weight below ``module`` afresh and reset every normalisation buffer.

    Args:
        module: its leaves must be sparse convolutions (weight ``(out, kz, ky, kx, in)``), linear layers, dense 2D
            convolutions or normalisations.
        generator: source of randomness on the weights' device; None takes torch's default one.

    Raises:
        ValueError: a layer with parameters that none of the rules covers, which would stay uninitialised.
    """
    for name, layer in module.named_modules():
        if not list(layer.parameters(recurse=False)):
            continue
        if isinstance(layer, _NormBase | nn.LayerNorm):
            layer.reset_parameters()
        elif isinstance(getattr(layer, "weight", None), Tensor) and layer.weight.ndim in (2, 4, 5):
            uniform_fan_in(layer.weight, getattr(layer, "bias", None), fan_in=layer.weight[0].numel(), generator=generator)
        else:
            raise ValueError(
                f"initialise expected convolutions, linear layers and normalisations, got {type(layer).__name__} at '{name}': give it a rule"
            )
