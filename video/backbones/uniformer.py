"""UniFormer: convolution where tokens are many, attention where they are few (Li et al., "UniFormer: Unified Transformer for Efficient
Spatiotemporal Representation Learning", ICLR 2022, section 3).

    stem (2 x 4 x 4) -> 64 ch, local blocks -> 128 ch, local -> 320 ch, global -> 512 ch, global -> batch norm

Every block starts with a depthwise 3 x 3 x 3 convolution that tells a token its place. A local block mixes with a depthwise 5 x 5 x 5
convolution, a global one with self-attention over all tokens of the clip. Parameters are named as in the published files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.nn.attention import Attention
from suite3d.nn.vit import MLP, DropPath


@dataclass(kw_only=True)
class UniFormerConfig:
    """Sizes; the defaults are UniFormer-S.

    Attributes:
        dims, depths: channels and blocks of the four stages.
        head_dim: channels of an attention head.
        mlp_ratio: hidden channels of the feed-forward part over the stage's.
        drop_path: probability to skip the last block's branches for a sample, growing linearly from 0.
    """

    dims: tuple[int, int, int, int] = (64, 128, 320, 512)
    depths: tuple[int, int, int, int] = (3, 4, 8, 3)
    head_dim: int = 64
    mlp_ratio: float = 4.0
    drop_path: float = 0.0


class Downsample(nn.Module):
    """Strided convolution, then LayerNorm over channels."""

    def __init__(self, cin: int, cout: int, *, kernel: tuple[int, int, int], stride: tuple[int, int, int], padding: tuple[int, int, int]) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(cout)
        self.proj = nn.Conv3d(cin, cout, kernel, stride=stride, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1)).movedim(-1, 1)


class ConvMLP(nn.Module):
    """Feed-forward part on a feature map."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv3d(dim, hidden, 1)
        self.fc2 = nn.Conv3d(hidden, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class LocalBlock(nn.Module):
    """Place, mix with the neighbours, feed forward; batch norm."""

    def __init__(self, dim: int, *, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.BatchNorm3d(dim)
        self.conv1 = nn.Conv3d(dim, dim, 1)
        self.conv2 = nn.Conv3d(dim, dim, 1)
        self.attn = nn.Conv3d(dim, dim, 5, padding=2, groups=dim)
        self.norm2 = nn.BatchNorm3d(dim)
        self.mlp = ConvMLP(dim, hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, dim, t, h, w)`` -> the same."""
        x = x + self.pos_embed(x)
        x = x + self.drop_path(self.conv2(self.attn(self.conv1(self.norm1(x)))))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class GlobalBlock(nn.Module):
    """Place, attend to all tokens, feed forward; layer norm."""

    def __init__(self, dim: int, *, heads: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.pos_embed = nn.Conv3d(dim, dim, 3, padding=1, groups=dim)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, qkv_bias="full")
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, hidden)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """``(B, dim, t, h, w)`` -> the same."""
        x = x + self.pos_embed(x)
        tokens = x.flatten(2).transpose(1, 2)  # (B, N, dim)
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return tokens.transpose(1, 2).reshape(x.shape)


class UniFormer(nn.Module):
    """Clips to tokens at stride 2 in time and 32 in space.

    Args:
        config: sizes.
        generator: source of the initial weights.

    Attributes:
        embed_dim: channels of a token.
        strides: of the tokens along (t, h, w), in frames and pixels.
    """

    strides = (2, 32, 32)

    def __init__(self, config: UniFormerConfig | None = None, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config = config or UniFormerConfig()
        dims, depths = config.dims, config.depths
        self.embed_dim = dims[-1]
        self.patch_embed1 = Downsample(3, dims[0], kernel=(3, 4, 4), stride=(2, 4, 4), padding=(1, 0, 0))
        half: dict[str, tuple[int, int, int]] = {"kernel": (1, 2, 2), "stride": (1, 2, 2), "padding": (0, 0, 0)}
        self.patch_embed2 = Downsample(dims[0], dims[1], **half)
        self.patch_embed3 = Downsample(dims[1], dims[2], **half)
        self.patch_embed4 = Downsample(dims[2], dims[3], **half)
        rates = iter([config.drop_path * i / max(sum(depths) - 1, 1) for i in range(sum(depths))])
        self.blocks1 = self._local(0, rates)
        self.blocks2 = self._local(1, rates)
        self.blocks3 = self._global(2, rates)
        self.blocks4 = self._global(3, rates)
        self.norm = nn.BatchNorm3d(dims[-1])
        self.reset_parameters(generator)

    def _local(self, stage: int, rates: Any) -> nn.ModuleList:
        dim = self.config.dims[stage]
        hidden = round(dim * self.config.mlp_ratio)
        return nn.ModuleList(LocalBlock(dim, hidden=hidden, drop_path=next(rates)) for _ in range(self.config.depths[stage]))

    def _global(self, stage: int, rates: Any) -> nn.ModuleList:
        dim, heads = self.config.dims[stage], self.config.dims[stage] // self.config.head_dim
        hidden = round(dim * self.config.mlp_ratio)
        return nn.ModuleList(GlobalBlock(dim, heads=heads, hidden=hidden, drop_path=next(rates)) for _ in range(self.config.depths[stage]))

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Linear layers from a normal of deviation 0.02 cut at 2, convolutions uniform within 1 / sqrt(fan-in), norms 1 and 0."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
                nn.init.zeros_(layer.bias)
            elif isinstance(layer, nn.Conv3d):
                bound = layer.weight[0].numel() ** -0.5
                nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
                assert layer.bias is not None
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
            elif isinstance(layer, nn.LayerNorm | nn.BatchNorm3d):
                layer.reset_parameters()

    def describe(self) -> dict[str, Any]:
        """What a saved file must say so that the encoder can be built again."""
        return {"class": type(self).__name__, "config": asdict(self.config)}

    def feature_map(self, x: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` -> ``(B, embed_dim, t, h, w)``. Raises ValueError where height or width is not a multiple of 32."""
        if x.shape[3] % 32 or x.shape[4] % 32:
            raise ValueError(f"UniFormer expected a height and width that are multiples of 32, got {tuple(x.shape[3:])}")
        stages = (
            (self.patch_embed1, self.blocks1),
            (self.patch_embed2, self.blocks2),
            (self.patch_embed3, self.blocks3),
            (self.patch_embed4, self.blocks4),
        )
        for downsample, blocks in stages:
            x = downsample(x)
            for block in blocks:
                x = block(x)
        return self.norm(x)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` -> ``(B, t * h * w, embed_dim)``."""
        return rearrange(self.feature_map(x), "b c t h w -> b (t h w) c")


def uniformer_s(*, drop_path: float = 0.0, generator: torch.Generator | None = None) -> UniFormer:
    """UniFormer-S."""
    return UniFormer(UniFormerConfig(drop_path=drop_path), generator=generator)


def uniformer_b(*, drop_path: float = 0.0, generator: torch.Generator | None = None) -> UniFormer:
    """UniFormer-B."""
    return UniFormer(UniFormerConfig(depths=(5, 8, 20, 7), drop_path=drop_path), generator=generator)
