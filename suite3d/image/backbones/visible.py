"""Convolutional encoders on part of a picture: dense maps in which what is hidden stays zero.

A convolution carries values from visible places into hidden ones, so that after a few layers the hidden area is gone; the statistics of a norm
are off as well. With :class:`VisibleOnly` every layer's output is set to zero again where the picture is hidden, and batch norms see the visible
places only, which gives exactly what a submanifold sparse convolution gives (:mod:`suite3d.image.backbones.sparse_resnet`).

Source: Tian et al., "Designing BERT for Convolutional Networks: Sparse and Hierarchical Masked Modeling" (SparK), ICLR 2023, section 3.1.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

from suite3d.image.backbones.convnext import ConvNeXtBlock, LayerNorm2d
from suite3d.masking import visible_indices

REMASKED = (nn.Conv2d, nn.MaxPool2d, LayerNorm2d, ConvNeXtBlock)
"""Layers after which hidden places are set to zero. Between the convolution and the end of a ConvNeXt block every layer acts on single places."""


class VisibleCells:
    """Which cells of a picture are seen, at any resolution.

    Args:
        mask: ``(B, h, w)`` bool, True = hidden.
        seen: visible cells of each row of the batch, the same number in each.
    """

    def __init__(self, mask: Tensor, seen: int) -> None:
        self.mask, self.seen = mask, seen
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._places: dict[tuple[int, int], Tensor] = {}

    def at(self, height: int, width: int) -> Tensor:
        """``(B, 1, height, width)`` bool, True = visible. Raises ValueError for sides that are no multiples of the cells' number."""
        if (height, width) not in self._maps:
            h, w = self.mask.shape[1:]
            if height % h or width % w:
                raise ValueError(f"a map of {height} x {width} does not divide into {h} x {w} cells: use pictures whose side the stride divides")
            fine = (~self.mask).repeat_interleave(height // h, dim=1).repeat_interleave(width // w, dim=2)
            self._maps[height, width] = fine[:, None]
        return self._maps[height, width]

    def places(self, height: int, width: int) -> Tensor:
        """``(B, V)`` int64 the visible places of a map, row by row."""
        if (height, width) not in self._places:
            count = self.seen * (height // self.mask.shape[1]) * (width // self.mask.shape[2])
            self._places[height, width] = visible_indices(~self.at(height, width).flatten(1), count)
        return self._places[height, width]

    def keep(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` with zeros where it is hidden."""
        return x.masked_fill(~self.at(x.shape[2], x.shape[3]), 0)

    def gather(self, x: Tensor) -> Tensor:
        """``(B, C, H, W)`` -> ``(B, C, V)`` the visible places."""
        index = self.places(x.shape[2], x.shape[3])
        return x.flatten(2).gather(2, index[:, None].expand(-1, x.shape[1], -1))

    def scatter(self, x: Tensor, height: int, width: int) -> Tensor:
        """The way back of :meth:`gather`, zeros elsewhere."""
        index = self.places(height, width)[:, None].expand(-1, x.shape[1], -1)
        return x.new_zeros(*x.shape[:2], height * width).scatter(2, index, x).unflatten(2, (height, width))


class VisibleOnly:
    """Within the ``with`` block the given networks compute on visible places only, with the weights and running statistics that they have.

    Args:
        cells: what is visible.
        networks: networks of the layers that ResNet and ConvNeXt are made of.
    """

    def __init__(self, cells: VisibleCells, *networks: nn.Module) -> None:
        self.cells, self.networks = cells, networks
        self._handles: list[RemovableHandle] = []
        self._shapes: list[tuple[int, int]] = []

    def __enter__(self) -> None:
        for module in (module for network in self.networks for module in network.modules()):
            if isinstance(module, _BatchNorm):
                self._handles += [module.register_forward_pre_hook(self._pick), module.register_forward_hook(self._put_back)]
            elif isinstance(module, REMASKED):
                self._handles.append(module.register_forward_hook(self._keep))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._shapes.clear()

    def _keep(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return self.cells.keep(output)

    def _pick(self, _module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        self._shapes.append((inputs[0].shape[2], inputs[0].shape[3]))
        return (self.cells.gather(inputs[0])[..., None],)  # [B, C, V, 1]

    def _put_back(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return self.cells.scatter(output[..., 0], *self._shapes.pop())


@torch.compiler.disable
def masked_levels(encoder: nn.Module, pixels: Tensor, cells: VisibleCells) -> list[Tensor]:
    """``(B, 3, H, W)`` -> the maps of ``encoder.levels``, computed from the visible pixels and zero at hidden places."""
    with VisibleOnly(cells, encoder):
        maps: list[Tensor] = encoder.levels(cells.keep(pixels))  # type: ignore[operator]
    return maps
