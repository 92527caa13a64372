"""The vision transformer of all masked and latent video methods; an image is a clip of one frame.

    clip -> patches (visible ones only) -> linear embedding + positions -> blocks -> LayerNorm -> tokens

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; for video as Tong et al., "VideoMAE", NeurIPS 2022: no class token, patches of
two frames. Parameters are named as in the VideoMAE files, so those load without a table of names.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from suite3d.nn.attention import Attention, CosineAttention, QKVBias, Rotation
from suite3d.nn.block import MLP, Block, DropPath, SwiGLU
from suite3d.nn.initialise import initialise
from suite3d.nn.patch_embed import PatchEmbed, as_size, patch_grid, patchify
from suite3d.nn.positions import PositionKind, Positions, Rope, sincos_flat

__all__ = ["Block", "DropPath", "MLP", "SwiGLU", "ViTConfig", "VisionTransformer", "initialise", "sincos_flat"]


@dataclass(kw_only=True)
class ViTConfig:
    """Sizes of a vision transformer; the defaults are VideoMAE's ViT-B on 16 frames of 224 x 224.

    Attributes:
        dim, depth, heads, mlp_ratio: channels, blocks, attention heads, hidden channels of the feed-forward part over ``dim``.
        clip: frames, height, width of the input.
        patch: frames, height, width of a patch.
        channels: channels of the input.
        positions: ``sincos_flat`` (VideoMAE: over the flat index), ``sincos`` (three axes, V-JEPA), ``sincos_2d`` (MAE, images),
            ``learned``, ``rope`` (three-axis rotation), ``rope_tiled`` (as released with V-JEPA 2, see :class:`suite3d.nn.positions.Rope`), ``none``.
        position_grid: tokens along (t, h, w) a fixed table is computed for before it is resampled to the grid of ``clip``; None = that grid.
        qkv_bias: see :class:`suite3d.nn.attention.Attention`.
        attention: ``dot`` or ``cosine``.
        mlp: ``gelu`` or ``swiglu`` (DINOv2's ViT-g).
        layer_scale: initial scale of each residual branch; 0 = none.
        drop_path: probability to skip the last block's branches for a sample, growing linearly from 0 at the first.
        class_token, registers: learned tokens before the grid.
        any_size: take inputs of other heights, widths and lengths too; the table of positions is resampled to them (multi-crop).
        final_norm: LayerNorm after the last block; off where a head pools and then normalises.
        eps: of every LayerNorm.
        checkpoint: recompute blocks in the backward pass instead of keeping their activations (ViT-L and larger).
    """

    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    clip: tuple[int, int, int] = (16, 224, 224)
    patch: tuple[int, int, int] = (2, 16, 16)
    channels: int = 3
    positions: PositionKind = "sincos_flat"
    position_grid: tuple[int, int, int] | None = None
    qkv_bias: QKVBias = "qv"
    attention: Literal["dot", "cosine"] = "dot"
    mlp: Literal["gelu", "swiglu"] = "gelu"
    layer_scale: float = 0.0
    drop_path: float = 0.0
    class_token: bool = False
    registers: int = 0
    any_size: bool = False
    final_norm: bool = True
    eps: float = 1e-6
    checkpoint: bool = False

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along (t, h, w). Raises ValueError where ``clip`` is not a whole number of patches."""
        return patch_grid(as_size(self.clip, "clip"), as_size(self.patch, "patch"))

    @property
    def hidden(self) -> int:
        """Hidden channels of the feed-forward part; with ``swiglu`` two thirds of them, rounded up to a multiple of 8, as in DINOv2."""
        hidden = round(self.dim * self.mlp_ratio)
        return hidden if self.mlp == "gelu" else (int(hidden * 2 / 3) + 7) // 8 * 8


class VisionTransformer(nn.Module):
    """Clips, or their visible patches, to tokens.

    Args:
        config: sizes.
        generator: source of the initial weights.

    Attributes:
        embed_dim: channels of a token.
        grid: tokens along (t, h, w).
        patch: frames, height, width of a patch.
        num_heads: attention heads.
        origin: where loaded weights are from and under which licence, None for weights of our own; kept with the weights.

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(self, config: ViTConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config
        self.origin: dict[str, Any] | None = None
        self.embed_dim, self.num_heads = config.dim, config.heads
        self.clip = as_size(config.clip, "clip")
        self.patch = as_size(config.patch, "patch")
        self.grid = config.grid
        self.patch_embed = PatchEmbed(config.channels, config.dim, self.patch)
        self.pos_embed, self.rope = _positions(config)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim)) if config.class_token else None
        self.register_tokens = nn.Parameter(torch.empty(1, config.registers, config.dim)) if config.registers else None
        self.num_prefix = int(config.class_token) + config.registers
        rates = [config.drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(_block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.dim, eps=config.eps) if config.final_norm else nn.Identity()
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh and compute the fixed tables."""
        initialise(self, generator)
        for token in (self.cls_token, self.register_tokens):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02, generator=generator)

    def describe(self) -> dict[str, Any]:
        """What a saved file must say so that the encoder can be built again."""
        origin = {} if self.origin is None else {"origin": self.origin}
        return {"class": type(self).__name__, "config": asdict(self.config), "grid": list(self.grid), **origin}

    def patchify(self, x: Tensor) -> Tensor:
        """``(B, C, T, H, W)`` -> ``(B, N, C * t * p * p)``, values in the order (c, t, h, w)."""
        return patchify(x, self.patch)

    def forward(self, x: Tensor, visible: Tensor | None = None, valid: Tensor | None = None) -> Tensor:
        """Normalised tokens of the grid.

        Args:
            x: ``(B, C, T, H, W)`` normalised pixels of the size in the config, or ``(B, C, H, W)``: a picture is a clip of one frame.
            visible: ``(B, V)`` int64 token indices; the other patches are never embedded. None = all tokens.
            valid: ``(B, V)`` bool, False where an entry of ``visible`` is padding (:func:`suite3d.masking.padded_indices`): no token attends to
                it, and what comes back in its place means nothing. None = no padding.

        Returns:
            ``(B, V, dim)``, in the order of ``visible``, or ``(B, N, dim)``.
        """
        return self.encode(x, visible, valid)[1]

    def encode(self, x: Tensor, visible: Tensor | None = None, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, with the class and register tokens: ``(B, P, dim)``, ``(B, V or N, dim)``."""
        x, rotation = self.embed(x, visible)
        return self.transform(x, rotation, valid)

    def encode_replaced(self, x: Tensor, hidden: Tensor, token: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`encode`, of all tokens; patches ``hidden (B, N)`` bool enter as ``token (dim,)`` at their place (BEiT, iBOT)."""
        return self.transform(*self.embed(x, replaced=(hidden, token)))

    def transform(self, x: Tensor, rotation: Rotation | None = None, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What follows :meth:`embed`: ``(B, P + V, dim)`` -> ``(B, P, dim)``, ``(B, V, dim)``."""
        mask = None if valid is None else F.pad(valid, (self.num_prefix, 0), value=True)[:, None, None]  # (B, 1, 1, P + V)
        for block in self.blocks:
            if self.config.checkpoint and self.training:
                x = checkpoint(block, x, rotation, mask, use_reentrant=False)
            else:
                x = block(x, rotation, mask)
        x = self.norm(x)
        return x[:, : self.num_prefix], x[:, self.num_prefix :]

    def embed(self, x: Tensor, visible: Tensor | None = None, *, replaced: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Rotation | None]:
        """Tokens before the first block, ``(B, P + V, dim)``, and the rotation of their queries and keys, if any.

        ``replaced``: which tokens, ``(B, V)`` bool, enter as which vector ``(dim,)`` instead of as their pixels.
        """
        x = x[:, :, None] if x.ndim == 4 else x
        expected = (self.config.channels, *self.clip)
        if tuple(x.shape[1:]) != expected and (not self.config.any_size or x.ndim != 5 or x.shape[1] != expected[0]):
            raise ValueError(f"expected clips of (channels, frames, height, width) = {expected}, got {tuple(x.shape[1:])}: set clip= of the encoder")
        tokens = self.patch_embed(x, visible)  # (B, V, dim)
        if replaced is not None:
            tokens = torch.where(replaced[0][:, :, None], replaced[1].to(tokens.dtype), tokens)
        if self.pos_embed is not None:
            grid = patch_grid((x.shape[2], x.shape[3], x.shape[4]), self.patch)
            tokens = tokens + self.pos_embed(visible, grid=grid).to(tokens.dtype)
        prefix = [token.expand(len(x), -1, -1) for token in (self.cls_token, self.register_tokens) if token is not None]
        rotation = None if self.rope is None else self.rope(visible, prefix=self.num_prefix)
        if prefix:
            tokens = torch.cat([token.to(tokens.dtype) for token in prefix] + [tokens], dim=1)  # (B, P + V, dim)
        return tokens, rotation


def _positions(config: ViTConfig) -> tuple[Positions | None, Rope | None]:
    kind, grid = config.positions, config.grid
    if config.any_size and kind in ("rope", "rope_tiled"):
        raise ValueError(f"any_size expected a table of positions that can be resampled, or none; got positions='{kind}'")
    source = None if config.position_grid is None else as_size(config.position_grid, "position_grid")
    if kind in ("sincos_flat", "sincos", "sincos_2d", "learned"):
        return Positions(kind, grid, config.dim, source_grid=source), None
    if source is not None:
        raise ValueError(f"position_grid expected None with positions='{kind}', which has no table, got {source}")
    if kind == "none":
        return None, None
    return None, Rope(grid, config.dim // config.heads, tiled=kind == "rope_tiled")


def _block(config: ViTConfig, drop_path: float) -> Block:
    attention = CosineAttention if config.attention == "cosine" else Attention
    mlp = SwiGLU if config.mlp == "swiglu" else MLP
    return Block(
        config.dim,
        config.heads,
        attention=attention(config.dim, config.heads, qkv_bias=config.qkv_bias),
        mlp=mlp(config.dim, config.hidden),
        layer_scale=config.layer_scale,
        drop_path=drop_path,
        eps=config.eps,
    )
