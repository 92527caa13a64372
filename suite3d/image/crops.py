"""Crops of uint8 frames, resized, mirrored, recoloured and normalised for a whole batch at once, on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def crop_resize(frames: Tensor, boxes: Tensor, flips: Tensor, size: int, *, dtype: torch.dtype | None = None) -> Tensor:
    """Crop, resize with an anti-aliasing triangle filter, mirror: two matrix products for the whole batch.

    The filter is that of PIL's and torch's ``bilinear`` with anti-aliasing, and never reads outside the crop.

    Args:
        frames: ``(B, T, H, W, 3)`` uint8.
        boxes: ``(B, R, 4)`` (top, left, height, width). flips: ``(B, R)`` bool.
        size: S, side of the result.
        dtype: of the products; None = float16 on CUDA (tensor cores; within 0.3 of 255 grey levels of float32), float32 elsewhere.

    Returns:
        ``(B * R, 3, T, S, S)`` in ``dtype``, values 0 to 255.
    """
    dtype = dtype or (torch.float16 if frames.device.type == "cuda" else torch.float32)
    batch, length, height, width, _ = frames.shape
    repeats = boxes.shape[1]
    top, left, tall, wide = boxes.float().unbind(-1)  # [B, R]
    rows = resize_weights(top, tall, size, height).to(dtype)  # [B, R, S, H]
    columns = resize_weights(left, wide, size, width)  # [B, R, S, W]
    columns = torch.where(flips[..., None, None], columns.flip(2), columns).to(dtype)
    with torch.autocast(frames.device.type, enabled=False):
        planes = frames.permute(0, 4, 1, 2, 3).to(dtype, memory_format=torch.contiguous_format)  # [B, 3, T, H, W]
        narrow = planes.flatten(1, 3) @ columns.flatten(1, 2).mT  # [B, 3TH, RS]
        narrow = narrow.unflatten(1, (3 * length, height)).unflatten(3, (repeats, size))  # [B, 3T, H, R, S]
        pixels = rows[:, :, None] @ narrow.permute(0, 3, 1, 2, 4)  # [B, R, 3T, S, S]
    return pixels.reshape(batch * repeats, 3, length, size, size)


def resize_weights(start: Tensor, extent: Tensor, size: int, pixels: int) -> Tensor:
    """``(..., size, pixels)`` float32 rows that resize the pixels ``[start, start + extent)`` of a line to ``size`` pixels.

    Row s is a triangle around ``start + (s + 1/2) extent / size - 1/2`` of half width max(1, extent / size), cut to the extent; it sums to 1.
    """
    step = extent[..., None, None] / size
    place = torch.arange(pixels, device=start.device)  # [pixels]
    center = start[..., None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * step - 0.5  # [..., size, 1]
    weight = (1 - (place - center).abs() / step.clamp(min=1)).clamp(min=0)
    inside = (place >= start[..., None, None]) & (place < (start + extent)[..., None, None])
    weight = weight * inside
    return weight / weight.sum(-1, keepdim=True)


def normalise(pixels: Tensor, colors: Tensor | None, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(N, 3, T, S, S)`` in 0 to 255 -> float32 ``(colour(pixels / 255) - mean) / std``."""
    shift, scale = (torch.tensor(value, device=pixels.device, dtype=torch.float32)[:, None, None, None] for value in (mean, std))
    if colors is None:
        return torch.addcmul(-shift / scale, pixels.float(), 1 / (255 * scale))
    with torch.autocast(pixels.device.type, enabled=False):
        changed = torch.baddbmm(colors[:, :, 3:], colors[:, :, :3], pixels.float().flatten(2) / 255).clamp(0, 1)
    return (changed.view_as(pixels) - shift) / scale
