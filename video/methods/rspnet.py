"""RSPNet: which of two clips plays at the speed of a third, and do they show the same video?

Chen et al., "RSPNet: Relative Speed Perception for Unsupervised Video Representation Learning", AAAI 2021 (figure 2).

    q: a clip at speed s.  k+: another clip of the same video at s.  k-: the same frames as k+ at the other speed.
    L_M = mean max(0, margin - (q_M.k+_M - q_M.k-_M) / t)                            speed: k+ must be nearer than k-
    L_A = InfoNCE(q_A, k+_A, queue; t) + InfoNCE(q_A, k-_A, queue; t)                appearance: both are the same video
    L = a L_A + m L_M

q comes from the encoder, k+ and k- from its moving average, each through two linear heads A and M on the pooled features (MoCo; He et al., 2020).
The queue holds k+_A of the latest batches of all ranks. Keys are computed on shuffled ranks, because of batch norm.

The loader gives two windows of 2T frames of a video; a clip at speed 1 is the first T of them, at speed 2 every second.

Differences to the released code: each sample draws its speed by itself (there, half of every batch), so that a sample does not depend on its
batch; the keys enter the queue after the optimiser's step, and the average moves then (there: before the next forward, which is the same);
the released script passes a margin of 2, the paper's loss and the code's default are 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suite3d.losses.margin_ranking import margin_ranking_loss
from suite3d.losses.queue_info_nce import queue_info_nce
from suite3d.masking import generators_of
from suite3d.nn.momentum import momentum_copy, momentum_update, run_shuffled
from suite3d.nn.queue import FeatureQueue
from suite3d.output import Output
from suite3d.video.backbones.resnet3d import VideoResNet
from suite3d.video.data.batch import ClipBatch


@dataclass(kw_only=True)
class RSPNetConfig:
    """RSPNet.

    Attributes:
        dim: channels of both heads' outputs.
        queue: negatives kept.
        momentum: of the key encoder.
        temperature: t.
        margin: of the ranking.
        speed: the faster of the two speeds, in frames; the slower is 1.
        appearance, motion: the weights a and m.
    """

    dim: int = 128
    queue: int = 16384
    momentum: float = 0.999
    temperature: float = 0.07
    margin: float = 1.0
    speed: int = 2
    appearance: float = 1.0
    motion: float = 1.0

    def __post_init__(self) -> None:
        if self.speed < 2:
            raise ValueError(f"speed expected at least 2, the slower one being 1, got {self.speed}")


class TwoHeads(nn.Module):
    """Video encoder, mean over its tokens, and the two heads: ``(B, 3, T, H, W)`` -> features ``(B, D)``, A and M ``(B, dim)`` of unit length."""

    def __init__(self, encoder: VideoResNet, dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.appearance = nn.Linear(encoder.embed_dim, dim)
        self.motion = nn.Linear(encoder.embed_dim, dim)

    def forward(self, clips: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.encoder(clips).mean(dim=1)  # [B, D]
        return features, F.normalize(self.appearance(features).float(), dim=1), F.normalize(self.motion(features).float(), dim=1)


class RSPNet(nn.Module):
    """RSPNet around a video encoder.

    Args:
        encoder: ``(B, 3, T, H, W)`` -> ``(B, N, embed_dim)``.
        config: see :class:`RSPNetConfig`.
        generator: source of the queue's initial rows.
    """

    def __init__(self, encoder: VideoResNet, config: RSPNetConfig | None = None, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.config = config or RSPNetConfig()
        self.query = TwoHeads(encoder, self.config.dim)
        self.key = momentum_copy(self.query)
        self.queue = FeatureQueue(self.config.queue, self.config.dim, generator=generator)
        self._fresh: list[Tensor] = []

    @property
    def encoder(self) -> VideoResNet:
        """What survives pretraining."""
        return self.query.encoder

    def forward(self, batch: ClipBatch) -> Output:
        query, positive, negative = self.clips(batch)
        with torch.no_grad():
            _, positive_a, positive_m = run_shuffled(self.key, positive)
            _, negative_a, negative_m = run_shuffled(self.key, negative)
        features, query_a, query_m = self.query(query)
        config = self.config
        near, far = ((query_m * key).sum(dim=1) / config.temperature for key in (positive_m, negative_m))  # [B]
        motion = margin_ranking_loss(near, far, margin=config.margin)
        # The queue changes in after_step, before which nothing may need its rows any more; accumulation needs them until then.
        negatives = self.queue.rows.clone()
        appearance = torch.stack([queue_info_nce(query_a, key, negatives, temperature=config.temperature) for key in (positive_a, negative_a)]).sum()
        if self.training and torch.is_grad_enabled():
            self._fresh.append(positive_a.detach())
        metrics: dict[str, Tensor | float] = {
            "short_clips": batch.short.float().mean(),
            "appearance": appearance.detach(),
            "motion": motion.detach(),
            "speed_accuracy": (near > far).float().mean(),
        }
        return Output(loss=config.appearance * appearance + config.motion * motion, metrics=metrics, features=features.detach())

    @torch.compiler.disable
    def clips(self, batch: ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Query, positive and negative clips, each ``(B, 3, T, S, S)``."""
        speed = self.config.speed
        if batch.windows != 2 or batch.clip[0] % speed:
            raise ValueError(f"RSPNet needs two windows of a multiple of {speed} frames of each video, got {batch.windows} of {batch.clip[0]}")
        fast = torch.stack([torch.rand((), generator=generator) < 0.5 for generator in generators_of(batch.view_seeds(), "speed")])
        fast = fast.to(batch.device)[:, None, None, None, None]
        first, second = batch.pixels(0), batch.pixels(1)
        length = first.shape[2] // speed
        (slow_query, fast_query), (slow_key, fast_key) = ((x[:, :, :length], x[:, :, ::speed]) for x in (first, second))
        query = torch.where(fast, fast_query, slow_query)
        return query, torch.where(fast, fast_key, slow_key), torch.where(fast, slow_key, fast_key)

    def after_step(self, step: int, total: int) -> None:
        """Move the average, and the new keys into the queue."""
        momentum_update(self.key, self.query, self.config.momentum)
        for keys in self._fresh:
            self.queue.push(keys)
        self._fresh.clear()
