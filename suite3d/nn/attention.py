"""Attention layers of the transformers, on ``scaled_dot_product_attention``."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.nn.positions import rotate

QKVBias = Literal["qv", "full", "none"]
Rotation = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Multi-head self-attention with one weight for queries, keys and values.

    Args:
        dim: channels, a multiple of ``heads``.
        heads: attention heads.
        qkv_bias: ``qv``: learned biases of queries and values, that of the keys fixed at 0 (BEiT, VideoMAE); ``full``: one learned bias of
            all three (timm, V-JEPA); ``none``.

    Raises:
        ValueError: ``dim`` is not a multiple of ``heads``.
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: QKVBias = "qv") -> None:
        super().__init__()
        self.heads, self.head_dim = heads, _head_dim(dim, heads)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias == "full")
        self.q_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "qv" else None
        self.v_bias = nn.Parameter(torch.zeros(dim)) if qkv_bias == "qv" else None
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation | None = None, mask: Tensor | None = None) -> Tensor:
        """``(B, N, dim)`` -> ``(B, N, dim)``.

        Args:
            rotation: see :class:`suite3d.nn.positions.Rope`.
            mask: bool, broadcast to ``(B, heads, N, N)``: which keys a query may attend to; None = all. Padding is left out this way.
        """
        q, k, v = self.split(x)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        x = self.attend(q, k, v, mask)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, N, dim)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``(B, heads, N, head_dim)``."""
        bias: Tensor | None = self.qkv.bias
        if self.q_bias is not None and self.v_bias is not None:
            bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias)  # (B, N, 3 dim)
        q, k, v = qkv.unflatten(-1, (3, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, head_dim)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(head_dim)) v."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)

    @torch.no_grad()
    def strongest(self, x: Tensor, count: int, rotation: Rotation | None = None, *, prefix: int = 0) -> Tensor:
        """``(B, heads, N, N)`` bool mask for :meth:`forward`: each query may attend to the ``count`` keys it attends to most (Chen et al., 2023).

        The first ``prefix`` tokens (class token, registers) neither choose nor are chosen: they attend to all, and all may attend to them.
        """
        q, k, _ = self.split(x)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        chosen = self.scores(q[:, :, prefix:], k[:, :, prefix:]).topk(count, dim=-1).indices  # (B, heads, N - prefix, count)
        mask = torch.ones(*q.shape[:3], q.shape[2], dtype=torch.bool, device=x.device)
        mask[:, :, prefix:, prefix:] = False
        mask[:, :, prefix:, prefix:].scatter_(-1, chosen, True)
        return mask

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        """``(B, heads, N, N)``, for each query in the order of its attention to the keys."""
        return q @ k.transpose(-1, -2)


class CosineAttention(Attention):
    """Self-attention on the cosine of query and key, with a learned temperature a head (Swin V2, section 3.2; VideoMAE V2's option for ViT-g).

    softmax(cos(q, k) * min(e^scale, 100)) v, with ``scale (heads, 1, 1)`` starting at log 10.
    """

    def __init__(self, dim: int, heads: int, *, qkv_bias: QKVBias = "qv") -> None:
        super().__init__(dim, heads, qkv_bias=qkv_bias)
        self.scale = nn.Parameter(torch.full((heads, 1, 1), math.log(10)))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        temperature = self.scale.clamp(max=math.log(100)).exp()
        q = (F.normalize(q, dim=-1) * temperature).to(v.dtype)
        return F.scaled_dot_product_attention(q, F.normalize(k, dim=-1).to(v.dtype), v, attn_mask=mask, scale=1.0)

    def scores(self, q: Tensor, k: Tensor) -> Tensor:
        return q @ F.normalize(k, dim=-1).to(q.dtype).transpose(-1, -2)


class CrossAttention(nn.Module):
    """Multi-head attention of one set of tokens on another; biases on all projections.

    Args:
        dim: channels of the queries, a multiple of ``heads``.
        heads: attention heads.
        context_dim: channels of the tokens attended to; ``dim`` if None.
    """

    def __init__(self, dim: int, heads: int, *, context_dim: int | None = None) -> None:
        super().__init__()
        self.heads, self.head_dim = heads, _head_dim(dim, heads)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(context_dim or dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``x (B, Q, dim)``, ``context (B, K, context_dim)`` -> ``(B, Q, dim)``."""
        q = self.q(x).unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)  # (B, heads, Q, head_dim)
        k, v = self.kv(context).unflatten(-1, (2, self.heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, K, head_dim)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).flatten(2))  # (B, Q, dim)


def _head_dim(dim: int, heads: int) -> int:
    if dim % heads:
        raise ValueError(f"attention expected a width that is a multiple of heads={heads}, got {dim}")
    return dim // heads
