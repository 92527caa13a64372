"""Mixed clips and soft labels: mixup, CutMix and label smoothing on a batch that lies on the device.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018; Yun et al., "CutMix", ICCV 2019; Szegedy et al., CVPR 2016 (section 7).
One draw a batch, as in the recipes of DeiT and VideoMAE: every clip is mixed with its mirror in the batch's order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from suite3d.engine.order import stream_seed


@dataclass(kw_only=True)
class MixConfig:
    """Mixing.

    Attributes:
        mixup: alpha of the Beta distribution mixup's share is drawn from; 0 = no mixup.
        cutmix: alpha of CutMix; 0 = no CutMix.
        probability: of mixing a batch at all.
        switch: probability of CutMix where both are on.
        smoothing: mass of a label that is spread evenly over all classes.
    """

    mixup: float = 0.8
    cutmix: float = 1.0
    probability: float = 1.0
    switch: float = 0.5
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        if min(self.mixup, self.cutmix) < 0:
            raise ValueError(f"expected mixup and cutmix of at least 0, got {self.mixup} and {self.cutmix}")
        if not (0 <= self.probability <= 1 and 0 <= self.switch <= 1 and 0 <= self.smoothing < 1):
            raise ValueError(f"expected probabilities in [0, 1] and smoothing in [0, 1), got {self}")


@dataclass(frozen=True, kw_only=True)
class Mix:
    """What happens to one batch.

    Attributes:
        share: of each clip's own label (lambda); 1 = nothing is mixed.
        box: (top, bottom, left, right) in pixels that the partner fills; None = the pixels are blended.
    """

    share: float
    box: tuple[int, int, int, int] | None = None


def draw_mix(config: MixConfig, seeds: list[int], size: tuple[int, int]) -> Mix:
    """The mix of the batch whose samples have these seeds, for pictures of ``size`` (height, width).

    CutMix's box has the area ``1 - lambda`` around a uniform point and is cut at the border; lambda is then what the box left over.
    """
    rng = np.random.default_rng(stream_seed("mix", *seeds))
    chosen, which, share_mixup, share_cutmix = rng.random(), rng.random(), *_shares(config, rng)
    row, column = (int(rng.integers(side)) for side in size)
    if chosen >= config.probability or max(config.mixup, config.cutmix) == 0:
        return Mix(share=1.0)
    if config.mixup > 0 and (config.cutmix == 0 or which >= config.switch):
        return Mix(share=share_mixup)
    tall, wide = (int(side * np.sqrt(1 - share_cutmix)) for side in size)
    top, bottom = max(row - tall // 2, 0), min(row + tall // 2, size[0])
    left, right = max(column - wide // 2, 0), min(column + wide // 2, size[1])
    return Mix(share=1 - (bottom - top) * (right - left) / (size[0] * size[1]), box=(top, bottom, left, right))


def _shares(config: MixConfig, rng: np.random.Generator) -> tuple[float, float]:
    return float(rng.beta(config.mixup or 1, config.mixup or 1)), float(rng.beta(config.cutmix or 1, config.cutmix or 1))


def mix_clips(pixels: Tensor, mix: Mix) -> Tensor:
    """``(B, C, T, H, W)`` clips -> the same with each mixed with the clip at its mirror place in the batch; the box is the same in all frames."""
    if mix.share == 1.0:
        return pixels
    partner = pixels.flip(0)
    if mix.box is None:
        return torch.lerp(partner, pixels, mix.share)
    top, bottom, left, right = mix.box
    mixed = pixels.clone()
    mixed[..., top:bottom, left:right] = partner[..., top:bottom, left:right]
    return mixed


def soft_labels(labels: Tensor, *, classes: int, smoothing: float = 0.0, mix: Mix | None = None) -> Tensor:
    """``(B,)`` int64 classes -> ``(B, classes)`` float32 rows that sum to 1: smoothed, then mixed as the clips were."""
    rows = F.one_hot(labels, classes).float() * (1 - smoothing) + smoothing / classes
    return rows if mix is None or mix.share == 1.0 else torch.lerp(rows.flip(0), rows, mix.share)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of ``- sum_k targets_k log softmax(logits)_k``, in float32; both ``(B, K)``."""
    return -(targets * F.log_softmax(logits.float(), dim=1)).sum(1).mean()
