"""Which places of two crops' feature maps are the same spot of the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from suite3d.image.data.batch import ImageBatch, ViewDraw
from suite3d.losses.pixel_contrast import near_places


def map_side(places: int) -> int:
    """Side of the square feature map of a view. Raises ValueError for a number of places that is no square."""
    side = math.isqrt(places)
    if side * side != places:
        raise ValueError(f"dense methods expected the square feature map of a square view, row by row, got {places} places")
    return side


def cell_centres(view: ViewDraw, side: int) -> Tensor:
    """``(B, side^2, 2)`` float32 (y, x) where the cells of a view's feature map have their centres, pixels of the picture; mirrored with the view."""
    top, left, height, width = view.boxes.float().unbind(1)  # [B] each
    middle = (torch.arange(side, device=top.device) + 0.5) / side  # [side]
    across = torch.where(view.flips[:, None], 1 - middle, middle)  # [B, side]
    y = top[:, None] + middle * height[:, None]  # [B, side]
    x = left[:, None] + across * width[:, None]
    grid = torch.stack((y[:, :, None].expand(-1, -1, side), x[:, None].expand(-1, side, -1)), dim=3)  # [B, side, side, 2]
    return grid.flatten(1, 2)


def cell_diagonal(view: ViewDraw, side: int) -> Tensor:
    """``(B,)`` float32 diagonal of a cell, pixels of the picture."""
    return torch.linalg.vector_norm(view.boxes[:, 2:].float(), dim=1) / side


@torch.no_grad()
def shared_places(batch: ImageBatch, first: int, second: int, side: int, *, threshold: float) -> Tensor:
    """``(B, N, N)`` bool: places of view ``first`` and of view ``second`` at most ``threshold`` of the larger cell's diagonal apart.

    Raises ValueError where the two views show different pictures of a pair.
    """
    one, two = batch.views[first], batch.views[second]
    if one.picture != two.picture:
        raise ValueError(f"views {first} and {second} show different pictures of a pair, so their places have no common frame")
    scale = torch.maximum(cell_diagonal(one, side), cell_diagonal(two, side))
    return near_places(cell_centres(one, side), cell_centres(two, side), scale, threshold=threshold)
