"""PNG files without an imaging library (PNG specification, W3C 2003: 8-bit grey or RGB, filters 0-4, no interlace)."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from suite3d.engine.files import write_atomically

_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _chunk(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def encode_png(image: NDArray[np.uint8], *, level: int = 6) -> bytes:
    """PNG bytes of an image.

    Args:
        image: ``(H, W, 3)`` RGB or ``(H, W)`` grey, uint8.
        level: zlib compression, 0-9.

    Raises:
        ValueError: another shape or dtype, or an empty image.
    """
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3) or 0 in image.shape:
        raise ValueError(f"encode_png expected a non-empty (H, W, 3) or (H, W) uint8 image, got {image.shape} {image.dtype}")
    height, width = image.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if image.ndim == 3 else 0, 0, 0, 0)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", _pixel_data(image, level)) + _chunk(b"IEND", b"")


def _pixel_data(image: NDArray[np.uint8], level: int) -> bytes:
    """The compressed rows of an image, each with the filter "Sub": every byte minus the same channel of the pixel before."""
    flat = np.ascontiguousarray(image).reshape(image.shape[0], -1)
    step = 3 if image.ndim == 3 else 1
    rows = np.empty((len(flat), 1 + flat.shape[1]), dtype=np.uint8)
    rows[:, 0] = 1
    rows[:, 1 : 1 + step] = flat[:, :step]
    rows[:, 1 + step :] = flat[:, step:] - flat[:, :-step]
    return zlib.compress(rows.tobytes(), level)


def encode_animation(frames: NDArray[np.uint8], *, fps: float = 10.0, level: int = 6) -> bytes:
    """Bytes of an animated PNG that plays for ever; a viewer that knows no animation shows the first frame.

    Args:
        frames: ``(T, H, W, 3)`` RGB or ``(T, H, W)`` grey, uint8.
        fps: frames a second, above 0 and at most 1000.

    Raises:
        ValueError: another shape or dtype, or no frame.

    Source: APNG specification (W3C PNG third edition, 2023): acTL, then fcTL + IDAT of the first frame and fcTL + fdAT of the others.
    """
    if frames.dtype != np.uint8 or frames.ndim not in (3, 4) or (frames.ndim == 4 and frames.shape[3] != 3) or 0 in frames.shape:
        raise ValueError(f"encode_animation expected (T, H, W, 3) or (T, H, W) uint8 frames, got {frames.shape} {frames.dtype}")
    if not 0 < fps <= 1000:
        raise ValueError(f"encode_animation expected 0 < fps <= 1000, got {fps}")
    height, width = frames.shape[1:3]
    parts = [_SIGNATURE, _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2 if frames.ndim == 4 else 0, 0, 0, 0))]
    parts.append(_chunk(b"acTL", struct.pack(">II", len(frames), 0)))
    sequence = 0
    for number, frame in enumerate(frames):
        parts.append(_chunk(b"fcTL", struct.pack(">IIIIIHHBB", sequence, width, height, 0, 0, round(1000 / fps), 1000, 0, 0)))
        sequence += 1
        data = _pixel_data(frame, level)
        if number:
            data = struct.pack(">I", sequence) + data
            sequence += 1
        parts.append(_chunk(b"fdAT" if number else b"IDAT", data))
    return b"".join([*parts, _chunk(b"IEND", b"")])


def write_png(path: str | Path, image: NDArray[np.uint8], *, level: int = 6) -> None:
    """Write an image, or ``(T, H, W, 3)`` frames as an animation, atomically (temporary name, then rename). See :func:`encode_png`."""
    content = encode_animation(image, level=level) if image.ndim == 4 else encode_png(image, level=level)
    write_atomically(Path(path), lambda temporary: temporary.write_bytes(content))


def _unfilter(kind: int, row: NDArray[np.uint8], above: NDArray[np.uint8], step: int) -> NDArray[np.uint8]:
    if kind == 0:
        return row
    if kind == 1:
        return np.cumsum(row.reshape(-1, step), axis=0, dtype=np.uint8).reshape(-1)
    if kind == 2:
        return row + above
    if kind not in (3, 4):
        raise ValueError(f"PNG filter types are 0 to 4, got {kind}")
    out = [int(value) for value in row]
    up = [int(value) for value in above]
    for i, value in enumerate(out):
        a, b, c = (out[i - step], up[i], up[i - step]) if i >= step else (0, up[i], 0)
        if kind == 3:
            out[i] = (value + (a + b) // 2) & 255
        else:
            guess = a + b - c
            pa, pb, pc = abs(guess - a), abs(guess - b), abs(guess - c)
            out[i] = (value + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
    return np.array(out, dtype=np.uint8)


def read_png(path: str | Path) -> NDArray[np.uint8]:
    """``(H, W, 3)`` or ``(H, W)`` uint8 image of an 8-bit, non-interlaced grey, RGB or RGBA (alpha dropped) file.

    Raises:
        ValueError: not a PNG, damaged, or a variant that is not supported.
    """
    data = Path(path).read_bytes()
    if not data.startswith(_SIGNATURE):
        raise ValueError(f"{path}: expected a PNG signature, got {data[:8]!r}")
    at, packed, header = 8, b"", None
    while at + 12 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        payload = data[at + 8 : at + 8 + size]
        if len(payload) != size or struct.unpack(">I", data[at + 8 + size : at + 12 + size].ljust(4, b"\0"))[0] != zlib.crc32(kind + payload):
            raise ValueError(f"{path}: damaged or truncated {kind!r} chunk")
        if kind == b"IHDR":
            header = struct.unpack(">IIBBBBB", payload)
        packed += payload if kind == b"IDAT" else b""
        at += 12 + size
        if kind == b"IEND":
            break
    if header is None or header[2] != 8 or header[3] not in (0, 2, 6) or header[6] != 0:
        raise ValueError(f"{path}: expected an 8-bit grey, RGB or RGBA image without interlace, got header {header}")
    width, height, step = header[0], header[1], {0: 1, 2: 3, 6: 4}[header[3]]
    try:
        raw = np.frombuffer(zlib.decompress(packed), dtype=np.uint8)
    except zlib.error as error:
        raise ValueError(f"{path}: damaged image data ({error})") from error
    if raw.size != height * (1 + width * step):
        raise ValueError(f"{path}: expected {height * (1 + width * step)} bytes of pixels, got {raw.size}")
    rows = raw.reshape(height, -1)
    image = np.zeros((height, width * step), dtype=np.uint8)
    for y in range(height):
        image[y] = _unfilter(int(rows[y, 0]), rows[y, 1:], image[y - 1] if y else np.zeros_like(image[0]), step)
    shaped = image.reshape(height, width, step)
    return shaped[..., 0].copy() if step == 1 else shaped[..., :3].copy()
