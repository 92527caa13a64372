"""The transformer on patches of an object cloud that Point-BERT and Point-MAE share.

    cloud -> centres by furthest point sampling -> their nearest points, relative to the centre -> mini-PointNet -> tokens
    tokens + code of the centre, added before every block -> blocks -> LayerNorm

Yu et al., "Point-BERT", CVPR 2022 (section 3.1); Pang et al., "Masked Autoencoders for Point Cloud Self-supervised Learning" (Point-MAE), ECCV 2022
(section 3.1). Parameters have Point-MAE's names and shapes, so its published files load (:mod:`suite3d.pointcloud.interop.point_mae`).

Chosen, where Point-MAE has one size of cloud only: the number of patches is the number of points over ``spacing`` (1024 / 16 = 64 patches as
published, and the same density for smaller views).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.nn.block import Block
from suite3d.ops import furthest_point_sample, knn
from suite3d.pointcloud.data.batch import PointBatch


@dataclass(kw_only=True)
class PointPatchConfig:
    """Sizes; the defaults are Point-MAE's.

    Attributes:
        dim, depth, heads, mlp_ratio: of the transformer.
        spacing: points of a cloud for each patch.
        group_size: points of a patch.
        widths: hidden channels of the mini-PointNet.
        channels: columns of the points that enter beside xyz.
        class_token: one more token, as in the published fine-tuning.
        drop_path: of the last block, rising linearly from 0.
    """

    dim: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: float = 4.0
    spacing: int = 16
    group_size: int = 32
    widths: tuple[int, int, int] = (128, 256, 512)
    channels: tuple[str, ...] = ()
    class_token: bool = False
    drop_path: float = 0.1

    def __post_init__(self) -> None:
        if min(self.dim, self.depth, self.heads, self.spacing, self.group_size, *self.widths) < 1:
            raise ValueError(f"expected positive sizes, got {self}")


@dataclass(kw_only=True)
class Patches:
    """Groups of points.

    Attributes:
        centers: ``(B, G, 3)``.
        points: ``(B, G, n, 3 + C)``: xyz relative to the centre, then the channels; the nearest first.
    """

    centers: Tensor
    points: Tensor


class PatchTokenizer(nn.Module):
    """Mini-PointNet: two shared perceptrons, each followed by the maximum over the points of a patch (Point-BERT, section 3.1).

    Args:
        cin: numbers of a point.
        widths: hidden channels; the second also of the patch's first summary.
        dim: channels of a token.
    """

    def __init__(self, cin: int, widths: tuple[int, int, int], dim: int) -> None:
        super().__init__()
        first, second, third = widths
        self.first_conv = nn.Sequential(nn.Conv1d(cin, first, 1), nn.BatchNorm1d(first), nn.ReLU(), nn.Conv1d(first, second, 1))
        self.second_conv = nn.Sequential(nn.Conv1d(2 * second, third, 1), nn.BatchNorm1d(third), nn.ReLU(), nn.Conv1d(third, dim, 1))

    def forward(self, patches: Tensor) -> Tensor:
        """``(P, n, cin)`` -> ``(P, dim)``.

        A convolution of width 1 is a linear layer on rows. The summary of a patch, which the published code repeats for each of its points,
        goes through its half of the third layer once.
        """
        size = patches.shape[1]
        x = _rows(self.first_conv, patches.flatten(0, 1)).unflatten(0, (-1, size))  # [P, n, second]
        whole = x.amax(dim=1)  # [P, second]
        mix, norm, relu, last = self.second_conv
        assert isinstance(mix, nn.Conv1d) and isinstance(last, nn.Conv1d)
        weight = mix.weight[:, :, 0]
        x = F.linear(x, weight[:, whole.shape[1] :]) + F.linear(whole, weight[:, : whole.shape[1]], mix.bias)[:, None]  # [P, n, third]
        x = relu(norm(x.flatten(0, 1)))  # [P n, third]
        x = F.linear(x, last.weight[:, :, 0], last.bias).unflatten(0, (-1, size))  # [P, n, dim]
        return x.amax(dim=1)


def _rows(layers: nn.Module, x: Tensor) -> Tensor:
    """Layers of a perceptron written as convolutions of width 1, on ``(N, C)`` rows."""
    for layer in layers.children():
        x = F.linear(x, layer.weight[:, :, 0], layer.bias) if isinstance(layer, nn.Conv1d) else layer(x)
    return x


class PlacedBlocks(nn.Module):
    """Transformer blocks that get the code of each token's place anew: ``x <- block(x + p)``."""

    def __init__(self, dim: int, depth: int, heads: int, *, mlp_ratio: float = 4.0, drop_path: float = 0.0) -> None:
        super().__init__()
        rates = [drop_path * place / max(depth - 1, 1) for place in range(depth)]
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_ratio=mlp_ratio, qkv_bias="none", drop_path=rate, eps=1e-5) for rate in rates)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """``(B, N, dim)`` twice -> ``(B, N, dim)``."""
        for block in self.blocks:
            x = block(x + places)
        return x


def place_code(dim: int) -> nn.Sequential:
    """The perceptron from a centre to its code, ``(..., 3)`` -> ``(..., dim)``."""
    return nn.Sequential(nn.Linear(3, 128), nn.GELU(), nn.Linear(128, dim))


