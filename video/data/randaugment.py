"""RandAugment for clips: a batch of uint8 clips on the device, a few random changes each, the same for all frames of a clip.

Cubuk et al., "RandAugment", CVPR Workshops 2020, with the changes that video recipes use ("rand-m7-n4-mstd0.5-inc1" in VideoMAE): magnitudes
vary around ``magnitude``, every drawn change happens with probability 1/2, and the strength of each of the 15 changes grows with the magnitude.

Differences to the released recipe: the changes work on the crop instead of on the whole frame before cropping (so that repeated crops and
frames of any size go through one batch), and the geometric ones interpolate bilinearly. A mean-grey border appears where they look outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suite3d.engine.order import stream_seed
from suite3d.video.data.pixel_ops import CHANGES, apply_change

MAX_LEVEL = 10.0


@dataclass(kw_only=True)
class RandAugmentConfig:
    """RandAugment.

    Attributes:
        layers: changes drawn for each clip, with replacement; 0 = off.
        magnitude: mean strength, 0 to 10. deviation: its standard deviation.
        probability: that a drawn change happens.
    """

    layers: int = 4
    magnitude: float = 7.0
    deviation: float = 0.5
    probability: float = 0.5

    def __post_init__(self) -> None:
        if self.layers < 0 or not 0 <= self.magnitude <= MAX_LEVEL or self.deviation < 0 or not 0 <= self.probability <= 1:
            raise ValueError(f"RandAugment expected layers >= 0, a magnitude in [0, 10], a deviation >= 0 and a probability, got {self}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Changes of N clips.

    Attributes:
        changes: ``(layers, N)`` int64 indices into :data:`suite3d.video.data.pixel_ops.CHANGES`, -1 = none.
        levels: ``(layers, N)`` float64 strengths in [0, 1]; signed, where a change goes both ways.
    """

    changes: NDArray[np.int64]
    levels: NDArray[np.float64]


def draw_plan(config: RandAugmentConfig, seeds: list[int]) -> Plan:
    """Changes of the clips with these seeds; a clip's part depends on its own seed only."""
    changes = np.full((config.layers, len(seeds)), -1)
    levels = np.zeros((config.layers, len(seeds)))
    for clip, seed in enumerate(seeds):
        rng = np.random.default_rng(stream_seed("randaugment", seed))
        picked = rng.integers(len(CHANGES), size=config.layers)
        happens = rng.random(config.layers) < config.probability
        level = np.clip(rng.normal(config.magnitude, config.deviation, config.layers), 0, MAX_LEVEL) / MAX_LEVEL
        sign = np.where(rng.random(config.layers) < 0.5, -1.0, 1.0)
        changes[:, clip] = np.where(happens, picked, -1)
        levels[:, clip] = level * sign
    return Plan(changes=changes, levels=levels)


def rand_augment(clips: Tensor, plan: Plan) -> Tensor:
    """``(N, 3, T, H, W)`` uint8 -> the same shape, type and device. Clips with the same change in a layer go through it together."""
    if clips.dtype != torch.uint8 or clips.ndim != 5 or clips.shape[1] != 3:
        raise ValueError(f"expected (N, 3, T, H, W) uint8 clips, got {tuple(clips.shape)} {clips.dtype}")
    out = clips.clone()
    for changes, levels in zip(plan.changes, plan.levels, strict=True):
        for change in np.unique(changes[changes >= 0]):
            rows = np.flatnonzero(changes == change)
            index = torch.from_numpy(rows).to(clips.device)
            strength = torch.from_numpy(levels[rows]).to(clips.device, torch.float32)
            out[index] = apply_change(CHANGES[change], out[index], strength)
    return out


@dataclass(kw_only=True)
class EraseConfig:
    """Random erasing (Zhong et al., AAAI 2020): a box of noise over the clip, the same box in all frames.

    Attributes:
        probability: of a box. area: range of its share of the picture. ratio: range of its height over width, log-uniform.
    """

    probability: float = 0.25
    area: tuple[float, float] = (0.02, 1 / 3)
    ratio: tuple[float, float] = (0.3, 1 / 0.3)


def erase(clips: Tensor, config: EraseConfig, seeds: list[int]) -> Tensor:
    """``(N, C, T, H, W)`` normalised clips with, in a share of them, a box of standard normal noise; new tensor where anything changed."""
    boxes = [_draw_erased(config, clips.shape[-2:], seed) for seed in seeds]
    if not any(boxes):
        return clips
    clips = clips.clone()
    for clip, (box, seed) in enumerate(zip(boxes, seeds, strict=True)):
        if box is not None:
            top, left, tall, wide = box
            generator = torch.Generator(device=clips.device).manual_seed(stream_seed("erase noise", seed))
            shape = (*clips.shape[1:3], tall, wide)
            clips[clip, :, :, top : top + tall, left : left + wide] = torch.randn(shape, generator=generator, device=clips.device, dtype=clips.dtype)
    return clips


def _draw_erased(config: EraseConfig, size: torch.Size, seed: int) -> tuple[int, int, int, int] | None:
    """(top, left, height, width), or None: not this time, or ten tries did not fit."""
    rng = np.random.default_rng(stream_seed("erase", seed))
    if rng.random() >= config.probability:
        return None
    height, width = size
    for _ in range(10):
        area = rng.uniform(*config.area) * height * width
        ratio = np.exp(rng.uniform(*np.log(config.ratio)))
        tall, wide = round(float(np.sqrt(area * ratio))), round(float(np.sqrt(area / ratio)))
        if 0 < tall < height and 0 < wide < width:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    return None
