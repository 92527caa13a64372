"""Attention pooling with a learned query, and the classifier that probes frozen token features with it.

V-JEPA 2's attentive probe (Assran et al., 2025, appendix C; Bardes et al., "V-JEPA", 2024, section 4): self-attention blocks over the frozen
tokens, then one block in which a learned query looks at them, then a linear layer.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.nn.vit import MLP, Block

QUERY_STD = 0.02


def fitting_heads(dim: int, wanted: int = 16) -> int:
    """The largest number of heads up to ``wanted`` that divides ``dim``."""
    return next(heads for heads in range(min(wanted, dim), 0, -1) if dim % heads == 0)


class QueryBlock(nn.Module):
    """q + attention(q, norm1(tokens)), then q + mlp(norm2(q)).

    As in V-JEPA 2 the query is not normalised before the attention, and the attention has no output projection.

    Args:
        dim: channels. heads: attention heads, which must divide it. mlp_ratio: hidden channels over ``dim``. eps: of the LayerNorms.
    """

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention expected a width that is a multiple of heads={heads}, got {dim}")
        self.heads = heads
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, round(dim * mlp_ratio))

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """``query (B, Q, dim)``, ``tokens (B, N, dim)`` -> ``(B, Q, dim)``."""
        q = self.q(query).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, Q, d)
        k, v = self.kv(self.norm1(tokens)).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)  # (B, heads, N, d)
        query = query + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return query + self.mlp(self.norm2(query))


class AttentivePooler(nn.Module):
    """Tokens to a few vectors.

    Args:
        dim: channels.
        heads: attention heads.
        depth: blocks, the last of which is the query's.
        queries: vectors that come out.
        mlp_ratio, eps: of the blocks.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        dim: int,
        *,
        heads: int = 16,
        depth: int = 4,
        queries: int = 1,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError(f"an attentive pooler has at least the query's block, got depth={depth}")
        self.query = nn.Parameter(torch.empty(1, queries, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias="full", eps=eps) for _ in range(depth - 1))
        self.last = QueryBlock(dim, heads, mlp_ratio=mlp_ratio, eps=eps)
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Normal weights of deviation 0.02 cut at 2, zero biases; what writes into the residual stream of block i is divided by sqrt(2 i)."""
        nn.init.trunc_normal_(self.query, std=QUERY_STD, generator=generator)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=QUERY_STD, generator=generator)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for i, block in enumerate(self.blocks, start=1):
            assert isinstance(block, Block) and isinstance(block.attn.proj, nn.Linear) and isinstance(block.mlp, MLP)
            block.attn.proj.weight.div_(math.sqrt(2 * i))
            block.mlp.fc2.weight.div_(math.sqrt(2 * i))
        self.last.mlp.fc2.weight.div_(math.sqrt(2 * (len(self.blocks) + 1)))

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, dim)`` -> ``(B, queries, dim)``."""
        for block in self.blocks:
            tokens = block(tokens)
        return self.last(self.query.expand(len(tokens), -1, -1), tokens)


class AttentiveClassifier(nn.Module):
    """A pooler with one query and a linear layer: tokens to logits.

    Args:
        dim: channels of the tokens. classes: logits.
        heads, depth, generator: of the pooler.
    """

    def __init__(self, dim: int, classes: int, *, heads: int = 16, depth: int = 4, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.pooler = AttentivePooler(dim, heads=heads, depth=depth, generator=generator)
        self.linear = nn.Linear(dim, classes)
        nn.init.trunc_normal_(self.linear.weight, std=QUERY_STD, generator=generator)
        nn.init.zeros_(self.linear.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, N, dim)`` -> ``(B, classes)``."""
        return self.linear(self.pooler(tokens)[:, 0])
