"""Frames are exact: each picture carries its number, so a wrong one cannot pass."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import tarfile
from pathlib import Path

import av
import numpy as np
import pytest

from suite3d.source import BadSample
from suite3d.video.data.decoders.cache import _OPEN, CAPACITY
from suite3d.video.data.decoders.index import build_index, quick_index
from suite3d.video.data.decoders.pyav import PyavReader
from suite3d.video.data.reader import close_readers, probe_video, read_frames
from tests.video.data import clips

VFR_TIMES = [0, 40, 80, 90, 100, 300, 310, 500, 540, 541, 900, 940]
STREAMS = {
    "cfr.mp4": {},
    "vfr.mp4": {"frames": len(VFR_TIMES), "times": VFR_TIMES},
    "gop250.mp4": {"frames": 60, "gop": 250, "b_frames": 3},
    "open_gop.mp4": {"options": {"x264-params": "open-gop=1:bframes=3:keyint=12:min-keyint=4"}},
    "intra_refresh.mp4": {"options": {"x264-params": "intra-refresh=1:keyint=12"}},
    "intra.mp4": {"frames": 20, "gop": 1, "b_frames": 0},
    "ten_bit.mp4": {"pixels": "yuv420p10le"},
    "odd.mp4": {"size": (99, 67), "pixels": "yuv444p"},
    "odd.webm": {"size": (99, 67), "codec": "libvpx-vp9", "options": {"deadline": "realtime", "cpu-used": "8"}},
    "hidden.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "4"}},
    "hevc.mp4": {"codec": "libx265", "frames": 20, "options": {"x265-params": "log-level=none:pools=1:bframes=3"}},
    "matroska.mkv": {},
    "transport.ts": {},
    "no_times.avi": {},
    "xvid.avi": {"codec": "mpeg4"},
    "one.mp4": {"frames": 1},
}
BACK_ENDS = ["pyav", "decord", "torchcodec"]


def make(folder: Path, name: str) -> tuple[Path, int]:
    options = STREAMS[name]
    if options.get("codec", "libx264") not in av.codecs_available:
        pytest.skip(f"this PyAV has no {options['codec']} encoder")
    return clips.write(folder / name, **{"frames": 40, **options}), options.get("frames", 40)


def loads(reader: str) -> None:
    if reader == "torchcodec":
        pytest.importorskip("torchcodec", reason="torchcodec is not installed", exc_type=ImportError)
        try:
            import torchcodec  # noqa: F401
        except (OSError, RuntimeError) as error:
            pytest.skip(f"torchcodec does not load: {error}")
    elif importlib.util.find_spec("av" if reader == "pyav" else reader) is None:
        pytest.skip(f"{reader} is not installed")


@pytest.fixture(autouse=True)
def closed():
    yield
    close_readers()


@pytest.mark.parametrize("name", STREAMS)
def test_every_frame_is_the_one_asked_for(tmp_path, name):
    path, count = make(tmp_path, name)
    assert probe_video(path).frames == count
    everything = read_frames(path, range(count))
    assert clips.numbers(everything) == list(range(count))
    rng = np.random.default_rng(0)
    for _ in range(12):
        wanted = rng.integers(0, count, rng.integers(1, 7))  # any order, with repeats
        assert np.array_equal(read_frames(path, wanted), everything[wanted])
    for number in rng.permutation(count)[:8]:  # each from a fresh reader, so that nothing is left over from the read before
        reader = PyavReader(path)
        assert np.array_equal(reader.read(np.array([number]))[0], everything[number])
        reader.close()


@pytest.mark.parametrize("reader", BACK_ENDS[1:])
@pytest.mark.parametrize("name", STREAMS)
def test_back_ends_agree_to_the_bit(tmp_path, name, reader):
    loads(reader)
    path, count = make(tmp_path, name)
    wanted = [count - 1, 0, count // 2, count // 2, count // 3]
    assert probe_video(path, reader=reader) == probe_video(path)
    assert np.array_equal(read_frames(path, wanted, reader=reader), read_frames(path, wanted))


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("reader", BACK_ENDS)
def test_display_matrix_is_applied(tmp_path, degrees, reader):
    loads(reader)
    path = clips.patch_rotation(clips.write(tmp_path / "turned.mp4", 4), degrees)
    info, frames = probe_video(path, reader=reader), read_frames(path, [2, 1], reader=reader)
    assert (info.width, info.height) == ((96, 64) if degrees == 180 else (64, 96)) == frames.shape[2:0:-1]
    upright = np.rot90(frames, degrees // 90, axes=(1, 2))  # the matrix turns clockwise, this turns back
    assert info.rotation == 360 - degrees
    assert clips.numbers(upright) == [2, 1]
    assert (upright[:, -8:, :8, 0] > upright[:, -8:, :8, 2] + 60).all()  # the red corner


def test_probe_measures_time(tmp_path):
    steady = probe_video(make(tmp_path, "cfr.mp4")[0])
    assert steady.fps == pytest.approx(25) and steady.duration == pytest.approx(1.6) and not steady.variable_frame_rate
    varying = probe_video(make(tmp_path, "vfr.mp4")[0])
    assert varying.variable_frame_rate and varying.fps == pytest.approx(11 / 0.94)
    matroska = probe_video(clips.write(tmp_path / "ms.mkv", 30, rate=30))  # whole milliseconds: 33, 33, 34
    assert matroska.fps == pytest.approx(30, rel=0.01) and not matroska.variable_frame_rate


def test_sparse_reads_decode_little(tmp_path, monkeypatch):
    """Only the key frame groups that hold wanted frames are decoded, and only up to the last wanted one."""
    path = clips.write(tmp_path / "dense.mp4", 120, gop=10, b_frames=0)
    reader = PyavReader(path)
    taken = []
    take = reader._take
    monkeypatch.setattr(reader, "_take", lambda: taken.append(1) or take())
    reader.read(np.array([0, 50, 101]))
    assert len(taken) <= 1 + 1 + 2 + 40  # 40: passed over undecoded where that is cheaper than a seek
    reader.close()


BROKEN = {
    "zero.mp4": (b"", "empty"),
    "text.mp4": (b"this is no video\n" * 50, "cannot be read"),
}


@pytest.mark.parametrize("reader", BACK_ENDS)
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_video_is_a_bad_sample(tmp_path, name, reader):
    loads(reader)
    path = tmp_path / name
    path.write_bytes(BROKEN[name][0])
    for call in (lambda: read_frames(path, [0], reader=reader), lambda: probe_video(path, reader=reader)):
        with pytest.raises(BadSample, match=BROKEN[name][1]) as bad:
            call()
        assert bad.value.path == str(path)


def test_missing_audio_only_and_short(tmp_path):
    with pytest.raises(BadSample, match="missing"):
        read_frames(tmp_path / "gone.mp4", [0])
    with pytest.raises(BadSample, match="audio only"):
        read_frames(clips.write_audio(tmp_path / "sound.mp4"), [0])
    path = clips.write(tmp_path / "short.mp4", 5, audio=True)
    with pytest.raises(BadSample, match="too short: frame 5 is wanted, it holds 5"):
        read_frames(path, [0, 5])
    for indices in ([], [-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match="whole numbers"):
            read_frames(path, indices)
    with pytest.raises(ValueError, match="reader: expected"):
        read_frames(path, [0], reader="opencv")


def test_truncated_files_are_refused(tmp_path):
    whole = clips.write(tmp_path / "whole.mp4", 60).read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])  # the index at the end is gone
    with pytest.raises(BadSample):
        read_frames(cut, [0])
    fast = clips.write_fast_start(tmp_path / "fast.mp4", 60)
    data = fast.read_bytes()
    fast.write_bytes(data[: int(len(data) * 0.7)])  # the index at the front promises what is not there
    with pytest.raises(BadSample, match="truncated"):
        read_frames(fast, [0])


def test_damage_inside_is_found_where_it_is(tmp_path):
    path = clips.damage(clips.write(tmp_path / "hole.mp4", 40, gop=10, b_frames=0), 20)  # the key frame of frames 20 to 29
    assert clips.numbers(read_frames(path, [3, 19, 35])) == [3, 19, 35]
    with pytest.raises(BadSample, match="damaged"):
        read_frames(path, [20])


def test_frame_folders_stills_and_shards(tmp_path):
    folder = tmp_path / "frames"
    for number in range(12):
        clips.write_image(folder / f"img_{number + 1}.png", clips.picture(number))  # img_10 comes after img_9
        clips.write_image(folder / f"flow_x_{number + 1}.png", clips.picture(0))
    assert clips.numbers(read_frames(folder, [11, 0, 9, 9])) == [11, 0, 9, 9]
    assert probe_video(folder).frames == 12 and probe_video(folder).fps == 0
    still = folder / "img_4.png"
    assert np.array_equal(read_frames(still, [0, 7, 7]), np.repeat(clips.picture(3)[None], 3, axis=0))
    jpeg = clips.write_image(tmp_path / "photo.jpg", clips.picture(5))
    assert clips.numbers(read_frames(jpeg, [0])) == [5]
    video = clips.write(tmp_path / "v.mp4", 10)
    with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
        tar.add(video, "deep/v.mp4")
        tar.add(still, "s.png")
    member = tmp_path / "shard-000.tar" / "deep" / "v.mp4"
    assert np.array_equal(read_frames(member, [9, 2]), read_frames(video, [9, 2]))
    assert probe_video(member) == probe_video(video)
    assert np.array_equal(read_frames(tmp_path / "shard-000.tar" / "s.png", [0])[0], clips.picture(3))
    with tarfile.open(tmp_path / "shard-001.tar", "w") as tar:
        (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:-400])
        tar.add(tmp_path / "cut.mp4", "cut.mp4")
    with pytest.raises(BadSample, match="truncated"):
        read_frames(tmp_path / "shard-001.tar" / "cut.mp4", [0])
    with pytest.raises(BadSample, match="no such file in the archive"):
        read_frames(tmp_path / "shard-000.tar" / "gone.mp4", [0])
    (folder / "img_5.png").write_bytes(still.read_bytes()[:60])
    with pytest.raises(BadSample, match="img_5.png"):
        read_frames(folder, [4])


def test_few_files_stay_open_and_changed_files_are_read_anew(tmp_path):
    paths = [clips.write(tmp_path / f"{number}.mp4", 3) for number in range(CAPACITY + 3)]
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").is_dir() else 0
    for path in paths:
        read_frames(path, [0])
    assert len(_OPEN.readers) == CAPACITY
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= CAPACITY
    clips.write(paths[-1], 8)
    os.utime(paths[-1], ns=(1, 1))
    assert clips.numbers(read_frames(paths[-1], [7])) == [7]


def _read_in_child(path, wanted, reader, queue):
    queue.put(clips.numbers(read_frames(path, wanted, reader=reader)))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
@pytest.mark.parametrize("reader", BACK_ENDS[:2])
def test_forked_workers_open_their_own(tmp_path, reader):
    """Parent and children read the same open file at once; with one shared file position they would get each other's packets."""
    loads(reader)
    path = clips.write(tmp_path / "v.mp4", 200, gop=5)
    read_frames(path, [0], reader=reader)
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    plans = [list(np.random.default_rng(seed).integers(0, 200, 40)) for seed in range(2)]
    children = [context.Process(target=_read_in_child, args=(path, plan, reader, queue)) for plan in plans]
    for child in children:
        child.start()
    for number in range(0, 200, 7):
        assert clips.numbers(read_frames(path, [number], reader=reader)) == [number]
    got = [queue.get(timeout=60) for _ in children]
    for child in children:
        child.join(60)
    assert sorted(got) == sorted([int(number) for number in plan] for plan in plans)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc to measure resident memory")
