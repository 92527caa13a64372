"""Pictures with groups of connected patches overwritten: what GMML, SiT and MMC repair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from suite3d.image.data.batch import ImageBatch
from suite3d.masking import drawn_ratio, grouped_mask, sub_generator
from suite3d.methods.looking import view_frames
from suite3d.nn.vit import VisionTransformer


@dataclass(kw_only=True)
class CorruptionConfig:
    """How a picture is corrupted.

    Attributes:
        fill: what the groups are overwritten with, one drawn for each picture: noise, zeros, or what another picture of the batch has there.
        ratio: range of the share of patches overwritten with noise or zeros.
        image_ratio: the same for another picture.
        largest: longest side of a group over that of the picture.
    """

    fill: tuple[Literal["noise", "zero", "image"], ...] = ("noise", "image")
    ratio: tuple[float, float] = (0.5, 0.7)
    image_ratio: tuple[float, float] = (0.35, 0.35)
    largest: float = 0.3

    def __post_init__(self) -> None:
        if not self.fill or set(self.fill) - {"noise", "zero", "image"}:
            raise ValueError(f"fill expected some of noise, zero and image, got {list(self.fill)}")
        if not 0 < self.largest <= 1:
            raise ValueError(f"largest expected a share of the picture's side in (0, 1], got {self.largest}")
        for low, high in (self.ratio, self.image_ratio):
            drawn_ratio(low, high, torch.Generator())


@torch.no_grad()
def corrupt(pixels: Tensor, seeds: list[int], encoder: VisionTransformer, config: CorruptionConfig) -> tuple[Tensor, Tensor]:
    """Pictures with groups of patches overwritten, and which: like ``pixels (B, 3, S, S)``, ``(B, N)`` bool, True = overwritten.

    Raises ValueError for a batch of one where another picture is needed.
    """
    if len(seeds) < 2 and "image" in config.fill:
        raise ValueError("another picture's patches need a batch of at least two, got one: use larger batches or leave 'image' out of fill")
    masks, fillings = [], []
    for sample, seed in enumerate(seeds):
        generator = sub_generator(seed, "corruption")
        fill = config.fill[int(torch.randint(len(config.fill), (), generator=generator))]
        ratio = drawn_ratio(*(config.image_ratio if fill == "image" else config.ratio), generator)
        masks.append(grouped_mask(encoder.grid[1:], ratio, [generator], largest=config.largest)[0])
        if fill == "image":
            fillings.append(pixels[(sample + int(torch.randint(1, len(seeds), (), generator=generator))) % len(seeds)])
        elif fill == "noise":
            fillings.append(torch.randn(pixels.shape[1:], generator=generator).to(pixels))
        else:
            fillings.append(torch.zeros_like(pixels[sample]))
    mask = torch.stack(masks).to(pixels.device)
    _, height, width = encoder.grid
    _, p, q = encoder.patch
    inside = rearrange(mask, "b (h w) -> b 1 h w", h=height, w=width).repeat_interleave(p, 2).repeat_interleave(q, 3)  # [B, 1, S, S]
    return torch.where(inside, torch.stack(fillings), pixels), mask


def repair_pictures(pixels: Tensor, corrupted: Tensor, predicted: Tensor, encoder: VisionTransformer, batch: ImageBatch) -> dict[str, Any]:
    """Original, corrupted and repaired first picture, one below the other; ``predicted (N, 3 * p * q)``."""
    from suite3d.report.clip import draw_strip

    _, p, q = encoder.patch
    repaired = rearrange(predicted.float(), "(h w) (c p q) -> c (h p) (w q)", h=encoder.grid[1], p=p, q=q)
    rows = [view_frames(picture[:, None], batch) for picture in (pixels, corrupted, repaired)]
    return {"reconstruction": draw_strip(rows, ("original", "corrupted", "repaired"), title=batch.names[0])}
