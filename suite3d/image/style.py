"""Batch style standardisation: all pictures of a batch take one low-frequency amplitude spectrum and keep their own phase.

The amplitude of the low frequencies carries colour cast, illumination and contrast, the phase where things are. Where every picture of a batch
has the same style, a comparison between them cannot be won by style.

    F(x') = ((1 - lambda m) |F(x)| + lambda m A) exp(i phase(F(x))),   m = 1 on the low frequencies, else 0

A is the amplitude of one picture of the batch, drawn anew for each view (Scalbert et al., "Towards domain-invariant Self-Supervised Learning
with Batch Styles Standardization", ICLR 2024), or the mean amplitude of the batch. Swapped low frequencies: Yang & Soatto, "FDA", CVPR 2020;
the mixture lambda: Xu et al., "A Fourier-based Framework for Domain Generalization", CVPR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from suite3d.engine.order import stream_seed

Towards = Literal["picture", "mean"]


@dataclass(kw_only=True)
class StyleConfig:
    """Batch style standardisation of a view; off by default.

    Attributes:
        probability: that a batch is standardised.
        towards: whose amplitude A is: that of one ``picture`` of the batch (as published), or the ``mean`` over the batch.
        share: range of the area of the low-frequency square, share of the whole spectrum; drawn for each batch. Our choice: the publications
            tune it to the data (FDA's squares have 0.0004 to 0.03 of the area, amplitude mixing takes all of it).
        strength: range of lambda; 1 = A replaces the amplitude (FDA and batch style standardisation).
    """

    probability: float = 0.0
    towards: Towards = "picture"
    share: tuple[float, float] = (0.02, 0.2)
    strength: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        ranges = {"share": self.share, "strength": self.strength}
        for name, (low, high) in ranges.items():
            if not 0 <= low <= high <= 1:
                raise ValueError(f"style.{name} expected an increasing range within [0, 1], got ({low}, {high})")
        if not 0 <= self.probability <= 1:
            raise ValueError(f"style.probability expected a number in [0, 1], got {self.probability}")


@dataclass(frozen=True, kw_only=True)
class StyleDraw:
    """The style of a batch's view, as numbers.

    Attributes:
        towards: see :class:`StyleConfig`.
        reference: row of the batch whose amplitude is taken, with ``towards="picture"``.
        share: of the spectrum that is replaced. strength: lambda.
    """

    towards: Towards
    reference: int
    share: float
    strength: float


def draw_style(config: StyleConfig, seeds: Sequence[int], view: int) -> StyleDraw | None:
    """What to do with one view of a batch, None = nothing: a function of the samples' seeds and the view's number.

    It depends on which samples share a batch, so on another number of ranks it is another draw.
    """
    if config.probability <= 0:
        return None
    rng = np.random.default_rng(stream_seed("style", view, *seeds))
    apply, share, strength = rng.random(), rng.uniform(*config.share), rng.uniform(*config.strength)
    reference = int(rng.integers(len(seeds)))
    return StyleDraw(towards=config.towards, reference=reference, share=share, strength=strength) if apply < config.probability else None


def standardise_style(pixels: Tensor, draw: StyleDraw) -> Tensor:
    """Give all pictures of a batch the style of the draw, each channel for itself.

    Args:
        pixels: ``(B, C, H, W)``, any unit in which amplitudes may be mixed. A batch of one has nothing to agree with and comes back as it is.
        draw: the style.

    Returns:
        ``(B, C, H, W)`` float32, not cut to any range.

    Raises:
        ValueError: another shape, or a reference that is not in the batch.
    """
    if pixels.ndim != 4 or not 0 <= draw.reference < len(pixels):
        raise ValueError(f"expected pixels (B, C, H, W) with row {draw.reference} among them, got {tuple(pixels.shape)}")
    if len(pixels) == 1:
        return pixels
    height, width = pixels.shape[2:]
    spectrum = torch.fft.rfft2(pixels.float())  # [B, C, H, W // 2 + 1]
    amplitude = spectrum.abs()
    wanted = amplitude.mean(dim=0) if draw.towards == "mean" else amplitude[draw.reference]
    weight = draw.strength * low_frequencies(height, width, draw.share, device=pixels.device)
    return torch.fft.irfft2(torch.polar(amplitude + weight * (wanted - amplitude), spectrum.angle()), s=(height, width))


def low_frequencies(height: int, width: int, share: float, *, device: torch.device | str = "cpu") -> Tensor:
    """``(H, W // 2 + 1)`` bool in the order of ``rfft2``: the frequencies within a rectangle around 0 of ``share`` of the spectrum's area.

    Its half sides are whole numbers of cycles, so the mean (frequency 0) always belongs to it.
    """
    rows, columns = math.floor(math.sqrt(share) * height / 2), math.floor(math.sqrt(share) * width / 2)
    down = torch.fft.fftfreq(height, 1 / height, device=device).abs() <= rows
    right = torch.fft.rfftfreq(width, 1 / width, device=device) <= columns
    return down[:, None] & right
