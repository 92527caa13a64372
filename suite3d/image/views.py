"""Crops and colour changes of a picture or clip, drawn as numbers on the loader's side and applied to whole batches on the device."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from suite3d.image.style import StyleConfig

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LUMA = np.array([0.299, 0.587, 0.114])
Crop = Literal["multi_scale", "random_resized", "center", "three", "whole"]


@dataclass(kw_only=True)
class ViewConfig:
    """What happens to a picture between decoding and the model; the same for all frames of a clip.

    Attributes:
        size: side of the square that comes out, pixels.
        crop: ``multi_scale`` (VideoMAE's: height and width from ``scales``, 13 fixed places), ``random_resized`` (area and aspect from
            ``area`` and ``ratio``, any place), ``center`` (largest square in the middle), ``three`` (largest squares at both ends and the
            middle of the long side, one for each repeat), ``whole`` (the whole frame, squeezed).
        scales: shares of the short side for ``multi_scale``; height and width take neighbouring entries or the same.
        area, ratio: ranges of ``random_resized``: share of the frame's area, and width over height.
        flip: probability of a mirror image. It exchanges left and right, so it is off where direction matters.
        jitter: probability of a colour change by the next four.
        brightness, contrast, saturation: factors are drawn from [1 - v, 1 + v], not below 0.
        hue: rotation of the chroma plane by up to this many turns either way.
        gray: probability of dropping all colour.
        style: batch style standardisation, before the colour change; of pictures only.
        mean, std: per channel, of pixels in [0, 1]; the defaults are ImageNet's.
    """

    size: int = 224
    crop: Crop = "multi_scale"
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    area: tuple[float, float] = (0.5, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    flip: float = 0.0
    jitter: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    gray: float = 0.0
    style: StyleConfig = field(default_factory=StyleConfig)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.size < 1 or not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(f"expected a positive crop size and scales in (0, 1], got size={self.size}, scales={self.scales}")
        if not 0 < self.area[0] <= self.area[1] <= 1 or not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"expected increasing ranges with area in (0, 1], got area={self.area}, ratio={self.ratio}")


def draw_box(config: ViewConfig, height: int, width: int, rng: np.random.Generator, *, place: int = 0) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a crop inside a frame, pixels.

    Args:
        place: which of the three with ``crop="three"``: 0, 1, 2 = first end, middle, last end.
    """
    short = min(height, width)
    if config.crop == "multi_scale":
        return _multi_scale(config.scales, height, width, rng)
    if config.crop == "random_resized":
        return _random_resized(config, height, width, rng)
    if config.crop == "whole":
        return 0, 0, height, width
    part = place % 3 if config.crop == "three" else 1
    return (height - short) * part // 2, (width - short) * part // 2, short, short


def _multi_scale(scales: tuple[float, ...], height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """VideoMAE's multi-scale crop (from TSN, Wang et al., ECCV 2016): sides at most one step of ``scales`` apart; corners, middle, quarters."""
    sides = [max(int(min(height, width) * scale), 1) for scale in scales]
    pairs = [(sides[i], sides[j]) for i in range(len(sides)) for j in range(len(sides)) if abs(i - j) <= 1]
    tall, wide = pairs[rng.integers(len(pairs))]
    down, right = (height - tall) // 4, (width - wide) // 4
    places = [(2, 2)] + [(y, x) for y in (0, 4) for x in (0, 4)] + [(0, 2), (4, 2), (2, 0), (2, 4)] + [(y, x) for y in (1, 3) for x in (1, 3)]
    y, x = places[rng.integers(len(places))]
    return y * down, x * right, tall, wide


def _random_resized(config: ViewConfig, height: int, width: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Area uniform, aspect log-uniform, ten tries, else the largest middle crop with an allowed aspect (Szegedy et al., CVPR 2015)."""
    low, high = math.log(config.ratio[0]), math.log(config.ratio[1])
    for _ in range(10):
        area = rng.uniform(*config.area) * height * width
        ratio = math.exp(rng.uniform(low, high))
        tall, wide = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    tall, wide = min(height, round(width / config.ratio[0])), min(width, round(height * config.ratio[1]))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def draw_color(config: ViewConfig, gray_mean: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """``(3, 4)`` affine map of RGB in [0, 1]: ``out = M[:, :3] @ rgb + M[:, 3]``; the results are cut to [0, 1].

    Brightness scales, contrast moves away from the clip's mean grey, saturation away from each pixel's grey, hue turns the plane of
    constant grey; in this order (the order of torchvision's ColorJitter is random; one linear map has one order). Always drawing the
    same numbers keeps later draws independent of the outcome.

    Args:
        gray_mean: mean grey of the clip in [0, 1], which contrast leaves as it is.
    """
    matrix = np.eye(3, 4)
    apply, drop = rng.random(2)
    b, c, s = (max(0.0, 1 + v * rng.uniform(-1, 1)) for v in (config.brightness, config.contrast, config.saturation))
    turn = 2 * np.pi * config.hue * rng.uniform(-1, 1)
    gray = np.ones((3, 1)) * LUMA[None]
    if apply < config.jitter:
        matrix = b * matrix
        matrix = c * matrix
        matrix[:, 3] += (1 - c) * b * gray_mean
        matrix = (s * np.eye(3) + (1 - s) * gray) @ matrix
        matrix = _hue_rotation(turn) @ matrix
    if drop < config.gray:
        matrix = gray @ matrix
    return matrix.astype(np.float32)


def _hue_rotation(angle: float) -> NDArray[np.float64]:
    """Rotation of the I and Q of YIQ, leaving Y."""
    to_yiq = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin = np.cos(angle), np.sin(angle)
    return np.linalg.inv(to_yiq) @ np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]) @ to_yiq
