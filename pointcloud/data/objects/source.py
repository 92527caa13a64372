"""Objects out of a set, with the views that a method asks for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from suite3d.pointcloud.data.batch import collate_frames
from suite3d.pointcloud.data.frame import Frame
from suite3d.pointcloud.data.objects.batch import ObjectBatch
from suite3d.pointcloud.data.objects.sets import ObjectSet
from suite3d.pointcloud.data.objects.views import ObjectViewConfig, draw_view
from suite3d.pointcloud.data.source import FrameReader


@dataclass
class ObjectSample:
    """The views of one object, and its class (-1 = none)."""

    views: list[Frame]
    label: int


class ObjectSource(FrameReader):
    """Views of objects. A :class:`suite3d.source.Source`.

    Args:
        objects: the set.
        views: one entry a view, in order.
        indices: objects to use; None = all.
        channels: columns beside xyz; a subset of those of the set.
        memory_mb: megabytes of objects to keep as they were read, in each process.

    Raises:
        ValueError: no object, no view, or a channel that the set lacks.
    """

    def __init__(
        self,
        objects: ObjectSet,
        views: Sequence[ObjectViewConfig],
        *,
        indices: Sequence[int] | None = None,
        channels: Sequence[str] = (),
        memory_mb: int = 0,
    ) -> None:
        super().__init__(objects, indices=indices, channels=channels, memory_mb=memory_mb)
        if not views:
            raise ValueError("expected at least one view of an object, got none")
        self.objects, self.views = objects, list(views)

    def get(self, index: int, rng: np.random.Generator) -> ObjectSample:
        """Object ``index``, its views drawn with ``rng``. Raises :class:`suite3d.source.BadSample`."""
        row = self.indices[index]
        frame = self.read(row)
        label = self.objects.label(row)
        return ObjectSample([draw_view(frame, view, rng) for view in self.views], -1 if label is None else label)

    def collate(self, samples: list[ObjectSample], seeds: list[int]) -> ObjectBatch:
        views = [collate_frames([sample.views[place] for sample in samples], seeds) for place in range(len(self.views))]
        return ObjectBatch(
            views=[replace(view, frames=[]) for view in views],  # the frames would carry every point twice to the trainer
            labels=torch.tensor([sample.label for sample in samples]),
        )
