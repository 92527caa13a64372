"""Two clips of one video whose distance in time follows a chosen density."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from suite3d.video.data.source import ClipSource


class IntervalClipSource(ClipSource):
    """Pairs of clips, near ones more often than far ones (Qian et al., "CVRL", CVPR 2021, section 3.2).

    With R + 1 possible starts in a video, the interval d in {0, ..., R} has a density that falls linearly to zero at R + 1; then the earlier
    clip starts uniformly where both fit, and which of the two comes first is drawn as well. Other arguments as
    :class:`suite3d.video.data.source.ClipSource`, with ``windows=2`` and ``sampling="random"``.
    """

    def draw_starts(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """``(2,)`` first frames in a video of ``count`` frames."""
        if self.windows != 2 or self.sampling != "random":
            raise ValueError(f"IntervalClipSource draws two random clips, got windows={self.windows} and sampling='{self.sampling}'")
        starts = max(count - self.frames * self.stride, 0) + 1
        # Inverse of the distribution function 1 - (1 - d / starts)^2 of the continuous triangle on [0, starts), rounded down.
        interval = min(int(starts * (1 - np.sqrt(1 - rng.random()))), starts - 1)
        first = int(rng.integers(starts - interval))
        pair = np.array([first, first + interval], dtype=np.int64)
        return pair[::-1].copy() if rng.random() < 0.5 else pair
