"""Histograms of oriented gradients as what a masked model predicts (MaskFeat): edges by direction, blind to brightness and contrast."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


@torch.no_grad()
def hog_target(images: Tensor, *, patch: int = 16, cell: int = 8, bins: int = 9, window: int | None = None) -> Tensor:
    """``(B, N, C * bins * (patch / cell)^2)`` float32 HOG of each patch, channel by channel.

    The gradient at a pixel is (right - left, below - above), mirrored at the border without the edge pixel; its direction without sign falls
    into one of ``bins`` equal parts of half a turn, weighted by its length. Histograms of ``cell x cell`` pixels are scaled to unit length.
    Use :func:`suite3d.losses.masked_pixels.token_mse` on the hidden tokens as the loss.

    Args:
        images: ``(B, C, H, W)``, any scale; for a clip fold time into B.
        patch: side of a token, a multiple of ``cell``; H and W must be multiples of it.
        window: weight gradients by a Gaussian of deviation ``window / 2`` around the centre of each ``window x window`` tile, as the released
            code does with 16; None = the paper's plain sum.

    Returns:
        Tokens in row-major order, values in the order (channel, bin, cell row, cell column).

    Raises:
        ValueError: sides that do not divide.

    Source: Wei et al., "Masked Feature Prediction for Self-Supervised Visual Pre-Training" (MaskFeat), CVPR 2022, section 3.2; Dalal &
    Triggs, CVPR 2005.
    """
    if images.ndim != 4:
        raise ValueError(f"hog_target expected images (B, C, H, W), got {tuple(images.shape)}")
    height, width = images.shape[2:]
    if patch % cell or height % patch or width % patch or bins < 1:
        raise ValueError(
            f"hog_target expected cells of {cell} in patches of {patch} in an image of {height} x {width}, {bins} bins: they must divide"
        )
    if window is not None and (window < 1 or height % window or width % window):
        raise ValueError(f"hog_target expected a window that divides {height} x {width}, got {window}")
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="reflect")
    across = padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]
    down = padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]
    length = torch.hypot(across, down)
    if window is not None:
        length = length * _gaussian(window, images.device).repeat(height // window, width // window)
    part = (torch.atan2(down, across).remainder(math.pi) / math.pi * bins).long().clamp(max=bins - 1)  # [B, C, H, W]
    spread = torch.zeros(*images.shape[:2], bins, height, width, device=images.device).scatter_(2, part[:, :, None], length[:, :, None])
    cells = F.avg_pool2d(spread.flatten(1, 2), cell).unflatten(1, (-1, bins))  # [B, C, bins, H / cell, W / cell]
    cells = F.normalize(cells, dim=2)
    side = patch // cell
    return rearrange(cells, "b c o (h i) (w j) -> b (h w) (c o i j)", i=side, j=side)


def _gaussian(window: int, device: torch.device) -> Tensor:
    offset = torch.arange(window, device=device) - (window - 1) / 2
    line = (-offset.square() / (2 * (window / 2) ** 2)).exp()
    return line[:, None] * line
