"""The online probe of object pretraining: do objects of one class lie together in the frozen features?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from suite3d.engine.once import each_once
from suite3d.evaluate.probes import probe_scores, spread
from suite3d.pointcloud.data.objects.batch import ObjectBatch
from suite3d.pointcloud.data.objects.sets import ObjectSet
from suite3d.pointcloud.data.objects.source import ObjectSource
from suite3d.pointcloud.data.objects.views import ObjectViewConfig
from suite3d.pointcloud.encoders.point_patch import PointPatchTransformer
from suite3d.pointcloud.recipes.objects.data import ObjectDataConfig, build_objects, has_validation


@dataclass(kw_only=True)
class ObjectProbeConfig:
    """Nearest neighbours and a ridge classifier on frozen features of whole objects.

    Attributes:
        objects: labelled objects at most on each side, evenly over the classes: to fit on and to score.
        k: neighbours.
        penalty: of the ridge classifier.
        batch: objects encoded at a time.
    """

    objects: int = 1000
    k: int = 20
    penalty: float = 1e-2
    batch: int = 64


class ObjectProbe:
    """Scores an encoder on two sets of labelled objects that share none.

    Args:
        fit, score: the two sides, each giving one plain view an object.
        classes: how many classes there are.
    """

    def __init__(self, fit: ObjectSource, score: ObjectSource, classes: int, config: ObjectProbeConfig) -> None:
        self.sources, self.classes, self.config = (fit, score), classes, config
        self.description = f"kNN and ridge on {len(fit)} labelled objects, scored on {len(score)}, {classes} classes"
        self._kept: list[list[ObjectBatch] | None] = [None, None]

    @torch.no_grad()
    def __call__(self, model: nn.Module, device: torch.device) -> dict[str, float]:
        """``{"knn", "knn_standardised", "ridge", "knn_chance"}``, see :func:`suite3d.evaluate.probes.probe_scores`; empty without a readable side."""
        encoder = model.encoder
        assert isinstance(encoder, PointPatchTransformer)
        training = encoder.training
        encoder.eval()
        sides: list[Tensor] = []
        for side in (0, 1):
            batches = self._batches(side)
            if not batches:
                return {}
            sides.append(torch.cat([encoder.described(batch.views[0].to(device)).float().cpu() for batch in batches]))
            sides.append(torch.cat([batch.labels for batch in batches]))
        encoder.train(training)
        return probe_scores(sides[0], sides[1], sides[2], sides[3], classes=self.classes, k=self.config.k, penalty=self.config.penalty)

    def _batches(self, side: int) -> list[ObjectBatch]:
        """The objects of one side, read once. Broken ones are left out."""
        kept = self._kept[side]
        if kept is None:
            source = self.sources[side]
            kept = [part.batch for part in each_once(source, range(len(source)), batch_size=self.config.batch) if part.batch is not None]
            self._kept[side] = kept
        return kept


def plain_view(points: int) -> ObjectViewConfig:
    """The whole object as it is, in the unit sphere."""
    return ObjectViewConfig(points=points)


def build_probe(config: ObjectProbeConfig, data: ObjectDataConfig, *, points: int, channels: tuple[str, ...]) -> ObjectProbe | None:
    """The probe on training and validation objects, or on two halves of the training objects; None without labels of two classes."""
    train = build_objects(data, channels=channels)
    labelled = by_class(train)
    if len({train.label(index) for index in labelled}) < 2:
        return None
    if has_validation(data):
        val = build_objects(data, validation=True, classes=train.classes, channels=channels)
        fit, held = labelled, by_class(val)
    else:
        val, fit, held = train, labelled[::2], labelled[1::2]
    if not held:
        return None
    sides = [
        ObjectSource(objects, [plain_view(points)], indices=spread(rows, config.objects), channels=channels)
        for objects, rows in ((train, fit), (val, held))
    ]
    return ObjectProbe(sides[0], sides[1], len(train.classes), config)


def by_class(objects: ObjectSet) -> list[int]:
    """Labelled objects, sorted by class."""
    rows = [(label, index) for index in range(len(objects)) if (label := objects.label(index)) is not None]
    return [index for _, index in sorted(rows)]
