"""Multiply-adds of the transformers, by arithmetic. One multiply-add (MAC) is two floating-point operations.

A block of width d and h hidden channels at N tokens costs 4 N d^2 (queries, keys, values, output) + 2 N d h (feed-forward) + 2 N^2 d
(the two attention products); LayerNorm, softmax, biases and activations are left out, as is usual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.vit import ViTConfig


@dataclass(frozen=True, kw_only=True)
class Macs:
    """Multiply-adds of one clip, forward, by part.

    Attributes:
        embed: patch embedding.
        encoder: the encoder's blocks.
        decoder: bridge and blocks of the decoder.
        head: prediction head.
    """

    embed: int
    encoder: int
    decoder: int = 0
    head: int = 0

    @property
    def forward(self) -> int:
        """All parts."""
        return self.embed + self.encoder + self.decoder + self.head

    @property
    def training_flops(self) -> int:
        """Floating-point operations of forward and backward; the embedding needs no gradient of the pixels, so its backward costs it once."""
        return 2 * (3 * self.forward - self.embed)


def block_macs(tokens: int, dim: int, hidden: int, *, gated: bool = False) -> int:
    """One self-attention block; ``gated``: the feed-forward part has three matrices (SwiGLU) instead of two."""
    return 4 * tokens * dim * dim + (3 if gated else 2) * tokens * dim * hidden + 2 * tokens * tokens * dim


def encoder_macs(config: ViTConfig, *, visible: int | None = None, embedded: int | None = None) -> Macs:
    """A vision transformer on one clip.

    Args:
        config: its sizes.
        visible: tokens of the grid that enter the blocks; None = all.
        embedded: patches that are embedded; None = the visible ones. (The published VideoMAE embeds all.)
    """
    grid = math.prod(config.grid)
    visible = grid if visible is None else visible
    embedded = visible if embedded is None else embedded
    tokens = visible + int(config.class_token) + config.registers
    return Macs(
        embed=embedded * config.channels * math.prod(config.patch) * config.dim,
        encoder=config.depth * block_macs(tokens, config.dim, config.hidden, gated=config.mlp == "swiglu"),
    )


def decoder_macs(
    *, enc_dim: int, dim: int, depth: int, num_outputs: int, visible: int, targets: int, cross: bool = False, mlp_ratio: float = 4.0
) -> tuple[int, int]:
    """A decoder on one clip: (bridge and blocks, head).

    Args:
        enc_dim, dim, depth, num_outputs, mlp_ratio: as :class:`suite3d.nn.decoder.SelfDecoder`.
        visible, targets: tokens it reads and predicts.
        cross: cross-attention only (:class:`suite3d.nn.decoder.CrossDecoder`).
    """
    hidden = round(dim * mlp_ratio)
    if cross:
        projections = 2 * targets * dim * dim + 2 * visible * dim * dim  # queries and output; keys and values
        block = projections + 2 * targets * dim * hidden + 2 * targets * visible * dim
    else:
        block = block_macs(visible + targets, dim, hidden)
    return visible * enc_dim * dim + depth * block, targets * dim * num_outputs


def pretraining_macs(
    config: ViTConfig, decoder: SelfDecoder | CrossDecoder, *, visible: int, targets: int, predicted: int | None = None, embedded: int | None = None
) -> Macs:
    """One clip through a masked autoencoder.

    Args:
        config: the encoder's sizes.
        decoder: the decoder; only its sizes are read, so it may be on the meta device.
        visible: tokens the encoder sees.
        targets: tokens the decoder decodes.
        predicted: targets the head is applied to; None = all.
        embedded: see :func:`encoder_macs`.
    """
    dim, outputs = decoder.norm.normalized_shape[0], decoder.head.out_features
    encoder = encoder_macs(config, visible=visible, embedded=embedded)
    blocks, head = decoder_macs(
        enc_dim=config.dim,
        dim=dim,
        depth=len(decoder.blocks),
        num_outputs=outputs,
        visible=visible,
        targets=targets,
        cross=isinstance(decoder, CrossDecoder),
        mlp_ratio=decoder.mlp_ratio,
    )
    return Macs(embed=encoder.embed, encoder=encoder.encoder, decoder=blocks, head=head if predicted is None else head // targets * predicted)
