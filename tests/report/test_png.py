"""The PNG writer against its reader, the format's checksums, and real files."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from suite3d.report.png import encode_png, read_png, write_png

DATA = Path(os.environ.get("SUITE3D_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 7, 3), (33, 64), (2, 1)])
def test_round_trip(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    write_png(tmp_path / "a.png", image)
    assert (read_png(tmp_path / "a.png") == image).all()
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_bytes_by_hand() -> None:
    """A 2 x 1 picture decoded without our reader: filter Sub, then red and red plus one."""
    data = encode_png(np.array([[[200, 10, 0], [201, 10, 255]]], dtype=np.uint8))
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and data[12:16] == b"IHDR"
    assert struct.unpack(">IIBBBBB", data[16:29]) == (2, 1, 8, 2, 0, 0, 0)
    assert struct.unpack(">I", data[29:33])[0] == zlib.crc32(data[12:29])
    size = struct.unpack(">I", data[33:37])[0]
    assert zlib.decompress(data[41 : 41 + size]) == bytes([1, 200, 10, 0, 1, 0, 255])


def test_every_filter_is_undone(tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    rows, step = [], 3
    flat = image.reshape(5, -1).astype(int)
    for y in range(5):
        up = flat[y - 1] if y else np.zeros(12, dtype=int)
        row = []
        for x in range(12):
            a, b, c = (flat[y, x - step] if x >= step else 0), up[x], (up[x - step] if x >= step else 0)
            nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
            row.append((flat[y, x] - (0, a, b, (a + b) // 2, nearest)[y]) % 256)
        rows.append(bytes([y, *row]))
    plain = encode_png(image)
    packed = zlib.compress(b"".join(rows))
    chunk = struct.pack(">I", len(packed)) + b"IDAT" + packed + struct.pack(">I", zlib.crc32(b"IDAT" + packed))
    (tmp_path / "f.png").write_bytes(plain[:33] + chunk + plain[-12:])
    assert (read_png(tmp_path / "f.png") == image).all()


@pytest.mark.parametrize("damage", [lambda d: b"no" + d, lambda d: d[:40], lambda d: d[:50] + bytes([d[50] ^ 1]) + d[51:], lambda d: b""])
def test_damaged_files_are_refused(tmp_path: Path, damage) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "bad.png").write_bytes(damage(encode_png(np.zeros((9, 9, 3), dtype=np.uint8))))
    with pytest.raises(ValueError, match="bad.png"):
        read_png(tmp_path / "bad.png")


def test_wrong_arrays_are_refused() -> None:
    for image in (np.zeros((2, 2, 4), np.uint8), np.zeros((2, 2, 3), np.float32), np.zeros((0, 2, 3), np.uint8)):
        with pytest.raises(ValueError, match="uint8 image"):
            encode_png(image)  # type: ignore[arg-type]


def test_a_real_picture(tmp_path: Path) -> None:
    files = sorted((DATA / "kitti_object" / "training" / "image_2").glob("*.png"))
    if not files:
        pytest.skip(f"no KITTI pictures under {DATA}")
    image = read_png(files[0])
    assert image.ndim == 3 and image.shape[1] > 1200 and 40 < image.mean() < 200
    write_png(tmp_path / "copy.png", image)
    assert (read_png(tmp_path / "copy.png") == image).all()
