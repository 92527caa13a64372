"""Which frames a video holds, in display order, and what must be decoded to get each.

Containers lie about frame counts and rates, so neither is used. The stream is demultiplexed once without decoding (about 8 us a packet; MP4
has tables that say the same) and its presentation times are sorted: frame ``i`` is the i-th picture a player would show, whatever the frame
rate, the order of coding or the edit list. This is the same contract as torchcodec's exact mode.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from suite3d.source import BadSample
from suite3d.video.data.decoders.mp4 import packet_table

_RATE_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """Frames of one stream.

    Attributes:
        pts: (N,) int64 presentation times in units of ``time_base``, increasing.
        packet: (N,) int64 position, in coding order, of the packet that holds each frame.
        start: (N,) int64 position of the key-frame packet from which decoding must begin to get each frame.
        packet_pts: (P,) int64 presentation times in coding order; P >= N (pictures that are never shown have no frame).
        time_base: seconds per unit.
        counted: True when packets carry no usable times: frames were counted by decoding everything, ``packet``, ``start`` and
            ``packet_pts`` are empty and frames can only be reached by decoding from the beginning.
    """

    pts: NDArray[np.int64]
    packet: NDArray[np.int64]
    start: NDArray[np.int64]
    packet_pts: NDArray[np.int64]
    time_base: Fraction
    counted: bool = False

    def __len__(self) -> int:
        return len(self.pts)

    @property
    def seconds(self) -> float:
        """From the first frame to the last, plus one frame."""
        gaps = np.diff(self.pts)
        return float((self.pts[-1] - self.pts[0] + (np.median(gaps) if len(gaps) else 0)) * self.time_base)

    @property
    def fps(self) -> float:
        """Mean frames per second; 0 for a single frame."""
        span = float((self.pts[-1] - self.pts[0]) * self.time_base)
        return (len(self.pts) - 1) / span if span > 0 else 0.0

    @property
    def closed_groups(self) -> bool:
        """Nothing coded after a key frame is shown before it, so that each group decodes alone."""
        keys = np.unique(self.start)
        earliest_from = np.minimum.accumulate(self.packet_pts[::-1])[::-1]
        return bool((earliest_from[keys] >= self.packet_pts[keys]).all())

    @property
    def variable_frame_rate(self) -> bool:
        """Some gap differs from the median by more than 10 % and one unit of rounding on either side."""
        gaps = np.diff(self.pts)
        if len(gaps) < 2:
            return False
        median = float(np.median(gaps))
        return bool((np.abs(gaps - median) > max(_RATE_TOLERANCE * median, 1.0)).any())


def quick_index(container: Any, stream: Any, path: Path) -> FrameIndex | None:
    """What ``build_index`` finds, from the tables of an MP4 or MOV file; None where they do not tell it all."""
    table = packet_table(path, container, stream)
    if table is None or len(np.unique(table[0])) < len(table[0]):
        return None
    return _index_packets(table[0], table[1], np.ones(len(table[0]), dtype=bool), stream.time_base, path)


def build_index(container: Any, stream: Any, path: object) -> FrameIndex:
    """Index of ``stream``; leaves the container at its end (seek before decoding).

    Args:
        container, stream: PyAV's; single-threaded codec context.
        path: for error messages.

    Raises:
        BadSample: no frames, or a packet that is cut off.
    """
    pts: list[int | None] = []
    key: list[bool] = []
    shown: list[bool] = []
    vp8 = stream.codec_context.name in ("vp8", "libvpx")
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if packet.is_corrupt:
            raise BadSample(path, f"truncated: packet {len(pts)} is cut off")
        pts.append(packet.pts)
        key.append(packet.is_keyframe)
        shown.append(not packet.is_discard and not (vp8 and _vp8_hidden(packet)))
    if not pts:
        raise BadSample(path, "holds no video frames")
    times = [value for value in pts if value is not None]
    visible = [value for value, show in zip(pts, shown) if show]
    unordered = container.format.name == "avi" and stream.codec_context.has_b_frames  # AVI keeps coding times only
    if unordered or len(times) < len(pts) or len(set(visible)) < len(visible):
        return _count_frames(container, stream, path)
    return _index_packets(np.array(times, dtype=np.int64), np.array(key), np.array(shown), stream.time_base, path)


def _index_packets(packet_pts: NDArray[np.int64], key: NDArray[np.bool_], shown: NDArray[np.bool_], time_base: Fraction, path: object) -> FrameIndex:
    keys = np.flatnonzero(key)
    if not len(keys):
        raise BadSample(path, "holds no key frame, so nothing can be decoded")
    keys = keys[np.argsort(packet_pts[keys], kind="stable")]
    order = np.flatnonzero(shown)
    order = order[np.argsort(packet_pts[order], kind="stable")]
    before = np.searchsorted(packet_pts[keys], packet_pts[order], side="right") - 1
    order, before = order[before >= 0], before[before >= 0]  # what is shown before the first key frame refers to pictures that are not there
    if not len(order):
        raise BadSample(path, "holds no frame at or after its first key frame")
    # A key frame shown earlier but coded later than the frame cannot be its start (damaged order): fall back to the file's first key frame.
    start = np.where(keys[before] <= order, keys[before], keys.min())
    return FrameIndex(pts=packet_pts[order], packet=order, start=start, packet_pts=packet_pts, time_base=time_base)


def _count_frames(container: Any, stream: Any, path: object) -> FrameIndex:
    """Streams without times (some AVI, raw H.264, PNG in old containers): decode everything once."""
    container.seek(0)
    stream.codec_context.flush_buffers()
    count = sum(1 for _ in container.decode(stream))
    if not count:
        raise BadSample(path, "holds no frame that decodes")
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    empty = np.empty(0, dtype=np.int64)
    return FrameIndex(pts=np.arange(count, dtype=np.int64), packet=empty, start=empty, packet_pts=empty, time_base=1 / rate, counted=True)


def _vp8_hidden(packet: Any) -> bool:
    """VP8 alternate reference: bit 4 of the frame tag is show_frame (RFC 6386, 9.1)."""
    return not bytes(packet)[0] & 0x10
