"""CVRL: two clips of a video, close in time, find one another among all other clips.

Qian et al., "Spatiotemporal Contrastive Video Representation Learning", CVPR 2021 (figure 2, equation 1).

    L = mean over the 2B clips i of -log( exp(z_i.z_i' / t) / sum_{k != i} exp(z_i.z_k / t) ),    z = head(mean(encoder(clip))) of unit length

The time between the two clips is drawn from a linearly decreasing density, so that most pairs are near
(:class:`suite3d.video.data.pairs.IntervalClipSource`). All augmentation is the same for all frames of a clip: crop, mirror, colour and grey on
the loader's side, blur (first clip always, second one time in ten) and solarisation (second clip, one in five) here. Negatives are the clips of
all ranks; batch norms share their statistics over the ranks (the recipe converts them).

Differences to the released code: the steps of the colour change have one order (see :func:`suite3d.image.views.draw_color`); the blur is
renormalised at the border instead of darkening it; the loss is the mean over both clips, which is half of its sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from suite3d.image.appearance import AppearanceConfig, change_appearance
from suite3d.losses.nt_xent import nt_xent
from suite3d.nn.heads import projector
from suite3d.output import Output
from suite3d.video.backbones.resnet3d import VideoResNet
from suite3d.video.data.batch import ClipBatch


@dataclass(kw_only=True)
class CVRLConfig:
    """CVRL.

    Attributes:
        temperature: t.
        hidden, dim: channels of the two hidden layers and of the output of the projection head.
        first, second: blur and solarisation of the two clips.
    """

    temperature: float = 0.1
    hidden: int = 2048
    dim: int = 128
    first: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=1.0))
    second: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.1, solarise=0.2))


class CVRL(nn.Module):
    """CVRL around a video encoder.

    Args:
        encoder: ``(B, 3, T, H, W)`` -> ``(B, N, embed_dim)``.
        config: see :class:`CVRLConfig`.
    """

    def __init__(self, encoder: VideoResNet, config: CVRLConfig | None = None) -> None:
        super().__init__()
        self.config = config or CVRLConfig()
        self.encoder = encoder
        self.projector = projector([encoder.embed_dim, self.config.hidden, self.config.hidden, self.config.dim])

    def forward(self, batch: ClipBatch) -> Output:
        features = self.encoder(self.views(batch)).mean(dim=1)  # [2B, D]
        first, second = self.projector(features).chunk(2)  # [B, dim] each
        loss = nt_xent(first, second, temperature=self.config.temperature)
        with torch.no_grad():
            closeness = nn.functional.cosine_similarity(first.float(), second.float()).mean()
        metrics: dict[str, Tensor | float] = {"short_clips": batch.short.float().mean(), "positive_similarity": closeness}
        return Output(loss=loss, metrics=metrics, features=features.detach())

    @torch.compiler.disable
    def views(self, batch: ClipBatch) -> Tensor:
        """``(2B, 3, T, S, S)``: the first clips of all samples, then the second ones."""
        if batch.windows != 2:
            raise ValueError(f"CVRL compares two clips of each video, the batch has {batch.windows}: use a source with windows=2")
        if batch.repeats != 1:
            raise ValueError(
                f"CVRL takes every other clip for a negative, so two crops of one clip must not meet: expected data.repeats=1, got {batch.repeats}"
            )
        views = []
        for view, config in enumerate((self.config.first, self.config.second)):
            seeds = batch.view_seeds(view)
            views.append(change_appearance(batch.pixels(view), config, seeds, mean=batch.mean, std=batch.std))
        return torch.cat(views)
