"""The online probe of video pretraining: do clips of one class lie together in the frozen features?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from suite3d.config import ConfigError
from suite3d.evaluate.online import OnlineProbe, OnlineProbeConfig, probe_rows
from suite3d.image.views import ViewConfig
from suite3d.video.data.batch import ClipBatch
from suite3d.video.data.source import ClipSource
from suite3d.video.recipes.data import VideoDataConfig, build_list, has_validation


@dataclass(kw_only=True)
class ClipProbeConfig(OnlineProbeConfig):
    """The probe on all tokens of the middle clip of a video, averaged. ``clips``: labelled videos at most on each side, evenly over the classes."""

    clips: int = 512
    batch: int = 16


class ClipProbe(OnlineProbe):
    """Mean tokens of clips."""

    kind = "clips"

    def inputs(self, kept: ClipBatch, device: torch.device) -> Tensor:
        return kept.to(device).pixels()

    def encode(self, encoder: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        tokens: Tensor = encoder(inputs).flatten(1, -2)  # (B, N, D)
        return tokens.mean(dim=1), tokens


def pooled(encoder: nn.Module) -> Callable[[Tensor], Tensor]:
    """Mean over the tokens of an encoder that is put into evaluation mode for the call."""

    def features(pixels: Tensor) -> Tensor:
        training = encoder.training
        encoder.eval()
        tokens: Tensor = encoder(pixels)
        encoder.train(training)
        return tokens.flatten(1, -2).mean(dim=1)

    return features


def single_frame(features: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same features of a clip that shows its middle frame all the time: what appearance alone gives."""
    return lambda pixels: features(pixels[:, :, pixels.shape[2] // 2, None].expand_as(pixels).contiguous())


def build_probe(config: ClipProbeConfig, data: VideoDataConfig, augment: ViewConfig) -> ClipProbe | None:
    """The probe on training and validation videos, or on two halves of the training videos; None without labels of two classes."""
    train, val = build_list(data), None
    if has_validation(data):
        try:
            val = build_list(data, validation=True)
        except ConfigError:
            return None
        if val.classes != train.classes:
            return None
    fit, held = (sorted(part.items, key=lambda item: (str(item.path), item.start)) for part in (train, val or train))
    rows = probe_rows([item.label for item in fit], [item.label for item in held] if val is not None else None, config.clips)
    if rows is None:
        return None
    plain = replace(augment, crop="center", flip=0.0, jitter=0.0, gray=0.0)
    sources = [
        ClipSource([items[row] for row in part], frames=data.frames, stride=data.stride, augment=plain, sampling="uniform", reader=data.reader)
        for items, part in zip((fit, held), rows)
    ]
    return ClipProbe(sources[0], sources[1], len(train.classes), config)
