"""The online probe of image pretraining: do pictures of one class lie together in the frozen features?"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor, nn

from suite3d.evaluate.online import OnlineProbe, OnlineProbeConfig, labels_of, probe_rows
from suite3d.image.data.batch import ImageBatch
from suite3d.image.data.source import ImageSource, ViewGroup
from suite3d.image.recipes.data import ImageDataConfig, build_images, has_validation
from suite3d.image.style import StyleConfig
from suite3d.image.views import ViewConfig
from suite3d.nn.pooling import features_and_tokens


@dataclass(kw_only=True)
class ImageProbeConfig(OnlineProbeConfig):
    """The probe on the middle of each picture. ``images``: labelled pictures at most on each side, evenly over the classes."""

    images: int = 2000


class ImageProbe(OnlineProbe):
    """Pooled features of pictures."""

    kind = "pictures"

    def keep(self, batch: ImageBatch) -> Tensor:
        return batch.pixels()

    def encode(self, encoder: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return features_and_tokens(encoder, inputs)


def plain_view(view: ViewConfig) -> ViewGroup:
    """The middle of a picture, colours and style as they are."""
    return ViewGroup(view=replace(view, crop="center", flip=0.0, jitter=0.0, gray=0.0, style=StyleConfig()))


def build_probe(config: ImageProbeConfig, data: ImageDataConfig, view: ViewConfig) -> ImageProbe | None:
    """The probe on training and validation pictures, or on two halves of the training pictures; None without labels of two classes."""
    train = build_images(data)
    val = build_images(data, validation=True, classes=train.classes) if has_validation(data) else None
    rows = probe_rows(labels_of(train), labels_of(val) if val is not None else None, config.images)
    if rows is None:
        return None
    fit, score = (ImageSource(images, [plain_view(view)], indices=part) for images, part in zip((train, val or train), rows))
    return ImageProbe(fit, score, len(train.classes), config)
