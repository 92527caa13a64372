"""Decoders of masked modelling: from the visible tokens to a prediction at every target token."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from suite3d.nn.attention import CrossAttention, QKVBias
from suite3d.nn.positions import Positions
from suite3d.nn.vit import MLP, Block, initialise


class _Decoder(nn.Module):
    """What both decoders are made of, drawn in this order."""

    def __init__(
        self,
        enc_dim: int,
        dim: int,
        num_outputs: int,
        positions: Positions,
        blocks: Iterator[nn.Module],
        *,
        mlp_ratio: float,
        eps: float,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        if positions.dim != dim:
            raise ValueError(f"the decoder's positions expected {dim} channels like the decoder, got {positions.dim}")
        self.mlp_ratio = mlp_ratio
        self.encoder_to_decoder = nn.Linear(enc_dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.empty(1, 1, dim))
        self.pos_embed = positions
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.head = nn.Linear(dim, num_outputs)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh."""
        initialise(self, generator)
        nn.init.trunc_normal_(self.mask_token, std=0.02, generator=generator)


class SelfDecoder(_Decoder):
    """Self-attention over the visible tokens and one mask token per target, as in VideoMAE (Tong et al., NeurIPS 2022, section 3.3).

        [bridge(tokens) + p(visible), mask_token + p(targets)] -> blocks -> the last M tokens -> LayerNorm -> linear head

    The order of the grid is not restored: attention does not see it, and the targets stand last. In VideoMAE V2 a target may also be a
    visible token.

    Args:
        enc_dim: channels of the encoder's tokens.
        dim, depth, heads: channels, blocks and attention heads of the decoder.
        num_outputs: numbers predicted per target.
        positions: table of ``dim`` channels over the encoder's grid.
        mlp_ratio, qkv_bias, eps: of the blocks.
        generator: source of the initial weights.
    """

    def __init__(
        self,
        enc_dim: int,
        dim: int,
        depth: int,
        heads: int,
        num_outputs: int,
        positions: Positions,
        *,
        mlp_ratio: float = 4.0,
        qkv_bias: QKVBias = "qv",
        eps: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        blocks = (Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias=qkv_bias, eps=eps) for _ in range(depth))
        super().__init__(enc_dim, dim, num_outputs, positions, blocks, mlp_ratio=mlp_ratio, eps=eps, generator=generator)

    def forward(self, tokens: Tensor, visible: Tensor, targets: Tensor) -> Tensor:
        """``tokens (B, V, enc_dim)`` at ``visible (B, V)`` -> predictions ``(B, M, num_outputs)`` at ``targets (B, M)``; indices int64."""
        seen = self.encoder_to_decoder(tokens)  # (B, V, dim)
        seen = seen + self.pos_embed(visible).to(seen.dtype)
        hidden = (self.mask_token + self.pos_embed(targets)).to(seen.dtype)  # (B, M, dim)
        x = torch.cat((seen, hidden), dim=1)  # (B, V + M, dim)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, seen.shape[1] :]))  # (B, M, num_outputs)


class CrossBlock(nn.Module):
    """Pre-norm block without self-attention: x + cross_attention(norm(x), context), x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, round(dim * mlp_ratio))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``x (B, Q, dim)``, ``context (B, K, dim)`` -> ``(B, Q, dim)``."""
        x = x + self.cross_attn(self.norm1(x), context)
        return x + self.mlp(self.norm2(x))


class CrossDecoder(_Decoder):
    """Every target reads the visible tokens by itself, as in CrossMAE (Fu et al., "Rethinking Patch Dependence for Masked Autoencoders", 2024).

        mask_token + p(targets) -> blocks of cross-attention on bridge(tokens) -> LayerNorm -> linear head

    Targets do not see one another, so any number of them may be decoded without changing the others' predictions. The visible tokens have
    their places from the encoder.

    Difference to the paper: its blocks may read learned sums of all the encoder's layers; here they read the last one.

    Args: as :class:`SelfDecoder`.
    """

    def __init__(
        self,
        enc_dim: int,
        dim: int,
        depth: int,
        heads: int,
        num_outputs: int,
        positions: Positions,
        *,
        mlp_ratio: float = 4.0,
        eps: float = 1e-6,
        generator: torch.Generator | None = None,
    ) -> None:
        blocks = (CrossBlock(dim, heads, mlp_ratio=mlp_ratio, eps=eps) for _ in range(depth))
        super().__init__(enc_dim, dim, num_outputs, positions, blocks, mlp_ratio=mlp_ratio, eps=eps, generator=generator)

    def forward(self, tokens: Tensor, visible: Tensor, targets: Tensor) -> Tensor:
        """As :meth:`SelfDecoder.forward`; ``visible`` is not needed and taken so that the two decoders can stand for one another."""
        context = self.encoder_to_decoder(tokens)  # (B, V, dim)
        x = (self.mask_token + self.pos_embed(targets)).to(context.dtype)  # (B, M, dim)
        for block in self.blocks:
            x = block(x, context)
        return self.head(self.norm(x))  # (B, M, num_outputs)
