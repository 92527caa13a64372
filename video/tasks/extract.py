"""Frozen features of videos: one vector a video, or the tokens of its views."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suite3d.engine.once import each_once
from suite3d.evaluate.features import FeatureSet
from suite3d.video.data.batch import ClipBatch
from suite3d.video.data.source import ClipSource

Precision = Literal["fp32", "bf16"]


class Extractor:
    """Runs a frozen encoder over clips.

    Args:
        encoder: ``(B, 3, T, S, S)`` -> ``(B, N, D)``.
        device: where it runs; it is moved there.
        precision: of its arithmetic.
        batch: videos at a time. workers: loader processes.
    """

    def __init__(self, encoder: nn.Module, *, device: torch.device, precision: Precision = "fp32", batch: int = 8, workers: int = 0) -> None:
        self.encoder = encoder.to(device).eval()
        self.device, self.precision, self.batch, self.workers = device, precision, batch, workers

    @torch.no_grad()
    def tokens(self, batch: ClipBatch) -> Tensor:
        """``(B, R, W * N, D)`` float32: for each of the R crops the tokens of its W windows, one after the other."""
        views = []
        for window in range(batch.windows):
            with torch.autocast(self.device.type, dtype=torch.bfloat16) if self.precision == "bf16" else nullcontext():
                out = self.encoder(batch.pixels(window))  # [B * R, N, D]
            views.append(out.float().unflatten(0, (len(batch), batch.repeats)))
        return torch.cat(views, dim=2)

    def pooled(self, source: ClipSource, groups: Sequence[str]) -> FeatureSet:
        """Mean over all tokens of all windows and crops of each video: ``(n, D)``."""
        return self._collect(source, groups, lambda tokens: tokens.mean((1, 2)))

    def views(self, source: ClipSource, groups: Sequence[str]) -> FeatureSet:
        """Tokens of every crop, windows joined: ``(n, R, W * N, D)`` float16."""
        return self._collect(source, groups, lambda tokens: tokens.half())

    def _collect(self, source: ClipSource, groups: Sequence[str], reduce: Any) -> FeatureSet:
        features, labels, rows, skipped = [], [], [], []
        for part in each_once(source, range(len(source)), batch_size=self.batch, workers=self.workers):
            skipped += part.skipped
            if part.batch is not None:
                batch = part.batch.to(self.device)
                features.append(reduce(self.tokens(batch)).cpu())
                labels.append(part.batch.labels)
                rows += part.rows
        if not rows:
            raise ValueError(f"no video could be read; the first problems: {skipped[:3]}")
        return FeatureSet(
            features=torch.cat(features),
            labels=torch.cat(labels),
            names=[source.name(row) for row in rows],
            groups=[groups[row] for row in rows],
            skipped=skipped,
        )


class OnlineTokens:
    """Tokens of freshly drawn clips in every epoch, for a probe that trains on augmented videos. A :class:`~suite3d.evaluate.attentive.TokenBank`.

    Args:
        extractor: the frozen encoder.
        source: clips; random ones differ from epoch to epoch.
        labels, groups: of its videos.
    """

    def __init__(self, extractor: Extractor, source: ClipSource, labels: Tensor, groups: Sequence[str]) -> None:
        self.extractor, self.source, self.labels, self.groups = extractor, source, labels, groups
        width = extractor.encoder.embed_dim
        assert isinstance(width, int)
        self.dim = width

    def batches(self, rows: Sequence[int], *, batch_size: int, epoch: int) -> Iterator[tuple[list[int], Tensor]]:
        for part in each_once(self.source, rows, batch_size=batch_size, workers=self.extractor.workers, seed=epoch):
            if part.batch is not None:
                yield part.rows, self.extractor.tokens(part.batch.to(self.extractor.device))
