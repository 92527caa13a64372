"""One rule from decoded pictures to RGB, so that every back-end gives the same pixels.

The rule is swscale's default conversion with bicubic taps, matrix and range as the stream states them (BT.601, limited range where it
states nothing), no tone mapping. That is what torchcodec does and, for 8-bit pictures of even size, what decord 0.6 does, to the bit.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

_DIRECT = frozenset({"yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray", "rgb24", "bgr24", "rgba", "bgra", "gbrp"})


class ToRgb:
    """Converter that keeps its lookup tables between frames. ``__call__(frame) -> (H, W, 3) uint8``, upright."""

    def __init__(self) -> None:
        self._direct = VideoReformatter()
        self._graphs: dict[tuple[str, int, int], tuple[Any, Any, Any]] = {}

    def __call__(self, frame: Any) -> NDArray[np.uint8]:
        if frame.format.name in _DIRECT:
            rgb = self._direct.reformat(frame, format="rgb24", interpolation=Interpolation.BICUBIC, threads=1)
        else:
            rgb = self._through_graph(frame)
        plane: Any = rgb.planes[0]  # rows are padded; a view, as the caller copies it into its clip
        picture = np.frombuffer(plane, dtype=np.uint8).reshape(-1, plane.line_size)[: rgb.height, : 3 * rgb.width].reshape(rgb.height, rgb.width, 3)
        return np.rot90(picture, round(frame.rotation / 90) % 4)

    def _through_graph(self, frame: Any) -> Any:
        """Deep colour: libavfilter's scaler, which rounds and dithers as torchcodec's does (the plain reformatter does not)."""
        key = (frame.format.name, frame.width, frame.height)
        if key not in self._graphs:
            graph = av.filter.Graph()
            source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1))
            convert, sink = graph.add("format", "rgb24"), graph.add("buffersink")
            source.link_to(convert)
            convert.link_to(sink)
            graph.configure()
            self._graphs[key] = (graph, source, sink)
        _, source, sink = self._graphs[key]
        source.push(frame)
        return sink.pull()