def test_memory_stays_flat_over_thousands_of_opens(tmp_path):
    """1,300 opens; 10,000 are in benchmarks/video_data.py. A leak of one codec context (about 20 kB) an open would be 20 MB."""
    path = clips.write(tmp_path / "tiny.mp4", 3, size=(48, 32))

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def opens(count: int) -> None:
        for number in range(count):
            os.utime(path, ns=(number, number))  # another key each time: nothing comes from the cache
            read_frames(path, [0, 2])

    opens(300)
    before = resident()
    opens(1000)
    assert resident() - before < 4 * 2**20


REAL = sorted(path for path in clips.SHARED.rglob("*") if path.suffix in (".mp4", ".avi", ".mkv", ".webm", ".mov"))


@pytest.mark.skipif(not REAL, reason="needs ../shared/data/video")
@pytest.mark.parametrize("reader", BACK_ENDS[1:])
def test_back_ends_agree_on_real_files(reader):
    loads(reader)
    readable = 0
    for path in REAL:
        if path.stat().st_size > 1_000_000:
            continue
        try:
            count = probe_video(path).frames
            wanted = sorted({0, count // 3, count - 1})
            expected = read_frames(path, wanted)
        except BadSample:
            with pytest.raises(BadSample):
                read_frames(path, [0, 10_000], reader=reader)
            continue
        assert np.array_equal(read_frames(path, wanted, reader=reader), expected), path
        readable += 1
    assert readable >= 20


@pytest.mark.skipif(not REAL, reason="needs ../shared/data/video")
def test_real_streams_against_a_plain_walk():
    """An oracle without index, seeks or skipping: decode all with PyAV's defaults and pick."""
    rng = np.random.default_rng(3)
    for name in ("nasa_13013_rotated.mp4", "h264_10bits.mp4", "testsrc2_vp8.webm", "test_non_zero_start.mp4", "decord_unordered.mov"):
        path = clips.SHARED / "robustness" / name
        with av.open(str(path)) as container:
            frames = [frame.pts for frame in container.decode(container.streams.best("video"))]
        reader = PyavReader(path)
        assert reader.index.pts.tolist() == frames == sorted(frames)
        everything = reader.read(np.arange(len(frames)))
        for number in rng.permutation(len(frames))[:6]:
            assert np.array_equal(reader.read(np.array([number]))[0], everything[number])
        reader.close()
    assert probe_video(clips.SHARED / "robustness" / "nasa_13013.mp4").frames == 390  # the stream a player chooses, not the first


def both_indices(path: Path) -> tuple:
    with av.open(str(path), metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        quick = quick_index(container, stream, path)
        container.seek(0)
        return quick, build_index(container, stream, path)


def test_the_tables_of_an_mp4_say_what_its_packets_say(tmp_path):
    """The quick index against the slow one, on every MP4 and MOV there is; it must also be the one in use."""
    made = [make(tmp_path, name)[0] for name in STREAMS if name.endswith(".mp4")]
    made += [clips.write_fast_start(tmp_path / "front.mp4", 20), clips.write(tmp_path / "sound.mov", 20, audio=True)]
    used = 0
    for path in [*made, *(path for path in REAL if path.suffix in (".mp4", ".mov"))]:
        try:
            quick, slow = both_indices(path)
        except (BadSample, av.FFmpegError):
            continue
        if quick is not None:
            for field in ("pts", "packet", "start", "packet_pts"):
                assert np.array_equal(getattr(quick, field), getattr(slow, field)), (path, field)
            assert quick.time_base == slow.time_base
            used += 1
        else:
            assert path not in made, path
    assert used >= len(made) + (12 if REAL else 0)


@pytest.mark.parametrize("skip", [10, 13])
def test_hidden_samples_of_an_edit_list_are_no_frames(tmp_path, skip):
    """An edit list that begins at a later frame, a key frame or not: players show the rest, and so does the reader."""
    path = clips.patch_edit(clips.write(tmp_path / "edit.mp4", 40, gop=10, b_frames=0), skip=skip)
    quick, slow = both_indices(path)
    assert quick is None and len(slow) == 40 - skip
    assert clips.numbers(read_frames(path, range(40 - skip))) == list(range(skip, 40))
    assert clips.numbers(read_frames(path, [39 - skip, 3])) == [39, skip + 3]
