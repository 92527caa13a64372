"""The online probe of pretraining: do labelled samples of one class lie together in the frozen features?

The samples are those of a data source, whatever the modality; a subclass says what its encoder reads of a batch and how features come of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from suite3d.engine.once import each_once
from suite3d.evaluate.diagnostics import TokenSimilarity
from suite3d.evaluate.probes import probe_scores, spread
from suite3d.source import Source

CACHE_BYTES = 512 << 20
"""Read samples are kept up to this size, so that later looks cost no reading."""


@dataclass(kw_only=True)
class OnlineProbeConfig:
    """Nearest neighbours and a ridge classifier on frozen features.

    Attributes:
        k: neighbours.
        penalty: of the ridge classifier.
        batch: samples encoded at a time.
    """

    k: int = 20
    penalty: float = 1e-2
    batch: int = 64


class OnlineProbe(ABC):
    """Scores an encoder on two sets of labelled samples that share none.

    Args:
        fit, score: the two sides, each giving one plain view a sample; their batches have ``labels``.
        classes: how many classes there are.
    """

    kind: str
    """What a sample is called, in the plural."""

    def __init__(self, fit: Source, score: Source, classes: int, config: OnlineProbeConfig) -> None:
        self.sources, self.classes, self.config = (fit, score), classes, config
        self.description = f"kNN and ridge on {len(fit)} labelled {self.kind}, scored on {len(score)}, {classes} classes"
        self._kept: list[list[tuple[Any, Tensor]]] | None = None

    def keep(self, batch: Any) -> Any:
        """What is kept of a batch between two looks."""
        return batch

    def inputs(self, kept: Any, device: torch.device) -> Any:
        """What the encoder reads."""
        return kept.to(device)

    @abstractmethod
    def encode(self, encoder: nn.Module, inputs: Any) -> tuple[Tensor, Tensor | None]:
        """Features ``(B, D)`` and the tokens ``(B, N, C)`` they come from, where a modality has them in a regular shape."""

    def __call__(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """``{"knn", "knn_standardised", "ridge", "knn_chance"}`` of ``model.encoder``, see :func:`suite3d.evaluate.probes.probe_scores`, and
        ``token_similarity`` of the same samples; empty where a side has no readable sample."""
        encoder = model.encoder
        assert isinstance(encoder, nn.Module)
        similarity = TokenSimilarity()

        def features(inputs: Any) -> Tensor:
            pooled, tokens = self.encode(encoder, inputs)
            if tokens is not None:
                similarity.add(tokens)
            return pooled

        training = encoder.training
        encoder.eval()
        scores = self.score(features, device)
        encoder.train(training)
        return scores | similarity.metrics() if scores else {}

    @torch.no_grad()
    def score(self, features: Callable[[Any], Tensor], device: torch.device) -> dict[str, float]:
        """As a call, for any function from what an encoder reads to features ``(B, D)``."""
        sides: list[Tensor] = []
        for batches in self._batches():
            if not batches:
                return {}
            sides.append(torch.cat([features(self.inputs(kept, device)).float().cpu() for kept, _ in batches]))
            sides.append(torch.cat([labels for _, labels in batches]))
        return probe_scores(sides[0], sides[1], sides[2], sides[3], classes=self.classes, k=self.config.k, penalty=self.config.penalty)

    def _batches(self) -> list[list[tuple[Any, Tensor]]]:
        """Both sides, read once where they fit. Broken samples are left out."""
        if self._kept is not None:
            return self._kept
        sides = []
        for source in self.sources:
            parts = each_once(source, range(len(source)), batch_size=self.config.batch)
            sides.append([(self.keep(part.batch), part.batch.labels) for part in parts if part.batch is not None])
        if held_bytes(sides) <= CACHE_BYTES:
            self._kept = sides
        return sides


class Labelled(Protocol):
    """Samples that may have a class."""

    def __len__(self) -> int: ...

    def label(self, index: int) -> int | None: ...


def labels_of(samples: Labelled) -> list[int | None]:
    """Class of each sample, None = unlabelled."""
    return [samples.label(index) for index in range(len(samples))]


def probe_rows(train: Sequence[int | None], held: Sequence[int | None] | None, count: int) -> tuple[list[int], list[int]] | None:
    """Rows to fit on and rows to score, at most ``count`` each, evenly over the classes.

    Args:
        train: class of each training sample, None = unlabelled.
        held: of each sample to score on; None = there are none, and every second labelled training sample is held out.

    Returns:
        Rows of ``train`` and of ``held`` (or ``train``); None without labels of two classes, or without any to score.
    """
    fit = _by_class(train)
    if len({train[row] for row in fit}) < 2:
        return None
    fit, scored = (fit, _by_class(held)) if held is not None else (fit[::2], fit[1::2])
    return (spread(fit, count), spread(scored, count)) if scored else None


def _by_class(labels: Sequence[int | None]) -> list[int]:
    """Labelled rows, sorted by class."""
    rows = [(label, row) for row, label in enumerate(labels) if label is not None]
    return [row for _, row in sorted(rows)]


def held_bytes(value: Any) -> int:
    """Bytes of all tensors in lists, tuples, dicts and dataclasses."""
    if isinstance(value, Tensor):
        return value.nbytes
    if isinstance(value, dict):
        return sum(held_bytes(part) for part in value.values())
    if isinstance(value, (list, tuple)):
        return sum(held_bytes(part) for part in value)
    return sum(held_bytes(getattr(value, part.name)) for part in fields(value)) if is_dataclass(value) else 0
