"""ColorMAE: MAE whose masks are cut out of filtered noise, so that hidden patches clump or spread in one band of frequencies.

Hinojosa et al., "ColorMAE: Exploring data-independent masking strategies in Masked AutoEncoders", ECCV 2024 (figures 2 and 3).

    mask = the smallest values of a window of  G_narrow * W - G_wide * W    (green; W white noise, G Gaussian blurs)
    L = as MAE's, over the hidden patches

All but the mask is MAE (:mod:`suite3d.methods.mae`). The noise is filtered once, before training; a mask is a window at a random place of a
random slice, mirrored at random, so it costs nothing. ``green`` is the paper's best; ``red``, ``blue`` and ``purple`` are its ablation.

Open in the paper, chosen here: the deviations of the two blurs (0.8 and 2 patches), and blurs that wrap around the border of a slice.
Difference to the released code: a slice is drawn for each picture on its own; there picture i of a batch takes slice i, and all of a batch share
one place and mirror image.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from suite3d.masking import colour_noise_bank, colour_noise_mask, generators_of, hidden_count, sub_generator
from suite3d.methods.mae import MAE, MAEConfig
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class ColorMAEConfig:
    """ColorMAE.

    Attributes:
        mask_ratio: share of the patches hidden. The paper: 0.75.
        colour: of the noise.
        blurs: deviations of the narrow and the wide blur, patches.
        slices, side: how many pictures of noise there are, and their side in patches. Released: 3072 of 64.
        noise_seed: of the noise.
    """

    mask_ratio: float = 0.75
    colour: Literal["red", "blue", "green", "purple"] = "green"
    blurs: tuple[float, float] = (0.8, 2.0)
    slices: int = 3072
    side: int = 64
    noise_seed: int = 0

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)
        if self.slices < 1 or not 0 < self.blurs[0] < self.blurs[1]:
            raise ValueError(f"expected at least one slice of noise and blurs 0 < narrow < wide, got slices={self.slices}, blurs={self.blurs}")


class ColorMAE(MAE):
    """ColorMAE around a vision transformer.

    Args: as :class:`suite3d.methods.mae.MAE`.

    Raises:
        ValueError: as there; or slices of noise smaller than the token grid.
    """

    def __init__(self, encoder: VisionTransformer, decoder: SelfDecoder | CrossDecoder, config: ColorMAEConfig | None = None) -> None:
        noise = config or ColorMAEConfig()
        super().__init__(encoder, decoder, MAEConfig(mask_ratio=noise.mask_ratio))
        self.noise = noise
        if self.noise.side < max(encoder.grid):
            raise ValueError(f"the noise must be at least as large as the token grid {encoder.grid[1:]}, its side is {self.noise.side}")

    @cached_property
    def bank(self) -> Tensor:
        """``(slices, side, side)`` filtered noise, a function of the configuration; on the CPU, where masks are drawn, and in no state dict."""
        generator, size = sub_generator(self.noise.noise_seed, "colour noise"), (self.noise.side, self.noise.side)
        narrow, wide = self.noise.blurs
        return colour_noise_bank(self.noise.colour, slices=self.noise.slices, size=size, generator=generator, narrow=narrow, wide=wide)

    def mask(self, seeds: list[int], device: torch.device) -> Tensor:
        return colour_noise_mask(self.encoder.grid, self.config.mask_ratio, self.bank, generators_of(seeds, "mask"), device=device)
