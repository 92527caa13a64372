"""The online probe of object pretraining: do objects of one class lie together in the frozen features?"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from suite3d.evaluate.online import OnlineProbe, OnlineProbeConfig, labels_of, probe_rows
from suite3d.pointcloud.data.batch import PointBatch
from suite3d.pointcloud.data.objects.batch import ObjectBatch
from suite3d.pointcloud.data.objects.source import ObjectSource
from suite3d.pointcloud.data.objects.views import ObjectViewConfig
from suite3d.pointcloud.encoders.point_patch import PointPatchTransformer
from suite3d.pointcloud.recipes.objects.data import ObjectDataConfig, build_objects, has_validation


@dataclass(kw_only=True)
class ObjectProbeConfig(OnlineProbeConfig):
    """The probe on whole objects. ``objects``: labelled objects at most on each side, evenly over the classes."""

    objects: int = 1000


class ObjectProbe(OnlineProbe):
    """Features of whole objects."""

    kind = "objects"

    def keep(self, batch: ObjectBatch) -> PointBatch:
        return batch.views[0]

    def encode(self, encoder: nn.Module, inputs: PointBatch) -> tuple[Tensor, None]:
        assert isinstance(encoder, PointPatchTransformer)
        return encoder.described(inputs), None


def plain_view(points: int) -> ObjectViewConfig:
    """The whole object as it is, in the unit sphere."""
    return ObjectViewConfig(points=points)


def build_probe(config: ObjectProbeConfig, data: ObjectDataConfig, *, points: int, channels: tuple[str, ...]) -> ObjectProbe | None:
    """The probe on training and validation objects, or on two halves of the training objects; None without labels of two classes."""
    train = build_objects(data, channels=channels)
    val = build_objects(data, validation=True, classes=train.classes, channels=channels) if has_validation(data) else None
    rows = probe_rows(labels_of(train), labels_of(val) if val is not None else None, config.objects)
    if rows is None:
        return None
    view = plain_view(points)
    fit, score = (ObjectSource(objects, [view], indices=part, channels=channels) for objects, part in zip((train, val or train), rows))
    return ObjectProbe(fit, score, len(train.classes), config)
