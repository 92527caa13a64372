"""A re-encoded copy holds the same frames at the same times, reads fast, and is made only once."""

from __future__ import annotations

import json

import numpy as np
import pytest

from suite3d.cli import main
from suite3d.config import ConfigError
from suite3d.video.data import transcode as module
from suite3d.video.data.decoders.pyav import PyavReader
from suite3d.video.data.lists import read_list
from suite3d.video.data.reader import probe_video, read_frames
from suite3d.video.data.transcode import TranscodeConfig, plan, scaled_size, transcode, transcode_file
from tests.video.data import clips


def test_frames_times_and_key_frames(tmp_path):
    times = [0, 40, 80, 90, 100, 300, 310, 500] + [540 + 40 * number for number in range(40)]
    source = clips.write(tmp_path / "s.mkv", 48, gop=250, times=times, size=(160, 96))
    done = transcode_file(source, tmp_path / "t.mp4", TranscodeConfig(short_side=64, gop=16, crf=12))
    assert (done.state, done.frames) == ("written", 48)
    info, before = probe_video(done.target), probe_video(source)
    assert (info.width, info.height, info.codec, info.key_frames) == (106, 64, "h264", 3)
    assert info.variable_frame_rate and info.duration == pytest.approx(before.duration, abs=0.05)
    copy, original = PyavReader(done.target), PyavReader(source)
    assert np.allclose(copy.index.pts * float(copy.index.time_base), original.index.pts * float(original.index.time_base), atol=1e-3)
    assert copy.index.closed_groups and set(np.diff(np.unique(copy.index.start))) == {16}
    assert clips.numbers(read_frames(done.target, range(48))) == list(range(48))
    assert not list(tmp_path.glob(".*.tmp"))


def test_colours_survive(tmp_path):
    """Ten bits, full range or BT.709 go in, the same RGB comes out, up to coding loss."""
    for name, options in {
        "ten.mp4": {"pixels": "yuv420p10le"},
        "full.mp4": {"pixels": "yuvj420p"},
        "bt709.mp4": {"options": {"x264-params": "colormatrix=bt709"}},
    }.items():
        source = clips.write(tmp_path / name, 4, **options)
        done = transcode_file(source, tmp_path / f"t_{name}", TranscodeConfig(crf=4))
        wrong = read_frames(done.target, [2]).astype(int) - read_frames(source, [2]).astype(int)
        assert np.abs(wrong.mean(axis=(0, 1, 2))).max() < 4, name
        assert np.abs(wrong[:, -12:, :12].mean(axis=(0, 1, 2))).max() < 6, name  # the red corner: another matrix is 15 off, another range more


def test_turned_videos_come_out_upright(tmp_path):
    source = clips.patch_rotation(clips.write(tmp_path / "s.mp4", 5), 90)
    done = transcode_file(source, tmp_path / "t.mp4", TranscodeConfig(crf=8))
    info = probe_video(done.target)
    assert (info.width, info.height, info.rotation) == (64, 96, 0)
    assert np.abs(read_frames(done.target, [3]).astype(int) - read_frames(source, [3])).mean() < 6


def test_folder_failures_resume_and_labels(tmp_path, capsys):
    source, out = tmp_path / "src", tmp_path / "out"
    clips.write(source / "run/a b.avi", 10, codec="mpeg4")
    clips.write(source / "jump/b.mp4", 10)
    clips.write(source / "jump/b.mkv", 10)  # same stem: must not overwrite
    (source / "jump/broken.mp4").write_bytes(b"x" * 100)
    (source / "list.csv").write_text("run/a b.avi 0\njump/b.mp4 1\njump/broken.mp4 1\n")
    assert main(["data", "transcode", str(source), str(out), "workers=2", "short_side=48"]) == 1
    said = capsys.readouterr().out
    assert "3 written and verified, 0 done before, 1 failed" in said and "broken.mp4: cannot be read as video" in said
    assert [json.loads(line)["path"] for line in (out / "failed.jsonl").read_text().splitlines()] == ["jump/broken.mp4"]
    written = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.mp4") if not path.name.startswith("."))
    assert written == ["jump/b.mkv.mp4", "jump/b.mp4.mp4", "run/a b.mp4"]
    found = read_list(out, list_file=out / "list.csv")
    assert [(item.path.name, item.label) for item in found.items] == [("a b.mp4", 0), ("b.mp4.mp4", 1)] and len(found.missing) == 1
    before = (out / "run/a b.mp4").stat().st_mtime_ns
    (source / "jump/broken.mp4").unlink()
    assert transcode(source, out, ["workers=1", "short_side=48"]) == 0
    assert "0 written and verified, 3 done before, 0 failed" in capsys.readouterr().out
    assert (out / "run/a b.mp4").stat().st_mtime_ns == before
    assert transcode(source, out, ["workers=1", "short_side=32"]) == 0  # other settings: done anew
    assert "3 written and verified" in capsys.readouterr().out


def test_a_copy_that_lost_frames_is_not_kept(tmp_path, monkeypatch):
    source = clips.write(tmp_path / "s.mp4", 10)
    encode = module._encode
    monkeypatch.setattr(module, "_encode", lambda s, temporary, config: encode(clips.write(tmp_path / "fewer.mp4", 9), temporary, config))
    done = transcode_file(source, tmp_path / "t.mp4", TranscodeConfig())
    assert done.state == "failed" and "the copy has 9 frames, the source 10" in done.reason
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fewer.mp4", "s.mp4"]


def test_wrong_calls(tmp_path):
    clips.write(tmp_path / "s/v.mp4", 2)
    for source, out, overrides in (("none", "o", []), ("s", "s", []), ("s", "s/o", []), ("s", "o", ["gop=0"]), ("s", "o", ["shortside=2"])):
        with pytest.raises(ConfigError):
            transcode(tmp_path / source, tmp_path / out, overrides)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no videos"):
        transcode(tmp_path / "empty", tmp_path / "o", [])


def test_sizes_and_names(tmp_path):
    assert scaled_size(1280, 720, 256) == (456, 256) and scaled_size(720, 1280, 256) == (256, 456)
    assert scaled_size(321, 241, 256) == (320, 240)  # never enlarged, always even
    clips.write(tmp_path / "v.mp4", 2)
    assert plan(tmp_path, tmp_path / "o") == [(tmp_path / "v.mp4", tmp_path / "o/v.mp4")]
