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

from dataclasses import dataclass, field

import torch
from torch import Tensor

from suite3d.masking import ColourNoise, ColourNoiseConfig, generators_of, hidden_count
from suite3d.methods.mae import MAE, MAEConfig
from suite3d.nn.decoder import CrossDecoder, SelfDecoder
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class ColorMAEConfig:
    """ColorMAE.

    Attributes:
        mask_ratio: share of the patches hidden. The paper: 0.75.
        noise: that masks are cut from.
    """

    mask_ratio: float = 0.75
    noise: ColourNoiseConfig = field(default_factory=ColourNoiseConfig)

    def __post_init__(self) -> None:
        hidden_count(2, self.mask_ratio)


class ColorMAE(MAE):
    """ColorMAE around a vision transformer.

    Args: as :class:`suite3d.methods.mae.MAE`.

    Raises:
        ValueError: as there; or slices of noise smaller than the token grid.
    """

    def __init__(self, encoder: VisionTransformer, decoder: SelfDecoder | CrossDecoder, config: ColorMAEConfig | None = None) -> None:
        config = config or ColorMAEConfig()
        super().__init__(encoder, decoder, MAEConfig(mask_ratio=config.mask_ratio))
        self.noise = ColourNoise(config.noise, encoder.grid)

    def mask(self, seeds: list[int], device: torch.device) -> Tensor:
        return self.noise.mask(self.config.mask_ratio, generators_of(seeds, "mask"), device=device)