class PointPatchTransformer(nn.Module):
    """Object clouds to tokens.

    Args:
        config: sizes.
        generator: source of the initial weights.

    Attributes:
        embed_dim: channels of a token.
    """

    def __init__(self, config: PointPatchConfig, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config, self.embed_dim = config, config.dim
        self.encoder = PatchTokenizer(3 + len(config.channels), config.widths, config.dim)
        self.pos_embed = place_code(config.dim)
        self.cls_token = nn.Parameter(torch.empty(1, 1, config.dim)) if config.class_token else None
        self.cls_pos = nn.Parameter(torch.empty(1, 1, config.dim)) if config.class_token else None
        self.blocks = PlacedBlocks(config.dim, config.depth, config.heads, mlp_ratio=config.mlp_ratio, drop_path=config.drop_path)
        self.norm = nn.LayerNorm(config.dim)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights afresh."""
        initialise_points(self, generator)
        for token in (self.cls_token, self.cls_pos):
            if token is not None:
                nn.init.trunc_normal_(token, std=0.02, generator=generator)

    def describe(self) -> dict[str, Any]:
        """What a saved file must say so that the encoder can be built again."""
        return {"class": type(self).__name__, "config": asdict(self.config)}

    @torch.no_grad()
    def group(self, points: PointBatch) -> Patches:
        """Overlapping patches of every cloud, ``points // spacing`` of them and at least one.

        A cloud with fewer points than a patch repeats the nearest one.

        Raises:
            ValueError: clouds of different sizes, an empty cloud, or a channel that is not there.
        """
        sizes = points.offsets.diff().tolist()
        if len(set(sizes)) != 1 or sizes[0] < 1:
            raise ValueError(f"expected clouds with as many points each, at least one, got {sizes[:8]}: draw views of one size (augment.points)")
        groups = max(sizes[0] // self.config.spacing, 1)
        centers = points.xyz[furthest_point_sample(points.xyz, points.offsets, groups)]  # [B G, 3]
        edges = torch.arange(0, len(centers) + 1, groups, device=centers.device)
        near, _ = knn(centers, points.xyz, self.config.group_size, query_offsets=edges, point_offsets=points.offsets)  # [B G, n]
        near = torch.where(near < 0, near[:, :1], near)
        columns = points.select_channels(self.config.channels)
        grouped = torch.cat([points.xyz[near] - centers[:, None], columns[near]], dim=2)  # [B G, n, 3 + C]
        return Patches(centers=centers.unflatten(0, (-1, groups)), points=grouped.unflatten(0, (-1, groups)))

    def encode(self, patches: Patches, visible: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class token ``(B, 0 or 1, dim)`` and tokens ``(B, G or V, dim)``.

        ``visible``: ``(B, V)`` int64, the patches to encode, in this order; the others are never seen. None = all.
        """
        centers, points = patches.centers, patches.points
        if visible is not None:
            centers = centers.gather(1, visible[:, :, None].expand(-1, -1, 3))
            points = points[torch.arange(len(points), device=points.device)[:, None], visible]  # [B, V, n, C]
        tokens = rearrange(self.encoder(rearrange(points, "b g n c -> (b g) n c")), "(b g) d -> b g d", b=len(points))
        places = self.pos_embed(centers)
        prefix = 0
        if self.cls_token is not None and self.cls_pos is not None:
            tokens = torch.cat([self.cls_token.to(tokens.dtype).expand(len(tokens), -1, -1), tokens], dim=1)
            places = torch.cat([self.cls_pos.to(places.dtype).expand(len(tokens), -1, -1), places], dim=1)
            prefix = 1
        x = self.norm(self.blocks(tokens, places))  # [B, P + G, dim]
        return x[:, :prefix], x[:, prefix:]

    def forward(self, points: PointBatch) -> Tensor:
        """Tokens ``(B, G, dim)`` of clouds with as many points each."""
        return self.encode(self.group(points))[1]

    def pooled(self, points: PointBatch) -> Tensor:
        """One vector a cloud, ``(B, dim)``: the class token, or the mean over the patches."""
        first, tokens = self.encode(self.group(points))
        return first[:, 0] if self.config.class_token else tokens.mean(dim=1)

    def described(self, points: PointBatch) -> Tensor:
        """What probes read, ``(B, 2 dim)`` or ``(B, 3 dim)``: the class token (where there is one), maximum and mean over the patches.

        Maximum and mean are the field's protocol for linear SVMs on frozen features, class token and maximum Point-MAE's for fine-tuning.
        """
        first, tokens = self.encode(self.group(points))
        return torch.cat([*first.unbind(1), tokens.amax(dim=1), tokens.mean(dim=1)], dim=1)


@torch.no_grad()
def initialise_points(module: nn.Module, generator: torch.Generator | None = None) -> None:
    """Draw weights as Point-BERT: linear layers and convolutions from a truncated normal (0.02) with zero biases, norms 1 and 0."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d):
            nn.init.trunc_normal_(layer.weight, std=0.02, generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.LayerNorm | nn.BatchNorm1d):
            layer.reset_parameters()
