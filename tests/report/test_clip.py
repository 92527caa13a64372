"""Strips and animations: every frame where it should be, and an APNG that is one."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from suite3d.report.clip import draw_animation, draw_strip
from suite3d.report.png import encode_animation, encode_png, read_png, write_png


def chunks(data):
    at, found = 8, []
    while at < len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        payload = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + payload)
        found.append((kind, payload))
        at += 12 + size
    return found


def chunk(kind, payload):
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


@pytest.mark.parametrize("shape", [(4, 5, 7, 3), (1, 3, 2, 3), (3, 4, 6)])
def test_an_animation_is_a_png_whose_frames_are_the_frames(shape, tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    data = encode_animation(frames, fps=12.5)
    parts = chunks(data)
    kinds = [kind for kind, _ in parts]
    assert kinds == [b"IHDR", b"acTL", b"fcTL", b"IDAT"] + [b"fcTL", b"fdAT"] * (len(frames) - 1) + [b"IEND"]
    assert struct.unpack(">II", dict(parts)[b"acTL"]) == (len(frames), 0)
    (tmp_path / "a.png").write_bytes(data)
    assert (read_png(tmp_path / "a.png") == frames[0]).all(), "a viewer without animation shows the first frame"
    sequence = 0
    for kind, payload in parts:
        if kind == b"fcTL":
            assert struct.unpack(">IIIIIHHBB", payload) == (sequence, shape[2], shape[1], 0, 0, 80, 1000, 0, 0)
            sequence += 1
        elif kind == b"fdAT":
            assert struct.unpack(">I", payload[:4])[0] == sequence
            sequence += 1
    header = chunk(*parts[0])
    for number, payload in enumerate(payload for kind, payload in parts if kind == b"fdAT"):
        still = data[:8] + header + chunk(b"IDAT", payload[4:]) + chunk(b"IEND", b"")
        (tmp_path / "still.png").write_bytes(still)
        assert (read_png(tmp_path / "still.png") == frames[number + 1]).all()


def test_write_png_animates_what_has_time(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    write_png(tmp_path / "a.png", frames)
    write_png(tmp_path / "b.png", frames[0])
    assert (tmp_path / "a.png").read_bytes() == encode_animation(frames)
    assert (tmp_path / "b.png").read_bytes() == encode_png(frames[0])


@pytest.mark.parametrize(
    ("frames", "fps"), [(np.zeros((0, 4, 4, 3), np.uint8), 10), (np.zeros((2, 4, 4, 4), np.uint8), 10), (np.zeros((1, 2, 2), np.uint8), 0)]
)
def test_what_is_no_animation_is_refused(frames, fps):
    with pytest.raises(ValueError, match="encode_animation expected"):
        encode_animation(frames, fps=fps)


def clips(frames=4, side=48):
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (frames, side, side, 3), dtype=np.uint8) for _ in range(2)]


def test_a_strip_shows_each_frame_once_and_in_order():
    rows = clips()
    picture = draw_strip(rows, ("first", "second"), title="name")
    big = 2  # 48 pixels are enlarged to 96
    for row, clip in enumerate(rows):
        top = 15 + row * (96 + 13 + 2) + 13
        for column, frame in enumerate(clip):
            left = column * (96 + 2)
            assert (picture[top : top + 96 : big, left : left + 96 : big] == frame).all()


def test_a_long_clip_is_thinned_to_sixteen_frames_from_first_to_last():
    rows = [np.broadcast_to(np.arange(61, dtype=np.uint8)[:, None, None, None] * 4, (61, 96, 96, 3))]
    picture = draw_strip(rows, ("a",))
    levels = picture[60, 40 :: 96 + 2, 0]
    assert len(levels) == 16 and levels[0] == 0 and levels[-1] == 240
    assert (np.diff(levels.astype(int)) == 16).all()


def test_an_animation_shows_the_clips_side_by_side():
    rows = clips(side=100)
    moving = draw_animation(rows, ("a", "b"))
    assert moving.shape == (4, 113, 202, 3)
    for column, clip in enumerate(rows):
        assert (moving[:, 13:, column * 102 : column * 102 + 100] == clip).all()


def test_clips_that_do_not_fit_together_are_refused():
    first, second = clips()
    for rows, labels in (([first, second[:2]], "ab"), ([first], "ab"), ([first[..., 0]], "a"), ([first.astype(float)], "a")):
        with pytest.raises(ValueError, match="clips of one shape"):
            draw_strip(rows, list(labels))
