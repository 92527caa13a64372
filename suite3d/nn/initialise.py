"""Initial weights of the transformers, in one place, so that a run depends only on the generator handed in."""

from __future__ import annotations

import math

import torch
from torch import nn

from suite3d.nn.attention import Attention, CosineAttention
from suite3d.nn.block import LayerScale
from suite3d.nn.patch_embed import PatchEmbed
from suite3d.nn.positions import Positions, Rope


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw the weights of a transformer in place: Xavier-uniform linear layers with zero biases (the fused query-key-value weight as one),
    LayerNorms 1 and 0, layer scales and temperatures at their start, patch embeddings and positions by their own rule, as VideoMAE."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm):
            nn.init.ones_(layer.weight)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, LayerScale):
            nn.init.constant_(layer.gamma, layer.initial)
        elif isinstance(layer, PatchEmbed | Positions):
            layer.reset_parameters(generator)
        elif isinstance(layer, Rope):
            layer.reset_parameters()
        elif isinstance(layer, Attention) and layer.q_bias is not None and layer.v_bias is not None:
            nn.init.zeros_(layer.q_bias)
            nn.init.zeros_(layer.v_bias)
        if isinstance(layer, CosineAttention):
            nn.init.constant_(layer.scale, math.log(10))
