"""Decoders of masked modelling: from the visible tokens to a prediction at every target token."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from suite3d.nn.attention import Attention, CrossAttention, QKVBias
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


class SelfCrossBlock(nn.Module):
    """CroCo's pre-norm block: x + self(norm1(x)), x + cross(norm2(x), norm_context(context)), x + mlp(norm3(x))."""

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qkv_bias="full")
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.norm_context = nn.LayerNorm(dim, eps=eps)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, round(dim * mlp_ratio))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``x (B, Q, dim)``, ``context (B, K, dim)`` -> ``(B, Q, dim)``."""
        x = x + self.attn(self.norm1(x))
        x = x + self.cross_attn(self.norm2(x), self.norm_context(context))
        return x + self.mlp(self.norm3(x))


class CrossSelfBlock(nn.Module):
    """SiamMAE's block in the order and with the norms of the CropMAE code: post-norm cross-attention, feed-forward part, self-attention.

    x = norm1(x + cross(x, context)), x = norm2(x + mlp(x)), x = norm3(x + self(x)).
    """

    def __init__(self, dim: int, heads: int, *, mlp_ratio: float = 4.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.cross_attn = CrossAttention(dim, heads)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLP(dim, round(dim * mlp_ratio))
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, heads, qkv_bias="full")
        self.norm3 = nn.LayerNorm(dim, eps=eps)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """``x (B, Q, dim)``, ``context (B, K, dim)`` -> ``(B, Q, dim)``."""
        x = self.norm1(x + self.cross_attn(x, context))
        x = self.norm2(x + self.mlp(x))
        return self.norm3(x + self.attn(x))


class _TwoViewDecoder(_Decoder):
    """What the decoders that look at another view have in common; subclasses name the block and place the other view's tokens."""

    block: type[SelfCrossBlock] | type[CrossSelfBlock]

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
        blocks = (self.block(dim, heads, mlp_ratio=mlp_ratio, eps=eps) for _ in range(depth))
        super().__init__(enc_dim, dim, num_outputs, positions, blocks, mlp_ratio=mlp_ratio, eps=eps, generator=generator)

    def place(self, context: Tensor) -> Tensor:
        """Tell the other view's tokens ``(B, P + N, dim)`` where they stand in it, where the method does."""
        return context

    def forward(self, tokens: Tensor, visible: Tensor, targets: Tensor, other: Tensor) -> Tensor:
        """Predictions ``(B, M, num_outputs)`` at ``targets (B, M)`` of the masked view.

        Args:
            tokens: ``(B, V, enc_dim)`` of the masked view at ``visible (B, V)``; indices int64.
            other: ``(B, P + N, enc_dim)`` all tokens of the other view, row by row, after P class tokens.
        """
        context = self.place(self.encoder_to_decoder(other))  # (B, P + N, dim)
        seen = self.encoder_to_decoder(tokens)  # (B, V, dim)
        seen = seen + self.pos_embed(visible).to(seen.dtype)
        hidden = (self.mask_token + self.pos_embed(targets)).to(seen.dtype)  # (B, M, dim)
        x = torch.cat((seen, hidden), dim=1)  # (B, V + M, dim)
        for block in self.blocks:
            x = block(x, context)
        return self.head(self.norm(x[:, seen.shape[1] :]))  # (B, M, num_outputs)


class SelfCrossDecoder(_TwoViewDecoder):
    """CroCo's decoder: the masked view's tokens attend to one another, then to the other view's, which carry positions too.

        x = [bridge(tokens) + p(visible), mask_token + p(targets)];  context = bridge(other) + p
        SelfCrossBlock(x, context) ... -> the last M tokens -> LayerNorm -> linear head

    Args: as :class:`SelfDecoder`. Source: Weinzaepfel et al., "CroCo", NeurIPS 2022, section 3.2.
    """

    block = SelfCrossBlock

    def place(self, context: Tensor) -> Tensor:
        table = self.pos_embed().to(context.dtype)  # (1, N, dim)
        return context + nn.functional.pad(table, (0, 0, context.shape[1] - table.shape[1], 0))


class CrossSelfDecoder(_TwoViewDecoder):
    """SiamMAE's decoder: every token of the masked view attends to the other view's, then to its own view's.

    As :class:`SelfCrossDecoder` with :class:`CrossSelfBlock`; the other view's tokens have their places from the encoder only.

    Args: as :class:`SelfDecoder`. Source: Gupta et al., "Siamese Masked Autoencoders", NeurIPS 2023, section 3.2 (cross-self decoder).
    """

    block = CrossSelfBlock
