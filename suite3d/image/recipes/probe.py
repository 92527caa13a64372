"""The online probe of image pretraining: do pictures of one class lie together in the frozen features?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from suite3d.engine.once import each_once
from suite3d.evaluate.diagnostics import TokenSimilarity
from suite3d.evaluate.probes import probe_scores, spread
from suite3d.image.data.sets import ImageSet
from suite3d.image.data.source import ImageSource, ViewGroup
from suite3d.image.recipes.data import ImageDataConfig, build_images, has_validation
from suite3d.image.style import StyleConfig
from suite3d.image.views import ViewConfig
from suite3d.nn.pooling import features_and_tokens


@dataclass(kw_only=True)
class ImageProbeConfig:
    """Nearest neighbours and a ridge classifier on frozen features of the middle of each picture.

    Attributes:
        images: labelled pictures at most on each side, evenly over the classes: to fit on and to score.
        k: neighbours.
        penalty: of the ridge classifier.
        batch: pictures encoded at a time.
    """

    images: int = 2000
    k: int = 20
    penalty: float = 1e-2
    batch: int = 64


class ImageProbe:
    """Scores an encoder on two sets of labelled pictures that share none.

    Args:
        fit, score: the two sides, each giving one plain view a picture.
        classes: how many classes there are.
    """

    def __init__(self, fit: ImageSource, score: ImageSource, classes: int, config: ImageProbeConfig) -> None:
        self.sources, self.classes, self.config = (fit, score), classes, config
        self.description = f"kNN and ridge on {len(fit)} labelled pictures, scored on {len(score)}, {classes} classes"
        self._kept: list[tuple[Tensor, Tensor] | None] = [None, None]

    def __call__(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """``{"knn", "knn_standardised", "ridge", "knn_chance"}``, see :func:`suite3d.evaluate.probes.probe_scores`, and ``token_similarity`` of
        the same pictures; empty without a readable side."""
        encoder = model.encoder
        assert isinstance(encoder, nn.Module)
        training = encoder.training
        encoder.eval()
        similarity = TokenSimilarity()

        def features(pixels: Tensor) -> Tensor:
            pooled, tokens = features_and_tokens(encoder, pixels)
            similarity.add(tokens)
            return pooled

        scores = self.score(features, device)
        encoder.train(training)
        return scores | similarity.metrics() if scores else {}

    @torch.no_grad()
    def score(self, features: Callable[[Tensor], Tensor], device: torch.device) -> dict[str, float]:
        """As a call, for any function from pixels ``(B, 3, S, S)`` to features ``(B, D)``."""
        sides = []
        for side in (0, 1):
            pixels, labels = self._pixels(side)
            if not len(labels):
                return {}
            rows = [features(part.to(device)).float().cpu() for part in pixels.split(self.config.batch)]
            sides += [torch.cat(rows), labels]
        return probe_scores(sides[0], sides[1], sides[2], sides[3], classes=self.classes, k=self.config.k, penalty=self.config.penalty)

    def _pixels(self, side: int) -> tuple[Tensor, Tensor]:
        """Pixels and labels of one side, read once."""
        kept = self._kept[side]
        if kept is None:
            source = self.sources[side]
            batches = [part.batch for part in each_once(source, range(len(source)), batch_size=self.config.batch) if part.batch is not None]
            pixels = [batch.pixels() for batch in batches]
            kept = (torch.cat(pixels), torch.cat([batch.labels for batch in batches])) if batches else (torch.zeros(0), torch.zeros(0))
            self._kept[side] = kept
        return kept


def plain_view(view: ViewConfig) -> ViewGroup:
    """The middle of a picture, colours and style as they are."""
    return ViewGroup(view=replace(view, crop="center", flip=0.0, jitter=0.0, gray=0.0, style=StyleConfig()))


def build_probe(config: ImageProbeConfig, data: ImageDataConfig, view: ViewConfig) -> ImageProbe | None:
    """The probe on training and validation pictures, or on two halves of the training pictures; None without labels of two classes."""
    train = build_images(data)
    labelled = _by_class(train)
    if len({train.label(index) for index in labelled}) < 2:
        return None
    if has_validation(data):
        val = build_images(data, validation=True, classes=train.classes)
        fit, held = labelled, _by_class(val)
    else:
        val, fit, held = train, labelled[::2], labelled[1::2]
    if not held:
        return None
    sources = [ImageSource(images, [plain_view(view)], indices=spread(rows, config.images)) for images, rows in ((train, fit), (val, held))]
    return ImageProbe(sources[0], sources[1], len(train.classes), config)


def _by_class(images: ImageSet) -> list[int]:
    """Labelled pictures, sorted by class."""
    rows = [(label, index) for index in range(len(images)) if (label := images.label(index)) is not None]
    return [index for _, index in sorted(rows)]
