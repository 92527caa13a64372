"""The transformer block and its parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.nn.attention import Attention, QKVBias, Rotation


class MLP(nn.Module):
    """Linear, GELU (exact), linear."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwiGLU(nn.Module):
    """w3(silu(a) * b) with a, b the halves of w12(x) (Shazeer, "GLU Variants Improve Transformer", 2020; DINOv2's ViT-g)."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """x * gamma, one learned factor a channel (Touvron et al., CaiT, 2021)."""

    def __init__(self, dim: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.gamma = nn.Parameter(torch.full((dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class DropPath(nn.Module):
    """Zero a residual branch for a random share of the samples, scale the others up (Huang et al., "Stochastic Depth", 2016)."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = 1 - self.probability
        mask = torch.rand(x.shape[0], *[1] * (x.ndim - 1), device=x.device) < keep
        return x * mask.to(x.dtype) / keep


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), x + mlp(norm(x)).

    Args:
        dim: channels.
        heads: attention heads.
        mlp_ratio: hidden channels of the feed-forward part over ``dim``.
        qkv_bias: see :class:`suite3d.nn.attention.Attention`.
        attention: self-attention to use instead of a plain one.
        mlp: feed-forward part to use instead of linear, GELU, linear.
        layer_scale: initial factor of the residual branches; 0 = none.
        drop_path: probability to skip a residual branch for a sample while training.
        eps: of the LayerNorms.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: QKVBias = "qv",
        attention: nn.Module | None = None,
        mlp: nn.Module | None = None,
        layer_scale: float = 0.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path expected a probability in [0, 1), got {drop_path}")
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = attention or Attention(dim, heads, qkv_bias=qkv_bias)
        self.ls1 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = mlp or MLP(dim, round(dim * mlp_ratio))
        self.ls2 = LayerScale(dim, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None) -> Tensor:
        """``(B, N, dim)`` -> ``(B, N, dim)``; ``rotation``, ``mask``: see :class:`suite3d.nn.attention.Attention`."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x), rotation, mask)))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
