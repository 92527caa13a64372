"""Sparse sampling: the whole video cut into T equal parts, one frame of each (Wang et al., "Temporal Segment Networks", ECCV 2016)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from suite3d.video.data.source import ClipSource


class SegmentSource(ClipSource):
    """As :class:`suite3d.video.data.source.ClipSource`, with frames spread over the whole video; ``stride`` is not used.

    With ``sampling="random"`` frame i is uniform in part i. With ``uniform`` window w of W takes the frame at the share w / W of every part, the
    only window of one the middle: with two windows and 16 frames VideoMAE's test clips on Something-Something. A video of fewer frames than
    parts repeats some, and counts as short.
    """

    @property
    def span(self) -> int:
        return self.frames

    def draw_times(self, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
        if self.sampling == "random":
            share = rng.random((self.windows, self.frames))
        else:
            share = np.full((self.windows, 1), 0.5) if self.windows == 1 else np.arange(self.windows)[:, None] / self.windows
        return np.minimum(((np.arange(self.frames) + share) * count / self.frames).astype(np.int64), count - 1)
