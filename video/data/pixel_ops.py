"""The changes RandAugment draws from, for batches of uint8 clips, with the arithmetic of Pillow's pictures (8 bit, one frame at a time)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

FILL = (124, 116, 104)
"""Mean colour of ImageNet, which stands in for what lies outside the picture."""


def apply_change(name: str, clips: Tensor, level: Tensor) -> Tensor:
    """One change on ``(n, 3, T, H, W)`` uint8 clips with ``level (n,)`` float32 in [-1, 1], the strength (its sign where a change has two ways)."""
    return _CHANGES[name](clips, level[:, None, None, None, None])


def auto_contrast(clips: Tensor, level: Tensor) -> Tensor:
    """Stretch every channel of every frame to 0..255."""
    values = clips.flatten(3).flatten(0, 2).long()  # [R, HW]
    low, high = (extreme.double() for extreme in values.aminmax(dim=1, keepdim=True))
    scale = 255 / (high - low).clamp(min=1)
    levels = torch.arange(256, device=clips.device, dtype=torch.float64)
    table = torch.where(high > low, (levels * scale - low * scale).clamp(0, 255).floor(), levels)  # [R, 256]
    return table.to(torch.uint8).gather(1, values).view_as(clips)


def equalize(clips: Tensor, level: Tensor) -> Tensor:
    """Flatten the histogram of every channel of every frame."""
    values = clips.flatten(3).flatten(0, 2).long()  # [R, HW]
    row = torch.arange(len(values), device=clips.device)[:, None]
    counts = torch.bincount((values + 256 * row).flatten(), minlength=256 * len(values)).view(len(values), 256)
    last = counts.gather(1, values.amax(1, keepdim=True))  # pixels of the brightest value
    step = (values.shape[1] - last) // 255  # [R, 1]
    before = counts.cumsum(1) - counts
    table = ((before + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=clips.device)).to(torch.uint8)
    return table.gather(1, values).view_as(clips)


def invert(clips: Tensor, level: Tensor) -> Tensor:
    """255 - v."""
    return 255 - clips


def posterize(clips: Tensor, level: Tensor) -> Tensor:
    """Keep the upper 4 - int(4 level) bits (none at full strength)."""
    keep = 4 - (level.abs() * 4).int()  # [n, 1, 1, 1, 1]
    return clips & ((0xFF << (8 - keep)) & 0xFF).to(torch.uint8)


def solarize(clips: Tensor, level: Tensor) -> Tensor:
    """Invert what is at least 256 - int(256 level)."""
    return torch.where(clips >= 256 - (level.abs() * 256).int(), 255 - clips, clips)


def solarize_add(clips: Tensor, level: Tensor) -> Tensor:
    """Add int(110 level) to what is below 128."""
    brighter = (clips.short() + (level.abs() * 110).short()).clamp_(max=255).to(torch.uint8)
    return torch.where(clips < 128, brighter, clips)


def color(clips: Tensor, level: Tensor) -> Tensor:
    """Towards or away from each pixel's grey."""
    return _blend(_gray(clips).expand_as(clips), clips, 1 + 0.9 * level)


def contrast(clips: Tensor, level: Tensor) -> Tensor:
    """Towards or away from the frame's mean grey."""
    mean = (_gray(clips).double().mean((3, 4), keepdim=True) + 0.5).floor()
    return _blend(mean.float().expand_as(clips), clips, 1 + 0.9 * level)


def brightness(clips: Tensor, level: Tensor) -> Tensor:
    """Towards or away from black."""
    return _blend(torch.zeros_like(clips), clips, 1 + 0.9 * level)


def sharpness(clips: Tensor, level: Tensor) -> Tensor:
    """Towards or away from the smoothed frame: mean of 3 x 3 pixels with the middle counted five times; the border stays."""
    whole = clips.short()
    rows = whole[..., :-2, :] + whole[..., 1:-1, :] + whole[..., 2:, :]
    total = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * whole[..., 1:-1, 1:-1]
    smooth = clips.float()
    smooth[..., 1:-1, 1:-1] = total.float().div_(13).add_(0.5).floor_()
    return _blend(smooth, clips, 1 + 0.9 * level)


def rotate(clips: Tensor, level: Tensor) -> Tensor:
    """By up to 30 degrees, counter-clockwise where positive."""
    angle = -level * (math.pi / 6)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _warp(clips, [[cos, sin, zero], [-sin, cos, zero]])


def shear_x(clips: Tensor, level: Tensor) -> Tensor:
    """Rows slide by up to 0.3 of their height above the middle."""
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(clips, [[one, 0.3 * level, zero], [zero, one, zero]])


def shear_y(clips: Tensor, level: Tensor) -> Tensor:
    """Columns slide likewise."""
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(clips, [[one, zero, zero], [0.3 * level, one, zero]])


def translate_x(clips: Tensor, level: Tensor) -> Tensor:
    """By up to 0.45 of the width."""
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(clips, [[one, zero, 0.45 * level * clips.shape[4]], [zero, one, zero]])


def translate_y(clips: Tensor, level: Tensor) -> Tensor:
    """By up to 0.45 of the height."""
    one, zero = torch.ones_like(level), torch.zeros_like(level)
    return _warp(clips, [[one, zero, zero], [zero, one, 0.45 * level * clips.shape[3]]])


def _gray(clips: Tensor) -> Tensor:
    """``(n, 1, T, H, W)`` luma in whole numbers, ITU-R 601 in 16-bit fixed point as Pillow."""
    red, green, blue = clips.int().split(1, dim=1)
    return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16


def _blend(base: Tensor, clips: Tensor, factor: Tensor) -> Tensor:
    """base + factor (clips - base), cut to 0..255 and truncated."""
    base = base.float()
    return (clips.float().sub_(base).mul_(factor).add_(base)).clamp_(0, 255).to(torch.uint8)


def _warp(clips: Tensor, matrix: list[list[Tensor]]) -> Tensor:
    """Every output pixel (x, y), measured in pixels from the middle, takes the value at ``matrix @ (x, y, 1)``; outside is :data:`FILL`."""
    n, _, length, height, width = clips.shape
    size = torch.tensor([width, height], device=clips.device, dtype=torch.float32)
    theta = torch.stack([torch.cat([part.flatten(1) for part in row], dim=1) for row in matrix], dim=1)  # [n, 2, 3]
    scale = torch.cat([size, size.new_tensor([2.0])])  # (x, y, 1) in grid units of [-1, 1] -> pixels * 2
    theta = theta * scale / size[:, None]
    fill = torch.tensor(FILL, device=clips.device, dtype=torch.float32)[:, None, None, None]
    planes = (clips.float() - fill).flatten(1, 2)  # [n, 3T, H, W]
    grid = F.affine_grid(theta, [n, 3 * length, height, width], align_corners=False)
    moved = F.grid_sample(planes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return (moved.view_as(clips) + fill + 0.5).floor().clamp(0, 255).to(torch.uint8)


_CHANGES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    function.__name__: function
    for function in (
        auto_contrast,
        equalize,
        invert,
        rotate,
        posterize,
        solarize,
        solarize_add,
        color,
        contrast,
        brightness,
        sharpness,
        shear_x,
        shear_y,
        translate_x,
        translate_y,
    )
}
CHANGES = tuple(_CHANGES)
