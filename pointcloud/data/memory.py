"""Frames that were read once, kept in memory up to a budget."""

from __future__ import annotations

import numpy as np

from suite3d.pointcloud.data.dataset import FrameDataset
from suite3d.pointcloud.data.frame import Frame

MEGABYTE = 2**20


class FrameMemory:
    """Reads frames of a data set and keeps them until the budget is full; what came first stays.

    Under a shuffled order each frame is as likely to come next as any other, so nothing is gained by evicting one for another.
    Arrays of kept frames are read-only: an augmentation that wrote into them would change every later epoch, so numpy raises instead.

    Args:
        dataset: where frames come from.
        megabytes: budget of this process (each loader worker has its own); 0 keeps nothing.
    """

    def __init__(self, dataset: FrameDataset, megabytes: int = 0) -> None:
        if megabytes < 0:
            raise ValueError(f"data.memory_mb: expected 0 (keep nothing) or a number of megabytes, got {megabytes}")
        self.dataset = dataset
        self.free = megabytes * MEGABYTE
        self.kept: dict[int, Frame] = {}

    def read(self, row: int) -> Frame:
        """Frame ``row``. Raises BadSample; a frame that cannot be read is not kept and is tried again."""
        frame = self.kept.get(row)
        if frame is not None:
            return frame
        frame = self.dataset.frame(row)
        arrays = [value for value in (*vars(frame).values(), *frame.meta.values()) if isinstance(value, np.ndarray)]
        size = sum(array.nbytes for array in arrays)
        if size <= self.free:
            self.free -= size
            for array in arrays:
                array.setflags(write=False)
            self.kept[row] = frame
        return frame
