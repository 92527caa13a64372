"""ConvNeXt with timm's parameter names.

Liu et al., "A ConvNet for the 2020s", CVPR 2022 (figure 4, section 2; sizes in appendix A.1).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.nn.block import MLP, DropPath

SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "T": ((3, 3, 9, 3), (96, 192, 384, 768)),
    "S": ((3, 3, 27, 3), (96, 192, 384, 768)),
    "B": ((3, 3, 27, 3), (128, 256, 512, 1024)),
    "L": ((3, 3, 27, 3), (192, 384, 768, 1536)),
}
"""Blocks and channels of the four stages."""


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of each place of a map ``(B, C, H, W)``."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.movedim(1, -1), self.normalized_shape, self.weight, self.bias, self.eps).movedim(-1, 1)


class ConvNeXtBlock(nn.Module):
    """x + gamma * mlp(norm(depthwise 7 x 7 (x)))."""

    def __init__(self, dim: int, *, layer_scale: float, drop_path: float) -> None:
        super().__init__()
        self.initial = layer_scale
        self.conv_dw = nn.Conv2d(dim, dim, 7, 1, 3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = MLP(dim, 4 * dim)
        self.gamma = nn.Parameter(torch.full((dim,), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.mlp(self.norm(self.conv_dw(x).movedim(1, -1)))  # [B, H, W, C]
        out = (self.gamma * out).movedim(-1, 1)  # [B, C, H, W]
        return x + self.drop_path(out)


class ConvNeXtStage(nn.Module):
    """Norm and 2 x 2 convolution of stride 2 (from the second stage on), then the blocks."""

    def __init__(self, channels: int, dim: int, rates: Sequence[float], *, layer_scale: float) -> None:
        super().__init__()
        self.downsample = nn.Identity() if channels == dim else nn.Sequential(LayerNorm2d(channels), nn.Conv2d(channels, dim, 2, 2))
        self.blocks = nn.Sequential(*(ConvNeXtBlock(dim, layer_scale=layer_scale, drop_path=rate) for rate in rates))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class ConvNeXt(nn.Module):
    """ConvNeXt without its classifier.

    The published classifier norms the mean of the last map; here :attr:`head` norms each place of it, since features are not pooled. The
    weights are the same ones, and for a map of one place so is the result.

    Args:
        size: T, S, B or L.
        depths, dims: replace the size's blocks and channels; empty = as published.
        patch: side of the stem's patches: 4 in all published ones (stride 32), 1 or 2 for small pictures.
        drop_path: of the last block, growing from 0 at the first.
        layer_scale: initial gamma of every block.

    Attributes:
        embed_dim, stride, level_dims: as :class:`suite3d.image.backbones.resnet.ResNet`.

    Raises:
        ValueError: another size, not four stages, stages that do not widen, or a patch that is not positive.
    """

    def __init__(
        self,
        size: str = "T",
        *,
        depths: Sequence[int] = (),
        dims: Sequence[int] = (),
        patch: int = 4,
        drop_path: float = 0.0,
        layer_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        if size not in SIZES:
            raise ValueError(f"ConvNeXt expected a size of {sorted(SIZES)}, got '{size}'")
        depths, dims = tuple(depths) or SIZES[size][0], tuple(dims) or SIZES[size][1]
        if len(depths) != 4 or len(dims) != 4 or min(depths) < 1 or any(a >= b for a, b in zip(dims[:-1], dims[1:])) or dims[0] < 1 or patch < 1:
            raise ValueError(f"ConvNeXt expected 4 depths, 4 growing dims and patch >= 1, got depths={depths}, dims={dims}, patch={patch}")
        if not 0 <= drop_path < 1:
            raise ValueError(f"drop_path expected a probability in [0, 1), got {drop_path}")
        self.settings = {"size": size, "depths": depths, "dims": dims, "patch": patch, "drop_path": drop_path, "layer_scale": layer_scale}
        rates = [drop_path * place / max(sum(depths) - 1, 1) for place in range(sum(depths))]
        starts = [sum(depths[:stage]) for stage in range(4)]
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], patch, patch), LayerNorm2d(dims[0]))
        stages = zip((dims[0], *dims[:-1]), dims, starts, depths, strict=True)
        self.stages = nn.Sequential(
            *(ConvNeXtStage(before, dim, rates[at : at + depth], layer_scale=layer_scale) for before, dim, at, depth in stages)
        )
        self.head = nn.Sequential(OrderedDict(norm=LayerNorm2d(dims[-1])))
        self.level_dims = list(dims)
        self.embed_dim, self.stride = dims[-1], 8 * patch
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Weights normal with deviation 0.02, cut at 2; biases 0; norms 1 and 0; layer scales at their start."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02, generator=generator)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
            elif isinstance(module, ConvNeXtBlock):
                nn.init.constant_(module.gamma, module.initial)

    def describe(self) -> dict[str, Any]:
        """What a saved file must say so that the encoder can be built again."""
        return {"class": type(self).__name__, "config": dict(self.settings)}

    def levels(self, x: Tensor) -> list[Tensor]:
        """``(B, 3, H, W)`` -> the maps after the four stages, ``(B, level_dims[i], H_i, W_i)``."""
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """``(B, 3, H, W)`` -> ``(B, N, embed_dim)``, N places of the last map row by row, each normed."""
        return self.head(self.levels(x)[-1]).flatten(2).transpose(1, 2)
