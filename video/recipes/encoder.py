"""The vision transformer of a video recipe, and the decoder that goes with it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from suite3d.config import ConfigError
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.positions import PositionKind, Positions
from suite3d.nn.vit import VisionTransformer, ViTConfig
from suite3d.nn.vit_sizes import decoder_size, vit_config


@dataclass(kw_only=True)
class VideoEncoderConfig:
    """A vision transformer: a published size, or parts of one replaced.

    Attributes:
        size: S, B, L, H (VideoMAE) or g (VideoMAE V2).
        dim, depth, heads: replace those of the size; 0 = as published.
        tubelet: frames of a patch. patch: side of a patch; 0 = as published (16; 14 for g).
        positions: see :class:`suite3d.nn.vit.ViTConfig`.
        attention: ``cosine`` is VideoMAE V2's option for g.
        drop_path: of the last block, growing from 0 at the first.
        checkpoint: recompute blocks in the backward pass (ViT-L and larger).
    """

    size: Literal["S", "B", "L", "H", "g"] = "B"
    dim: int = 0
    depth: int = 0
    heads: int = 0
    tubelet: int = 2
    patch: int = 0
    positions: PositionKind = "sincos_flat"
    attention: Literal["dot", "cosine"] = "dot"
    drop_path: float = 0.0
    checkpoint: bool = False


@dataclass(kw_only=True)
class VideoDecoderConfig:
    """The decoder of masked pixel modelling.

    Attributes:
        kind: ``self`` (VideoMAE: attention over visible and mask tokens) or ``cross`` (CrossMAE: each mask token reads the visible ones).
        dim, depth, heads: 0 = as published for the encoder's size (depth 4; 12 for VideoMAE's L and H).
    """

    kind: Literal["self", "cross"] = "self"
    dim: int = 0
    depth: int = 0
    heads: int = 0


def encoder_settings(config: VideoEncoderConfig, clip: tuple[int, int, int]) -> ViTConfig:
    """Sizes for clips of (frames, height, width). Raises ConfigError where they do not fit together."""
    built = vit_config(
        config.size,
        clip=clip,
        tubelet=config.tubelet,
        patch=config.patch or None,
        positions=config.positions,
        attention=config.attention,
        drop_path=config.drop_path,
        checkpoint=config.checkpoint,
    )
    built = replace(built, dim=config.dim or built.dim, depth=config.depth or built.depth, heads=config.heads or built.heads)
    try:
        _ = built.grid
    except ValueError as error:
        raise ConfigError(f"encoder: {error}") from error
    return built


def build_vit(config: VideoEncoderConfig, clip: tuple[int, int, int]) -> VisionTransformer:
    """The encoder for clips of (frames, height, width). Raises ConfigError where the sizes do not fit together."""
    settings = encoder_settings(config, clip)
    try:
        return VisionTransformer(settings)
    except ValueError as error:
        raise ConfigError(f"encoder: {error}") from error


def build_decoder(config: VideoDecoderConfig, encoder: VisionTransformer, size: str, *, version: Literal[1, 2] = 1) -> SelfDecoder | CrossDecoder:
    """The decoder for an encoder of a named size, with the same fixed positions: VideoMAE's, or the encoder's where it has three-axis ones.

    Raises:
        ConfigError: sizes that do not fit together.
    """
    published = decoder_size(size, version=version)
    dim, depth, heads = config.dim or published.dim, config.depth or published.depth, config.heads or published.heads
    t, p, q = encoder.patch
    kind = CrossDecoder if config.kind == "cross" else SelfDecoder
    positions = Positions("sincos" if encoder.config.positions == "sincos" else "sincos_flat", encoder.grid, dim)
    try:
        return kind(encoder.embed_dim, dim, depth, heads, encoder.config.channels * t * p * q, positions)
    except ValueError as error:
        raise ConfigError(f"decoder: {error}") from error
