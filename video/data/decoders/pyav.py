"""PyAV: the reference back-end, and the one that is always there.

Only what the wanted frames need is decoded. Wanted frames are grouped by the key frame they hang from; each group is decoded from that key
frame to the last packet it needs, then the decoder is drained. Pictures that nothing refers to (most B-frames) are dropped undecoded unless
wanted. Where key frames are dense this is one seek per frame, where they are sparse one walk.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from suite3d.image.convert import ToRgb
from suite3d.source import BadSample
from suite3d.video.data.decoders.extent import bytes_missing
from suite3d.video.data.decoders.index import FrameIndex, build_index, quick_index

_DROPS_UNREFERENCED = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})  # decoders that take skip_frame packet by packet (dav1d does not)
_SKIP_BY_READING = 48  # packets passed over unread rather than by a seek: about the cost of one seek


class PyavReader:
    """One open video.

    Args:
        path: the file; also the name in errors.
        data: the bytes of the file, when it is a member of an archive.

    Raises:
        BadSample: cannot be opened, holds no video, is truncated.
    """

    def __init__(self, path: Path, data: bytes | None = None) -> None:
        self.path = path
        self._data = data
        self._container: Any = None
        try:
            with open(path, "rb") if data is None else io.BytesIO(data) as file:
                if missing := bytes_missing(file):
                    raise BadSample(path, f"truncated: {missing}")
            self._open()
            quick = quick_index(self._container, self._stream, path) if data is None else None
            self.index: FrameIndex = quick or build_index(self._container, self._stream, path)
        except (av.FFmpegError, OSError) as error:
            self.close()
            raise BadSample(path, f"cannot be read as video: {_reason(error)}") from error
        except BadSample:
            self.close()
            raise
        self.codec: str = self._stream.codec_context.name
        self.pixel_format: str = self._stream.codec_context.pix_fmt or ""
        self.coded_size: tuple[int, int] = (self._stream.codec_context.width, self._stream.codec_context.height)
        self._to_rgb = ToRgb()
        self._packets: Iterator[Any] = iter(())
        self._next = -1  # coding position of the packet that comes next; -1 unknown
        self._position = {pts: position for position, pts in enumerate(self.index.packet_pts.tolist())}

    def _open(self) -> None:
        self.close()
        source = str(self.path) if self._data is None else io.BytesIO(self._data)
        self._container = av.open(source, metadata_errors="ignore")
        self._stream = _video_stream(self._container, self.path)
        self._stream.thread_type = "NONE"
        self._stream.codec_context.thread_count = 1

    def close(self) -> None:
        """Free the decoder and the file. PyAV keeps both until then."""
        if self._container is not None:
            self._container.close()
            self._container = None

    def rotation(self) -> int:
        """Counter-clockwise turn, in degrees (0, 90, 180, 270), that the player applies to the coded picture."""
        for _, frame in self._decode(np.zeros(1, dtype=np.int64)):
            return round(frame.rotation / 90) % 4 * 90
        raise BadSample(self.path, "its first frame does not decode")

    def read(self, frames: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Pictures of ``frames`` (increasing, unique, in range): (n, H, W, 3) uint8, upright.

        Raises:
            BadSample: a wanted frame is damaged or missing, or the size changes between frames.
        """
        place = {int(frame): row for row, frame in enumerate(frames)}
        out: NDArray[np.uint8] | None = None
        for number, frame in self._decode(frames):
            picture = self._to_rgb(frame)
            if out is None:
                out = np.empty((len(frames), *picture.shape), dtype=np.uint8)
            if picture.shape != out.shape[1:]:
                raise BadSample(self.path, f"frame size changes from {out.shape[1:3]} to {picture.shape[:2]} at frame {number}")
            out[place.pop(number)] = picture
        if out is None or place:
            raise BadSample(self.path, f"damaged: {len(place)} of {len(frames)} wanted frames do not decode, the first is frame {min(place)}")
        return out

    def walk(self) -> Iterator[NDArray[np.uint8]]:
        """Every frame in order, one in memory at a time. Raises BadSample at the first that is damaged or missing."""
        due = 0
        for number, frame in self._decode(np.arange(len(self.index), dtype=np.int64)):
            if number != due:
                break
            yield self._to_rgb(frame)
            due += 1
        if due < len(self.index):
            raise BadSample(self.path, f"damaged: frame {due} does not decode")

    def _decode(self, frames: NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
        """(frame number, decoded picture), each wanted frame once."""
        try:
            if self.index.counted:
                yield from self._decode_from_beginning(frames)
                return
            starts = self.index.start[frames]
            lost = set(frames.tolist())
            for start in np.unique(starts):
                for number, picture in self._decode_group(frames[starts == start], int(start)):
                    lost.remove(number)
                    yield number, picture
            if lost and starts.max() > self.index.start[0]:
                # A "key frame" from which decoding cannot begin (periodic intra refresh): take the long way round.
                yield from self._decode_group(np.array(sorted(lost), dtype=np.int64), int(self.index.start[0]), drop=False)
        except (av.FFmpegError, OSError) as error:
            self._next = -1
            raise BadSample(self.path, f"damaged: {_reason(error)}") from error

    def _decode_group(self, frames: NDArray[np.int64], start: int, *, drop: bool = True) -> Iterator[tuple[int, Any]]:
        wanted = {int(self.index.pts[frame]): int(frame) for frame in frames}
        last = int(self.index.packet[frames].max())
        unwanted = "NONREF" if drop and self.codec in _DROPS_UNREFERENCED else "DEFAULT"
        self._go_to(start)
        codec = self._stream.codec_context
        for _ in range(start, last + 1):
            packet = self._take()
            codec.skip_frame = "DEFAULT" if packet.pts in wanted else unwanted
            yield from self._wanted(codec.decode(packet), wanted)
        codec.skip_frame = "DEFAULT"
        yield from self._wanted(codec.decode(None), wanted)

    def _wanted(self, pictures: list[Any], wanted: dict[int, int]) -> Iterator[tuple[int, Any]]:
        for picture in pictures:
            if picture.pts in wanted and not picture.is_corrupt:
                yield wanted.pop(picture.pts), picture

    def _go_to(self, position: int) -> None:
        """Make the packet at ``position`` (coding order) the next one, with an empty decoder."""
        self._stream.codec_context.flush_buffers()
        if self._next < 0 or not 0 <= position - self._next <= _SKIP_BY_READING:
            self._container.seek(int(self.index.packet_pts[position]), stream=self._stream, backward=True)
            self._packets = _data_packets(self._container, self._stream)
            if not self._read_on_to(position):  # some containers (transport streams) only find places near the wanted one
                self._open()
                self._packets = _data_packets(self._container, self._stream)
                if not self._read_on_to(position):
                    raise BadSample(self.path, "cannot be positioned: its packets change between two passes")
            return
        while self._next < position:
            self._take()

    def _take(self) -> Any:
        packet = next(self._packets, None)
        if packet is None:
            raise BadSample(self.path, f"damaged: ends before packet {self._next}")
        self._next += 1
        return packet

    def _read_on_to(self, position: int) -> bool:
        """Read on to the packet at ``position``. False when what comes first lies behind it."""
        for packet in self._packets:
            here = self._position.get(packet.pts, len(self._position))
            if here >= position:
                self._packets, self._next = itertools.chain([packet], self._packets), position
                return here == position
        return False

    def _decode_from_beginning(self, frames: NDArray[np.int64]) -> Iterator[tuple[int, Any]]:
        wanted, last = set(frames.tolist()), int(frames[-1])
        self._container.seek(0)
        self._stream.codec_context.flush_buffers()
        for number, picture in enumerate(self._container.decode(self._stream)):
            if number in wanted:
                yield number, picture
            if number == last:
                break


def _data_packets(container: Any, stream: Any) -> Iterator[Any]:
    return (packet for packet in container.demux(stream) if packet.size)


def _video_stream(container: Any, path: object) -> Any:
    """The stream a player would choose; cover pictures of audio files are no video."""
    stream = container.streams.best("video")
    if stream is None or "attached_pic" in str(stream.disposition.name or ""):
        kinds = sorted({other.type for other in container.streams}) or ["nothing"]
        raise BadSample(path, "audio only" if "audio" in kinds else f"no video stream in it, only {', '.join(kinds)}")
    return stream


def _reason(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
