"""The online probe of video pretraining: do clips of one class lie together in the frozen features?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from suite3d.config import ConfigError
from suite3d.engine.once import each_once
from suite3d.evaluate.diagnostics import TokenSimilarity
from suite3d.evaluate.probes import probe_scores, spread
from suite3d.image.views import ViewConfig
from suite3d.video.data.batch import ClipBatch
from suite3d.video.data.lists import VideoItem
from suite3d.video.data.source import ClipSource
from suite3d.video.recipes.data import VideoDataConfig, build_list, has_validation

CACHE_BYTES = 256 << 20
"""Decoded probe clips are kept up to this size, so that later looks cost no decoding."""


@dataclass(kw_only=True)
class ClipProbeConfig:
    """Nearest neighbours and a ridge classifier on frozen clip features: all tokens of the middle clip of a video, averaged.

    Attributes:
        clips: labelled videos at most on each side, evenly over the classes: to fit on and to score.
        k: neighbours.
        penalty: of the ridge classifier.
        batch: clips encoded at a time.
    """

    clips: int = 512
    k: int = 20
    penalty: float = 1e-2
    batch: int = 16


class ClipProbe:
    """Scores an encoder on two sets of labelled clips that share no video.

    Args:
        fit, score: the two sets, each giving one middle clip per video.
        classes: class names.
    """

    def __init__(self, fit: ClipSource, score: ClipSource, classes: Sequence[str], config: ClipProbeConfig) -> None:
        self.sources, self.classes, self.config = (fit, score), list(classes), config
        self.description = f"kNN and ridge on {len(fit)} labelled clips, scored on {len(score)}, {len(self.classes)} classes"
        self._kept: tuple[list[ClipBatch], list[ClipBatch]] | None = None

    def __call__(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """``{"knn", "knn_standardised", "ridge", "knn_chance"}``, see :func:`suite3d.evaluate.probes.probe_scores`, and ``token_similarity`` of
        the same clips; empty where a side has no readable clip."""
        encoder = model.encoder
        assert isinstance(encoder, nn.Module)
        similarity = TokenSimilarity()
        scores = self.score(pooled(encoder, similarity), device)
        return scores | similarity.metrics() if scores else {}

    @torch.no_grad()
    def score(self, features: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, float]:
        """As a call, for any function from pixels ``(B, 3, T, S, S)`` to features ``(B, D)``."""
        sides = []
        for side in (0, 1):
            rows = [(features(batch.to(device).pixels()).float().cpu(), batch.labels) for batch in self._batches(side)]
            if not rows:
                return {}
            sides.append((torch.cat([part for part, _ in rows]), torch.cat([labels for _, labels in rows])))
        (train, train_labels), (test, test_labels) = sides
        config = self.config
        return probe_scores(train, train_labels, test, test_labels, classes=len(self.classes), k=config.k, penalty=config.penalty)

    def _batches(self, side: int) -> list[ClipBatch]:
        if self._kept is not None:
            return self._kept[side]
        loaded = (self._load(0), self._load(1))
        if sum(_bytes(batch) for part in loaded for batch in part) <= CACHE_BYTES:
            self._kept = loaded
        return loaded[side]

    def _load(self, side: int) -> list[ClipBatch]:
        """Batches of all clips; broken ones are left out."""
        source = self.sources[side]
        return [part.batch for part in each_once(source, range(len(source)), batch_size=self.config.batch) if part.batch is not None]


def pooled(encoder: nn.Module, similarity: TokenSimilarity | None = None) -> Callable[[Tensor], Tensor]:
    """Mean over the tokens of an encoder that is put into evaluation mode for the call; ``similarity`` sees the tokens."""

    def features(pixels: Tensor) -> Tensor:
        training = encoder.training
        encoder.eval()
        tokens: Tensor = encoder(pixels)
        encoder.train(training)
        if similarity is not None:
            similarity.add(tokens.flatten(1, -2))
        return tokens.flatten(1, -2).mean(dim=1)

    return features


def single_frame(features: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The same features of a clip that shows its middle frame all the time: what appearance alone gives."""
    return lambda pixels: features(pixels[:, :, pixels.shape[2] // 2, None].expand_as(pixels).contiguous())


def _bytes(batch: ClipBatch) -> int:
    return sum(clip.numel() for clip in batch.frames)


def build_probe(config: ClipProbeConfig, data: VideoDataConfig, augment: ViewConfig) -> ClipProbe | None:
    """The probe on training and validation videos, or on two halves of the training videos; None without labels of two classes."""
    train = build_list(data)
    labelled = [item for item in train.items if item.label is not None]
    if len(train.classes) < 2 or len({item.label for item in labelled}) < 2:
        return None
    if has_validation(data):
        try:
            val = build_list(data, validation=True)
        except ConfigError:
            return None
        held = [item for item in val.items if item.label is not None]
        if val.classes != train.classes or not held:
            return None
        fit = labelled
    else:
        fit, held = _halves(labelled)
    plain = replace(augment, crop="center", flip=0.0, jitter=0.0, gray=0.0)
    sources = [
        ClipSource(
            spread(_ordered(items), config.clips), frames=data.frames, stride=data.stride, augment=plain, sampling="uniform", reader=data.reader
        )
        for items in (fit, held)
    ]
    return ClipProbe(sources[0], sources[1], train.classes, config)


def _halves(items: list[VideoItem]) -> tuple[list[VideoItem], list[VideoItem]]:
    """Every second video of each class on either side."""
    ordered = _ordered(items)
    return ordered[::2], ordered[1::2]


def _ordered(items: list[VideoItem]) -> list[VideoItem]:
    """Sorted by class."""
    return sorted(items, key=lambda item: (item.label, str(item.path), item.start))
