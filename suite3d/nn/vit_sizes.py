"""The published sizes of vision transformers and of the decoders they were pretrained with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from suite3d.nn.attention import QKVBias
from suite3d.nn.positions import PositionKind
from suite3d.nn.vit import ViTConfig

SizeName = Literal["S", "B", "L", "H", "g"]


@dataclass(frozen=True, kw_only=True)
class DecoderSize:
    """Channels, attention heads and blocks of a VideoMAE decoder."""

    dim: int
    heads: int
    depth: int


@dataclass(frozen=True, kw_only=True)
class ViTSize:
    """Channels, blocks, attention heads, hidden channels over ``dim``, and side of a patch."""

    dim: int
    depth: int
    heads: int
    mlp_ratio: float = 4.0
    patch: int = 16


SIZES: dict[SizeName, ViTSize] = {
    "S": ViTSize(dim=384, depth=12, heads=6),
    "B": ViTSize(dim=768, depth=12, heads=12),
    "L": ViTSize(dim=1024, depth=24, heads=16),
    "H": ViTSize(dim=1280, depth=32, heads=16),
    "g": ViTSize(dim=1408, depth=40, heads=16, mlp_ratio=48 / 11, patch=14),
}

_DECODERS: dict[SizeName, tuple[int, int]] = {"S": (192, 3), "B": (384, 6), "L": (512, 8), "H": (640, 8), "g": (512, 8)}


def vit_size(name: str) -> ViTSize:
    """Published size S, B, L, H (VideoMAE) or g (VideoMAE V2). Raises ValueError for another name."""
    if name not in SIZES:
        raise ValueError(f"size expected one of {', '.join(get_args(SizeName))}, got '{name}'")
    return SIZES[name]  # type: ignore[index]


def decoder_size(name: str, *, version: Literal[1, 2] = 1) -> DecoderSize:
    """Decoder of a size: 12 blocks for L and H in VideoMAE, 4 everywhere else and everywhere in VideoMAE V2."""
    vit_size(name)
    dim, heads = _DECODERS[name]  # type: ignore[index]
    return DecoderSize(dim=dim, heads=heads, depth=12 if version == 1 and name in ("L", "H") else 4)


def vit_config(
    name: str,
    *,
    clip: tuple[int, int, int] = (16, 224, 224),
    tubelet: int = 2,
    patch: int | None = None,
    positions: PositionKind = "sincos_flat",
    qkv_bias: QKVBias = "qv",
    attention: Literal["dot", "cosine"] = "dot",
    drop_path: float = 0.0,
    final_norm: bool = True,
    class_token: bool = False,
    registers: int = 0,
    checkpoint: bool = False,
) -> ViTConfig:
    """Configuration of a published size for clips of ``clip`` (frames, height, width).

    Args:
        tubelet: frames of a patch; it is 1 for one-frame clips (images).
        patch: side of a patch; None = the published one (16, and 14 for g).
        attention: ``cosine`` is VideoMAE V2's option for g.
        positions, qkv_bias, drop_path, final_norm, class_token, registers, checkpoint: see :class:`suite3d.nn.vit.ViTConfig`.
    """
    size = vit_size(name)
    side = patch or size.patch
    return ViTConfig(
        dim=size.dim,
        depth=size.depth,
        heads=size.heads,
        mlp_ratio=size.mlp_ratio,
        clip=clip,
        patch=(1 if clip[0] == 1 else tubelet, side, side),
        positions=positions,
        qkv_bias=qkv_bias,
        attention=attention,
        drop_path=drop_path,
        final_norm=final_norm,
        class_token=class_token,
        registers=registers,
        checkpoint=checkpoint,
    )
