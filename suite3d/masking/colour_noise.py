"""Masks cut out of coloured noise: hidden tokens clump (red), spread evenly (blue), or form patches of one size (green) (ColorMAE)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from einops import repeat
from torch import Tensor

from suite3d.masking.streams import Generators, hidden_count, sub_generator

Colour = Literal["white", "red", "blue", "green", "purple"]


@dataclass(kw_only=True)
class ColourNoiseConfig:
    """Pictures of filtered noise that masks are cut from.

    Attributes:
        colour: of the noise; the paper's best is green.
        blurs: deviations of the narrow and the wide blur, tokens.
        slices, side: how many pictures there are, and their side in tokens. Released: 3072 of 64.
        seed: of the noise, whatever the seed of the run.
    """

    colour: Colour = "green"
    blurs: tuple[float, float] = (0.8, 2.0)
    slices: int = 3072
    side: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if self.slices < 1 or not 0 < self.blurs[0] < self.blurs[1]:
            raise ValueError(f"expected at least one slice of noise and blurs 0 < narrow < wide, got slices={self.slices}, blurs={self.blurs}")


class ColourNoise:
    """Masks for one token grid; the noise is filtered at the first use, kept on the CPU, where masks are drawn, and in no state dict.

    Raises ValueError for noise smaller than the grid (T', H', W').
    """

    def __init__(self, config: ColourNoiseConfig, grid: Sequence[int]) -> None:
        if config.side < max(grid[1:]):
            raise ValueError(f"the noise must be at least as large as the token grid {tuple(grid[1:])}, its side is {config.side}")
        self.config, self.grid = config, grid

    @cached_property
    def bank(self) -> Tensor:
        """``(slices, side, side)``, a function of the configuration."""
        config, (narrow, wide) = self.config, self.config.blurs
        generator = sub_generator(config.seed, "colour noise")
        return colour_noise_bank(config.colour, slices=config.slices, size=(config.side,) * 2, generator=generator, narrow=narrow, wide=wide)

    def mask(self, ratio: float, generators: Generators, *, device: torch.device) -> Tensor:
        """``(B, N)`` bool, True = hidden, the same places at all times; see :func:`colour_noise_mask`."""
        return colour_noise_mask(self.grid, ratio, self.bank, generators, device=device)


def colour_noise_bank(
    colour: Colour, *, slices: int, size: Sequence[int], generator: torch.Generator, narrow: float = 0.8, wide: float = 2.0
) -> Tensor:
    """``(slices, *size)`` float32: white noise W filtered by Gaussian blurs, periodic in every axis. Computed once, it costs nothing per step.

    ``red``: W blurred by ``wide`` (low frequencies). ``blue``: W minus W blurred by ``narrow`` (high ones). ``green``: W blurred by ``narrow``
    minus W blurred by ``wide`` (a band between). ``purple``: W minus green (all but the band). ``white``: W itself, uniform masks.

    Args:
        slices: how many independent pictures; ColorMAE has 3072.
        size: sides of each, two or three axes, at least the token grid's; ColorMAE has 64 x 64.
        generator: on the CPU.
        narrow, wide: standard deviations of the blurs in tokens, 0 < narrow < wide.

    Raises:
        ValueError: an unknown colour, sizes or deviations that make no sense.

    Source: Hinojosa et al., "ColorMAE: Exploring data-independent masking strategies in Masked AutoEncoders", ECCV 2024, section 3.2.
    """
    if slices < 1 or len(size) not in (2, 3) or any(side < 1 for side in size):
        raise ValueError(f"colour_noise_bank expected slices >= 1 and two or three positive sides, got {slices} and {tuple(size)}")
    if not 0 < narrow < wide:
        raise ValueError(f"colour_noise_bank expected 0 < narrow < wide, got {narrow} and {wide}")
    white = torch.randn(slices, *size, generator=generator)
    squared = torch.zeros(tuple(size))
    for axis, side in enumerate(size):
        squared = squared + torch.fft.fftfreq(side).square().reshape(-1, *[1] * (len(size) - axis - 1))
    low, high = (torch.exp(-2 * torch.pi**2 * sigma**2 * squared) for sigma in (wide, narrow))  # transforms of unit-sum Gaussians
    gains = {"white": torch.ones_like(low), "red": low, "blue": 1 - high, "green": high - low, "purple": 1 - (high - low)}
    if colour not in gains:
        raise ValueError(f"colour_noise_bank expected a colour of {sorted(gains)}, got {colour!r}")
    axes = tuple(range(1, white.ndim))
    filtered: Tensor = torch.fft.ifftn(torch.fft.fftn(white, dim=axes) * gains[colour], dim=axes).real
    return filtered


def colour_noise_mask(grid: Sequence[int], ratio: float, bank: Tensor, generators: Generators, *, device: torch.device | str = "cpu") -> Tensor:
    """``(B, N)`` bool: for each sample a random slice, cut at a random place and flipped at random; its smallest values are hidden.

    Args:
        grid: (T', H', W'). A bank of pictures gives tubes, a bank of volumes masks that change with time too.
        ratio: share to hide, in (0, 1).
        bank: ``(P, H, W)`` or ``(P, T, H, W)`` on the CPU, at least as large as the grid.
        generators: B of them.

    Returns:
        :func:`hidden_count` tokens hidden in each sample (places, for a bank of pictures).

    Raises:
        ValueError: a bank that is too small, the ratio.

    Source: Hinojosa et al., ECCV 2024, section 3.3.
    """
    axes = bank.ndim - 1
    if len(grid) != 3 or axes not in (2, 3) or any(side > have for side, have in zip(grid[-axes:], bank.shape[1:], strict=True)):
        raise ValueError(f"colour_noise_mask expected a bank at least as large as the grid {tuple(grid)}, got {tuple(bank.shape)}")
    sides = grid[-axes:]
    windows = []
    for generator in generators:
        noise = bank[int(torch.randint(len(bank), (), generator=generator))]
        corner = [int(torch.randint(have - side + 1, (), generator=generator)) for side, have in zip(sides, noise.shape, strict=True)]
        window = noise[tuple(slice(start, start + side) for start, side in zip(corner, sides, strict=True))]
        turned = (torch.rand(axes, generator=generator) < 0.5).tolist()
        windows.append(window.flip([axis for axis in range(axes) if turned[axis]]).flatten())
    values = torch.stack(windows).to(device)
    chosen = values.argsort(dim=1, stable=True)[:, : hidden_count(values.shape[1], ratio)]
    hidden = torch.zeros_like(values, dtype=torch.bool).scatter_(1, chosen, torch.ones_like(chosen, dtype=torch.bool))
    return hidden if axes == 3 else repeat(hidden, "b p -> b (t p)", t=grid[0])
