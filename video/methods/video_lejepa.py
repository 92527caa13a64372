"""LeJEPA on video: two clips of a video predict their mean, and the embeddings of each are pressed into an isotropic Gaussian.

Balestriero & LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics", 2025 (algorithms 1 and 2), whose loss is
the image recipe's to the line; the views are CVRL's (Qian et al., CVPR 2021, section 3.2): clips that are near in time more often than far, each
cropped and recoloured alike in all its frames.

    z_v = head(mean of the tokens of f(view v));    P = mean over views and videos of |mean_w z_w - z_v|^2 / dim
    R = mean over views of the Epps-Pulley statistic of z_v along random directions (SIGReg);    L = (1 - weight) * P + weight * R

Chosen, since the paper has pictures only: every view is a large one, and all are predicted from the mean of all; with ``data.repeats`` above 1
the crops of a clip are views too. The encoder is a vision transformer over tubes, the head a perceptron of three layers with batch norm.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from suite3d.image.appearance import AppearanceConfig, change_appearance
from suite3d.losses.sigreg import lejepa
from suite3d.masking import sub_generator
from suite3d.nn.heads import projector
from suite3d.nn.pooling import pooled_features
from suite3d.output import Output
from suite3d.video.data.batch import ClipBatch


@dataclass(kw_only=True)
class VideoLeJEPAConfig:
    """LeJEPA on video.

    Attributes:
        weight: of the Gaussian regularisation, in [0, 1]. The paper: 0.05.
        slices: random directions in a step. The paper: 1024.
        hidden, dim: channels of the two hidden layers and of the output of the projection head.
        first, second: blur and solarisation of the two clips.
    """

    weight: float = 0.05
    slices: int = 1024
    hidden: int = 2048
    dim: int = 64
    first: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=1.0))
    second: AppearanceConfig = field(default_factory=lambda: AppearanceConfig(blur=0.1, solarise=0.2))

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1 or min(self.slices, self.hidden, self.dim) < 1:
            raise ValueError(f"expected a weight in [0, 1] and positive slices and widths, got {self}")


class VideoLeJEPA(nn.Module):
    """LeJEPA around any video encoder.

    Args:
        encoder: ``(B, 3, T, H, W)`` -> ``(B, N, embed_dim)``.
        config: see :class:`VideoLeJEPAConfig`.
    """

    step: Tensor

    def __init__(self, encoder: nn.Module, config: VideoLeJEPAConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or VideoLeJEPAConfig()
        self.encoder = encoder
        self.projector = projector([int(encoder.embed_dim), config.hidden, config.hidden, config.dim])  # type: ignore[arg-type]
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, batch: ClipBatch) -> Output:
        config = self.config
        clips = self.views(batch)  # [V B, 3, T, S, S]
        features = pooled_features(self.encoder, clips)  # [V B, D]
        embedded = self.projector(features).unflatten(0, (-1, len(batch)))  # [V, B, dim]
        generator = sub_generator(int(self.step), "directions")  # of the step alone, so that all ranks draw the same
        loss, prediction, gaussian = lejepa(embedded, generator=generator, global_views=len(embedded), weight=config.weight, slices=config.slices)
        metrics: dict[str, Tensor | float] = {
            "prediction": prediction.detach(),
            "gaussian": gaussian.detach(),
            "short_clips": batch.short.float().mean(),
        }
        return Output(loss=loss, metrics=metrics, features=features.detach())

    @torch.compiler.disable
    def views(self, batch: ClipBatch) -> Tensor:
        """``(V * B, 3, T, S, S)``, view after view: the crops of all first clips, then those of the second ones."""
        if batch.windows != 2:
            raise ValueError(f"LeJEPA compares two clips of each video, the batch has {batch.windows}: use a source with windows=2")
        parts = []
        for view, appearance in enumerate((self.config.first, self.config.second)):
            pixels = change_appearance(batch.pixels(view), appearance, batch.view_seeds(view), mean=batch.mean, std=batch.std)
            parts.append(rearrange(pixels, "(b r) c t h w -> (r b) c t h w", r=batch.repeats))
        return torch.cat(parts)

    def after_step(self, step: int, total: int) -> None:
        """Other directions in the next step."""
        self.step.fill_(step + 1)
