"""Masked image models a second time: slow, in float64, straight from a state dict, patches cut out one at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from tests.core.nn.naive_vit import block, embed, layer_norm, linear, patches

State = Mapping[str, Tensor]


def part(state: State, name: str) -> dict[str, Tensor]:
    """The entries of one sub-module, in float64."""
    return {key.removeprefix(f"{name}."): value.double() for key, value in state.items() if key.startswith(f"{name}.")}


def depth(state: State) -> int:
    return len({key.split(".")[1] for key in state if key.startswith("blocks.")})


def plane(side: int, dim: int) -> Tensor:
    """MAE's sine table, entry by entry: columns in the first half of the channels, rows in the second."""
    table = torch.zeros(side * side, dim, dtype=torch.float64)
    for token in range(side * side):
        for half, index in enumerate((token % side, token // side)):
            for k in range(dim // 4):
                angle = index / 10000 ** (k / (dim // 4))
                table[token, half * dim // 2 + k] = math.sin(angle)
                table[token, half * dim // 2 + dim // 4 + k] = math.cos(angle)
    return table


def rows(x: Tensor, index: Tensor) -> Tensor:
    return torch.stack([one[chosen] for one, chosen in zip(x, index, strict=True)])


def encode(x: Tensor, state: State, heads: int, visible: Tensor | None = None, added: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
    """Class token and tokens of pictures ``x (B, 3, S, S)``; all are embedded, then the visible ones picked."""
    tokens = embed(x.double()[:, :, None], state)
    tokens = tokens + plane(math.isqrt(tokens.shape[1]), tokens.shape[2]) + added
    tokens = tokens if visible is None else rows(tokens, visible)
    prefix = state["cls_token"].expand(len(x), -1, -1) if "cls_token" in state else tokens[:, :0]
    tokens = torch.cat((prefix, tokens), dim=1)
    for i in range(depth(state)):
        tokens = block(tokens, state, f"blocks.{i}", heads)
    tokens = layer_norm(tokens, state, "norm")
    return tokens[:, : prefix.shape[1]], tokens[:, prefix.shape[1] :]


def decode(tokens: Tensor, visible: Tensor, state: State, heads: int, count: int) -> Tensor:
    """Predictions at all ``count`` tokens, mask tokens put among the visible ones at their places of the grid."""
    dim = state["encoder_to_decoder.weight"].shape[0]
    whole = state["mask_token"].expand(len(tokens), count, dim).clone()
    for sample, places in enumerate(visible):
        whole[sample, places] = linear(tokens[sample], state, "encoder_to_decoder")
    whole = whole + plane(math.isqrt(count), dim)
    for i in range(depth(state)):
        whole = block(whole, state, f"blocks.{i}", heads)
    return linear(layer_norm(whole, state, "norm"), state, "head")


def pixel_targets(x: Tensor, side: int, *, normalised: bool = True) -> Tensor:
    """(B, N, K) the patches of pictures, each normalised over all its values."""
    values = patches(x.double()[:, :, None], (1, side, side))
    if not normalised:
        return values
    return (values - values.mean(-1, keepdim=True)) / (values.var(-1, unbiased=True, keepdim=True) + 1e-6).sqrt()


def shaken(method: torch.nn.Module) -> torch.nn.Module:
    """Random biases and norms as well, so that a forgotten one shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return method
