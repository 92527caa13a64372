"""A residual network on the visible pixels of pictures, by the project's sparse convolution on grids of one slice.

It has no weights of its own: it reads those of a :class:`~suite3d.image.backbones.resnet.ResNet` and gives the maps, gradients and running
statistics of :func:`suite3d.image.backbones.visible.masked_levels`, while its work shrinks with the visible area.

A strided convolution of sparse libraries gives an output wherever its window meets an input, which lets the visible area grow by a rim at every
level; here outputs are made at visible places only, as in the masked dense network.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from suite3d.image.backbones.resnet import BasicBlock, Bottleneck, ResNet
from suite3d.image.backbones.visible import VisibleCells
from suite3d.ops.sparse import KernelMap, SparseTensor, sparse_conv, strided_map, submanifold_map


@torch.compiler.disable
def sparse_levels(encoder: nn.Module, pixels: Tensor, cells: VisibleCells) -> list[Tensor]:
    """``(B, 3, H, W)`` -> the dense maps after the four stages, ``(B, level_dims[i], H_i, W_i)``, zero at hidden places.

    Raises:
        ValueError: an encoder that is not a ResNet (sparse_conv has no depthwise convolution).
    """
    if not isinstance(encoder, ResNet):
        raise ValueError(f"sparse convolution is there for ResNet only, got {type(encoder).__name__}: use the masked dense one")
    x = sparse_pixels(pixels, cells)
    x = _relu(_norm(encoder.bn1, _conv(encoder.conv1, x, cells)))
    if isinstance(encoder.maxpool, nn.MaxPool2d):
        x = _max_pool(encoder.maxpool, x, cells)
    maps = []
    for stage in range(4):
        for block in getattr(encoder, f"layer{stage + 1}"):
            x = _block(block, x, cells)
        maps.append(x.dense()[:, :, 0])  # [B, C, H_i, W_i]
    return maps


def sparse_pixels(pixels: Tensor, cells: VisibleCells) -> SparseTensor:
    """The visible pixels of ``(B, C, H, W)`` as a sparse tensor of one slice."""
    batch, _, height, width = pixels.shape
    index = cells.places(height, width)  # [B, V]
    picture = torch.arange(batch, device=index.device)[:, None].expand_as(index)
    coords = torch.stack([picture, torch.zeros_like(index), index // width, index % width], dim=2).flatten(0, 1).int()  # [B V, 4]
    feats = cells.gather(pixels).transpose(1, 2).flatten(0, 1)  # [B V, C]
    return SparseTensor(coords=coords, feats=feats, spatial_shape=(1, height, width), batch_size=batch)


def _block(block: BasicBlock | Bottleneck, x: SparseTensor, cells: VisibleCells) -> SparseTensor:
    shortcut = x if block.downsample is None else _norm(block.downsample[1], _conv(block.downsample[0], x, cells))
    out = _relu(_norm(block.bn1, _conv(block.conv1, x, cells)))
    out = _norm(block.bn2, _conv(block.conv2, out, cells))
    if isinstance(block, Bottleneck):
        out = _norm(block.bn3, _conv(block.conv3, _relu(out), cells))
    return out.replace((out.feats + shortcut.feats).relu())


def _relu(x: SparseTensor) -> SparseTensor:
    return x.replace(x.feats.relu())


def _norm(norm: nn.Module, x: SparseTensor) -> SparseTensor:
    """A BatchNorm2d on rows: each is a picture of one place to it."""
    return x.replace(norm(x.feats[:, :, None, None])[:, :, 0, 0])


def _conv(conv: Any, x: SparseTensor, cells: VisibleCells) -> SparseTensor:
    """A Conv2d without bias, at visible places."""
    weight = conv.weight.permute(0, 2, 3, 1)[:, None]  # [O, 1, ky, kx, I]
    if conv.stride == (1, 1):
        if conv.kernel_size == (1, 1):
            return x.replace(x.feats @ conv.weight[:, :, 0, 0].to(x.feats.dtype).T)
        key = ("submanifold", (1, *conv.kernel_size))
        if key not in x.maps:
            x.maps[key] = submanifold_map(x.coords, spatial_shape=x.spatial_shape, batch_size=x.batch_size, kernel=key[1])
        return x.replace(sparse_conv(x.feats, weight.contiguous(), None, x.maps[key]))
    table = visible_strided_map(x, cells, kernel=conv.kernel_size, stride=conv.stride, padding=conv.padding)
    return _on(table, x, sparse_conv(x.feats, weight.contiguous(), None, table))


def _max_pool(pool: nn.MaxPool2d, x: SparseTensor, cells: VisibleCells) -> SparseTensor:
    """Largest visible value of a window; equal to pooling zeros at the hidden places since features come out of a ReLU."""
    size, stride, padding = (int(value) for value in (pool.kernel_size, pool.stride, pool.padding))  # type: ignore[arg-type]
    table = visible_strided_map(x, cells, kernel=(size, size), stride=(stride, stride), padding=(padding, padding))
    rows = table.forward.long()  # [K, V_out]
    values = x.feats[rows.clamp(min=0)].masked_fill((rows < 0)[..., None], -torch.inf)  # [K, V_out, C]
    return _on(table, x, values.max(dim=0).values)


def _on(table: KernelMap, x: SparseTensor, feats: Tensor) -> SparseTensor:
    return SparseTensor(coords=table.coords, feats=feats, spatial_shape=table.spatial_shape, batch_size=x.batch_size, maps=table.maps)


def visible_strided_map(
    x: SparseTensor, cells: VisibleCells, *, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> KernelMap:
    """The kernel map of a strided convolution whose outputs are the visible places of the coarser map; kept in ``x.maps``."""
    key = ("visible", kernel, stride, padding)
    if key not in x.maps:
        full = strided_map(
            x.coords, spatial_shape=x.spatial_shape, batch_size=x.batch_size, kernel=(1, *kernel), stride=(1, *stride), padding=(0, *padding)
        )
        picture, _, row, column = full.coords.long().unbind(1)
        keep = cells.at(*full.spatial_shape[1:])[picture, 0, row, column]  # [V_out']
        renumbered = torch.where(keep, keep.cumsum(0) - 1, -1).to(full.backward.dtype)
        backward = torch.where(full.backward >= 0, renumbered[full.backward.clamp(min=0).long()], -1)
        x.maps[key] = KernelMap(
            coords=full.coords[keep], spatial_shape=full.spatial_shape, forward=full.forward[:, keep].contiguous(), backward=backward, mirrored=False
        )
    table: KernelMap = x.maps[key]
    return table
