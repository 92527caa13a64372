"""Blur and solarisation of whole clips, one set of numbers a clip, on the device.

Both act on normalised pixels: a blur commutes with an affine map of the channels, and solarisation is written out in normalised units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from suite3d.masking import generators_of


@dataclass(kw_only=True)
class AppearanceConfig:
    """What happens to a clip after its colours.

    Attributes:
        blur: probability of a Gaussian blur.
        sigma: range its deviation is drawn from, pixels; its kernel is cut at 1/20 of the side on either side, as in SimCLR.
        solarise: probability of inverting all values of at least 0.5.
    """

    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise ValueError(f"sigma expected an increasing range of positive deviations, got {self.sigma}")


def change_appearance(
    pixels: Tensor, config: AppearanceConfig, seeds: Sequence[int], *, mean: Sequence[float], std: Sequence[float], purpose: str = "appearance"
) -> Tensor:
    """Blur, then solarise some of the clips; the same for all frames of a clip.

    Args:
        pixels: ``(B, C, T, S, S)`` float32, ``(x - mean) / std`` of x in [0, 1].
        seeds: B of them; the draws of a clip are a function of its own.
        mean, std: per channel.
        purpose: name of the random stream, another for each view.

    Returns:
        A tensor like ``pixels``, which stays as it was.
    """
    draws = torch.stack([torch.rand(3, generator=generator) for generator in generators_of(seeds, purpose)])  # [B, 3]
    sigma = config.sigma[0] + (config.sigma[1] - config.sigma[0]) * draws[:, 1]
    blurred, inverted = (draws[:, 0] < config.blur).nonzero()[:, 0], (draws[:, 2] < config.solarise).nonzero()[:, 0]
    if not len(blurred) and not len(inverted):
        return pixels
    pixels = pixels.clone()
    if len(blurred):
        rows = blurred.to(pixels.device)
        pixels[rows] = gaussian_blur(pixels[rows], sigma[blurred].to(pixels.device), radius=max(pixels.shape[-1] // 20, 1))
    if len(inverted):
        rows = inverted.to(pixels.device)
        pixels[rows] = solarise(pixels[rows], mean=mean, std=std)
    return pixels


def gaussian_blur(pixels: Tensor, sigma: Tensor, *, radius: int) -> Tensor:
    """Each clip of ``(B, C, T, H, W)`` with its own deviation ``sigma (B,)``: two matrix products for the whole batch.

    The kernel reaches ``radius`` pixels and is renormalised at the border, so that a constant clip stays as it is.
    """
    rows, columns = (_kernel(size, sigma, radius) for size in pixels.shape[-2:])  # [B, H, H], [B, W, W]
    with torch.autocast(pixels.device.type, enabled=False):
        narrow = pixels.flatten(1, 3).float() @ columns.mT  # [B, CTH, W]
        planes = narrow.view(len(pixels), -1, *pixels.shape[-2:])  # [B, CT, H, W]
        return (rows[:, None] @ planes).view_as(pixels).to(pixels.dtype)


def _kernel(size: int, sigma: Tensor, radius: int) -> Tensor:
    place = torch.arange(size, device=sigma.device)
    distance = place[:, None] - place  # [S, S]
    weight = torch.exp(-(distance**2) / (2 * sigma[:, None, None] ** 2)) * (distance.abs() <= radius)
    return weight / weight.sum(dim=2, keepdim=True)


def solarise(pixels: Tensor, *, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """1 - x where x >= 0.5, for ``(B, C, ...)`` pixels ``(x - mean) / std``."""
    shape = (-1, *[1] * (pixels.ndim - 2))
    shift, scale = (torch.tensor(value, device=pixels.device, dtype=pixels.dtype).view(shape) for value in (mean, std))
    return torch.where(pixels >= (0.5 - shift) / scale, (1 - 2 * shift) / scale - pixels, pixels)
