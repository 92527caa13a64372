"""What each person does: features of a person's box on the token grid, a sigmoid for every action.

As for AVA in Feichtenhofer et al., "SlowFast", ICCV 2019, section 5, and VideoMAE: tokens averaged over time, RoIAlign of 7 x 7, maximum, linear,
binary cross-entropy. The boxes are given: annotated ones in training, a person detector's (or the annotated ones) in testing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from suite3d.nn.roi_align import roi_align
from suite3d.nn.vit import VisionTransformer
from suite3d.output import Output
from suite3d.video.data.actions import ActionBatch


@dataclass(kw_only=True)
class ActionConfig:
    """The head.

    Attributes:
        output: bins of RoIAlign along each side. samples: along each side of a bin.
        dropout: before the linear layer.
        std: deviation of the linear layer's initial weights.
        prior: initial probability of every action, which is rare; it sets the linear layer's bias.
    """

    output: int = 7
    samples: int = 2
    dropout: float = 0.0
    std: float = 0.01
    prior: float = 0.05

    def __post_init__(self) -> None:
        if min(self.output, self.samples) < 1 or not 0 < self.prior < 1:
            raise ValueError(f"the action head expected positive output and samples and a prior in (0, 1), got {self}")


class ActionDetector(nn.Module):
    """An encoder with a head on the boxes of persons.

    Args:
        encoder: a vision transformer; its tokens lie on its ``grid``.
        class_names: names of the actions by output.
        config: see :class:`ActionConfig`.
    """

    def __init__(self, encoder: VisionTransformer, class_names: Sequence[str], config: ActionConfig | None = None) -> None:
        super().__init__()
        self.config, self.class_names, self.encoder = config or ActionConfig(), tuple(class_names), encoder
        self.dropout = nn.Dropout(self.config.dropout)
        self.head = nn.Linear(encoder.embed_dim, len(self.class_names))
        nn.init.normal_(self.head.weight, std=self.config.std)
        nn.init.constant_(self.head.bias, float(torch.logit(torch.tensor(self.config.prior))))

    def forward(self, batch: ActionBatch) -> Output:
        pixels = batch.clips.pixels()
        tokens = self.encoder(pixels)  # [B, N, D]
        logits = self.head(self.dropout(self.pool(tokens, batch.boxes, batch.index))).float()  # [M, K]
        losses = F.binary_cross_entropy_with_logits(logits, batch.targets, reduction="none")
        loss = losses.sum() / max(losses.numel(), 1) + 0 * tokens.float().sum()  # with no person in the batch: 0, with a gradient
        metrics: dict[str, Tensor | float] = {"persons": float(len(logits)) / len(batch), "actions": batch.targets.sum() / max(len(logits), 1)}
        return Output(loss=loss, metrics=metrics, features=tokens.detach().mean(1), visuals=partial(key_frame_pictures, batch))

    def pool(self, tokens: Tensor, boxes: Tensor, index: Tensor) -> Tensor:
        """``tokens (B, N, D)``, ``boxes (M, 4)`` as shares of the clip, ``index (M,)`` -> ``(M, D)``: the largest of the bins."""
        t, h, w = self.encoder.grid
        features = rearrange(tokens, "b (t h w) d -> b d t h w", t=t, h=h, w=w).mean(2)  # [B, D, h, w]
        return roi_align(features, boxes, index, output=self.config.output, samples=self.config.samples).amax((2, 3))

    @torch.no_grad()
    def predict(self, batch: ActionBatch) -> Tensor:
        """``(M, K)`` float32 probability of every action for every person."""
        tokens = self.encoder(batch.clips.pixels())
        return self.head(self.pool(tokens, batch.boxes, batch.index)).float().sigmoid()


def key_frame_pictures(batch: ActionBatch) -> dict[str, Any]:
    """The key frame of the first clip as the model sees it, with its persons' boxes and actions."""
    from suite3d.report.canvas import Canvas

    crop = batch.clips.crops()[0]  # [3, T, S, S]
    frame = crop[:, crop.shape[1] // 2].float().clamp(0, 255).permute(1, 2, 0)
    scale = max(1, 320 // frame.shape[0])
    picture = frame.repeat_interleave(scale, 0).repeat_interleave(scale, 1).round().byte().cpu().numpy()
    canvas = Canvas(picture)
    for box in batch.boxes[batch.index == 0].tolist():
        x1, y1, x2, y2 = (value * picture.shape[0] for value in box)
        canvas.polyline([(x1, y1), (x2, y1), (x2, y2), (x1, y2)], (255, 160, 60), closed=True)
    return {"key_frame": canvas.image()}
