"""Videos whose pixels say which frame they are: twelve bars, black or white, are the frame number in binary, over a drifting texture."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 12
SHARED = Path(os.environ.get("SUITE3D_DATA", Path(__file__).parents[3].parent / "shared" / "data")) / "video"


def picture(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """(height, width, 3) uint8. The upper half holds the bars, a corner of the lower half is red (which way up), the rest drifts."""
    image = np.empty((height, width, 3), dtype=np.uint8)
    columns = np.arange(width)
    bits = (number >> (columns * BITS // width)) & 1
    image[: height // 2] = np.where(bits, 235, 20)[None, :, None]
    rows = np.arange(height // 2, height)[:, None]
    image[height // 2 :] = (128 + 60 * np.sin((columns[None] + 3 * number) / 5 + rows / 7))[..., None]
    image[-height // 4 :, : width // 6] = (230, 20, 20)
    return image


def numbers(frames: np.ndarray) -> list[int]:
    """Frame number of each (H, W, 3) picture."""
    height, width = frames.shape[1:3]
    bars = frames[:, height // 8 : height // 2 - height // 8].mean(axis=(1, 3))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    return [int(sum(1 << bit for bit in range(BITS) if row[centres[bit]] > 128)) for row in bars]


def write(
    path: Path,
    frames: int = 40,
    *,
    size: tuple[int, int] = (96, 64),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    gop: int = 12,
    b_frames: int = 2,
    rate: int = 25,
    times: list[int] | None = None,
    audio: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """A video of ``picture(0..frames-1)``. ``times`` are in milliseconds and make the frame rate vary."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as out:
        stream = out.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames, stream.codec_context.thread_count = gop, b_frames, 1
        x264 = {"crf": "12", "preset": "veryfast", "sc_threshold": "0", "bf": str(b_frames)} if codec == "libx264" else {}
        stream.options = {**x264, **(options or {})}
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        sound = out.add_stream("aac", rate=16000) if audio else None
        for number in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, rate) if times is None else Fraction(1, 1000)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        if sound is not None:
            out.mux([*sound.encode(_silence(16000)), *sound.encode(None)])
    return path


def write_audio(path: Path) -> Path:
    with av.open(str(path), "w") as out:
        sound = out.add_stream("aac", rate=16000)
        out.mux([*sound.encode(_silence(4096)), *sound.encode(None)])
    return path


def _silence(samples: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.zeros((1, samples), dtype=np.float32), format="fltp", layout="mono")
    frame.sample_rate = 16000
    return frame


def patch_rotation(path: Path, degrees: int) -> Path:
    """Turn an mp4 by its display matrix: the 3x3 matrix (16.16 and 2.30 fixed point) in the track header box."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    cosine, sine = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    width = int.from_bytes(data[place + 36 : place + 40], "big")
    height = int.from_bytes(data[place + 40 : place + 44], "big")
    shift = {0: (0, 0), 90: (height, 0), 180: (width, height), 270: (0, width)}[degrees]
    one = 1 << 16
    values = [cosine * one, sine * one, 0, -sine * one, cosine * one, 0, shift[0], shift[1], 1 << 30]
    data[place : place + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in values)
    path.write_bytes(bytes(data))
    return path


def write_fast_start(path: Path, frames: int) -> Path:
    """As ``write``, with the index of the mp4 in front."""
    whole = write(path.with_name(f"whole_{path.name}"), frames)
    with av.open(str(whole)) as source, av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                out.mux(packet)
    return path


def write_image(path: Path, image: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    jpeg = path.suffix == ".jpg"
    codec = av.CodecContext.create("mjpeg" if jpeg else "png", "w")
    codec.height, codec.width = image.shape[:2]
    codec.pix_fmt, codec.time_base = "yuvj444p" if jpeg else "rgb24", Fraction(1, 25)
    if jpeg:
        codec.color_range = 2
    frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=codec.pix_fmt)
    path.write_bytes(b"".join(bytes(packet) for packet in [*codec.encode(frame), *codec.encode(None)]))
    return path


def damage(path: Path, packet: int) -> Path:
    """Overwrite one packet of the file with zeros."""
    with av.open(str(path)) as container:
        places = [(found.pos, found.size) for found in container.demux(video=0) if found.size]
    data = bytearray(path.read_bytes())
    start, size = places[packet]
    data[start : start + size] = b"\0" * size
    path.write_bytes(bytes(data))
    return path


def patch_edit(path: Path, *, skip: int, rate: int = 25) -> Path:
    """Make the (only) edit of an mp4 begin ``skip`` frames later."""
    data = bytearray(path.read_bytes())
    header = data.index(b"mdhd") + 4
    scale = int.from_bytes(data[header + 12 : header + 16], "big")
    place = data.index(b"elst") + 4 + 8  # after version, flags and count: duration, media time
    begin = int.from_bytes(data[place + 4 : place + 8], "big") + skip * scale // rate
    data[place + 4 : place + 8] = begin.to_bytes(4, "big")
    path.write_bytes(bytes(data))
    return path
